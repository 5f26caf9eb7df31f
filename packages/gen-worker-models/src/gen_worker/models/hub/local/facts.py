"""What the bytes of a checkpoint say of it: dtype, container, layout, class of the pipeline."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["FileFacts", "file_facts"]

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_JSON_BYTES = 1024 * 1024
_DTYPES = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint is, as far as its files tell."""

    dtype: str = ""
    file_layout: str = ""
    file_type: str = ""
    pipeline_class: str = ""


def file_facts(files: Sequence[tuple[str, str, int]], path_of: Callable[[str], str]) -> FileFacts:
    """Look at the files of a checkpoint; what cannot be told stays empty.

    Args:
        files: Path, BLAKE3 and size of each.
        path_of: Where the blob of a digest is.
    """
    blobs = {path: path_of(digest) for path, digest, _ in files}
    names = list(blobs)
    weights = [path for path in names if path.endswith((".safetensors", ".gguf"))]
    return FileFacts(
        dtype=_dtype(blobs[path] for path in weights if path.endswith(".safetensors")),
        file_layout=_layout(names, weights),
        file_type=_container(weights),
        pipeline_class=_pipeline_class(blobs.get("model_index.json")),
    )


def _container(weights: Sequence[str]) -> str:
    kinds = {path.rpartition(".")[2] for path in weights}
    return kinds.pop() if len(kinds) == 1 else ""


def _layout(names: Sequence[str], weights: Sequence[str]) -> str:
    if "model_index.json" in names:
        return "diffusers"
    if "config.json" in names and weights:
        return "transformers"
    return "singlefile" if len(weights) == 1 else ""


def _pipeline_class(path: str | None) -> str:
    index = _read_json(path) if path else None
    name = index.get("_class_name") if isinstance(index, dict) else None
    return name if isinstance(name, str) else ""


def _read_json(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(_MAX_JSON_BYTES))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _dtype(paths: Any) -> str:
    """Return the dtype that most bytes of the weights have."""
    bytes_by_dtype: Counter[str] = Counter()
    for path in paths:
        for dtype, count in _header_bytes(path).items():
            bytes_by_dtype[dtype] += count
    if not bytes_by_dtype:
        return ""
    name = bytes_by_dtype.most_common(1)[0][0]
    return _DTYPES.get(name, name.lower())


def _header_bytes(path: str) -> Mapping[str, int]:
    """Return how many bytes of each dtype the header of a safetensors file declares."""
    found: Counter[str] = Counter()
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER_BYTES:
                return found
            header = msgspec.json.decode(file.read(size), type=dict[str, Any])
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                found[str(tensor["dtype"])] += int(end) - int(start)
    except (OSError, struct.error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    except (KeyError, TypeError, ValueError):  # a header that is JSON, but none of safetensors
        return {}
    return found
