"""What the bytes of a checkpoint say of it: dtype, container, layout, class of the pipeline."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import WorkerError
from gen_worker.models.formats import read_header
from gen_worker.models.sources.facts import INDEX, class_named_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["FileFacts", "file_facts"]

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
        pipeline_class=_pipeline_class(blobs.get(INDEX)),
    )


def _container(weights: Sequence[str]) -> str:
    kinds = {path.rpartition(".")[2] for path in weights}
    return kinds.pop() if len(kinds) == 1 else ""


def _layout(names: Sequence[str], weights: Sequence[str]) -> str:
    if INDEX in names:
        return "diffusers"
    if "config.json" in names and weights:
        return "transformers"
    return "singlefile" if len(weights) == 1 else ""


def _pipeline_class(path: str | None) -> str:
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            return class_named_in(msgspec.json.decode(file.read(_MAX_JSON_BYTES)))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _dtype(paths: Iterable[str]) -> str:
    """Return the dtype that most bytes of the weights have."""
    size_by_dtype: Counter[str] = Counter()
    for path in paths:
        try:
            tensors = read_header(path).tensors.values()
        except (OSError, WorkerError):  # a damaged file tells nothing; whoever loads it is told
            continue
        for tensor in tensors:
            size_by_dtype[tensor.dtype] += tensor.size_bytes
    if not size_by_dtype:
        return ""
    name = size_by_dtype.most_common(1)[0][0]
    return _DTYPES.get(name, name.lower())
