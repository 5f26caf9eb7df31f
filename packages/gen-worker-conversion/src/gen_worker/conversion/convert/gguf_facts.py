"""What a GGUF file says of itself: architecture, type, the mix in it, and what of it is missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.types import file_type_label
from gen_worker.models.formats import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.formats import GgufHeader

__all__ = ["GgufFacts", "gguf_facts", "gguf_files"]

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_MOST_PARTS = 10_000


class GgufFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model in one GGUF file or in the parts of a split one."""

    name: str
    """`general.name`; empty without one."""
    kind: str
    """`general.type`, such as `model` or `adapter`."""
    architecture: str
    file_type: str
    """What most weights are said to be, such as `q4_k_m`; empty when nothing is said."""
    types: Mapping[str, int]
    """Tensors by type, such as `Q4_K`."""
    parts: int
    """Files that it was split into; 1 for a whole one."""
    missing_parts: tuple[str, ...]
    """Names of the files that are not here."""
    missing_tensors: int
    """Of those that the first part announces; known when no part is missing."""

    @property
    def is_complete(self) -> bool:
        return not self.missing_parts and not self.missing_tensors


def gguf_files(place: str) -> tuple[str, ...]:
    """Return the files of the GGUF model at a path, in their order; empty for other models.

    Args:
        place: A file, any part of a split one, or a folder with one such model.

    Raises:
        ConversionInputError: The folder has several.
    """
    if os.path.isfile(place):
        return tuple(_beside(place)) if place.lower().endswith(".gguf") else ()
    names = sorted(name for name in os.listdir(place) if name.lower().endswith(".gguf"))
    if any(name.lower().endswith(".safetensors") for name in os.listdir(place)):
        return ()
    models = dict.fromkeys(_stem(name) for name in names)
    if len(models) > 1:
        raise ConversionInputError(
            f"{place!r} has {len(models)} GGUF models, {names[0]!r} and others: name the file of "
            "one",
            file=place,
        )
    return tuple(os.path.join(place, name) for name in names)


def gguf_facts(files: Sequence[str]) -> GgufFacts | None:
    """Read the headers of a model's files; None without any.

    Raises:
        DamagedFileError: A file is damaged.
        OSError: It cannot be read.
    """
    if not files:
        return None
    headers = [read_gguf_header(path) for path in files]
    metadata = headers[0].metadata
    missing = _missing_parts(files, metadata)
    number = metadata.get("general.file_type")
    types = Counter(tensor.type_name for one in headers for tensor in one.tensors.values())
    return GgufFacts(
        name=_text(metadata.get("general.name")),
        kind=_text(metadata.get("general.type")) or "model",
        architecture=_text(metadata.get("general.architecture")) or "unknown",
        file_type=file_type_label(number) if isinstance(number, int) else "",
        types=dict(types.most_common()),
        parts=_parts(files, metadata),
        missing_parts=missing,
        missing_tensors=0 if missing else _missing_tensors(headers),
    )


def _beside(path: str) -> list[str]:
    """Return all parts that are here of the model that one file is of."""
    folder, name = os.path.split(path)
    if _PART.fullmatch(name) is None:
        return [path]
    here = [one for one in sorted(os.listdir(folder)) if one.lower().endswith(".gguf")]
    return [os.path.join(folder, one) for one in here if _stem(one) == _stem(name)]


def _stem(name: str) -> str:
    found = _PART.fullmatch(name)
    return f"{found['stem']}-of-{found['count']}" if found else name


def _parts(files: Sequence[str], metadata: Mapping[str, Any]) -> int:
    told = metadata.get("split.count")
    found = _PART.fullmatch(os.path.basename(files[0]))
    count = told if isinstance(told, int) else int(found["count"]) if found else 1
    return max(count, 1)


def _missing_parts(files: Sequence[str], metadata: Mapping[str, Any]) -> tuple[str, ...]:
    found = _PART.fullmatch(os.path.basename(files[0]))
    count = _parts(files, metadata)
    if found is None or not 1 < count <= _MOST_PARTS:
        return ()
    here = {os.path.basename(path) for path in files}
    names = (f"{found['stem']}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count))
    return tuple(name for name in names if name not in here)


def _missing_tensors(headers: Sequence[GgufHeader]) -> int:
    told = headers[0].metadata.get("split.tensors.count")
    here = sum(len(header.tensors) for header in headers)
    return max(told - here, 0) if isinstance(told, int) else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
