"""What the header of a GGUF file says, in the words of the format."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.types import file_type_label
from gen_worker.models.formats import DamagedFileError, read_gguf_header
from gen_worker.models.formats.gguf import GgufArray
from gen_worker.models.formats.gguf_types import ARRAY, SCALARS, STRING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GgufHeaderFacts", "parse_gguf_header"]

_CODES = {
    "wrong_format": "gguf_invalid_magic",
    "truncated": "gguf_truncated",
    "header_count": "gguf_truncated",
}
_VALUE_TYPES = tuple(sorted((*SCALARS, STRING, ARRAY)))


class GgufHeaderFacts(NamedTuple):
    """A header; texts are empty and numbers None where the file does not say."""

    version: int
    tensor_count: int
    kv_count: int
    architecture: str
    name: str
    quantization_version: int | None
    file_type: int | None
    file_type_label: str
    """Such as `q4_k_m`."""
    kv: Mapping[str, Any]
    """The first pairs; arrays are tuples, and None where they have over 1,024 items."""


def parse_gguf_header(path: str | os.PathLike[str], *, max_kv_pairs: int = 256) -> GgufHeaderFacts:
    """Read the header of a GGUF file, version 2 or 3; the tensors are not read.

    Args:
        path: Of the file.
        max_kv_pairs: How many pairs of the metadata `kv` has at most.

    Raises:
        GgufSourceError: With the code `gguf_invalid_magic`, `gguf_truncated` or
            `gguf_unknown_kv_type`.
        DamagedFileError: The file is damaged in another way.
        UnsafeFileFormat: It is a pickle or an archive under another name.
        OSError: It cannot be read.
    """
    place = os.fspath(path)
    try:
        header = read_gguf_header(place)
    except DamagedFileError as error:
        code = _CODES.get(error.code, "")
        if error.code == "metadata" and error.expected == _VALUE_TYPES:
            code = "gguf_unknown_kv_type"
        if not code:
            raise
        raise GgufSourceError(str(error), code=code, file=place) from error
    said = header.metadata
    kind = said.get("general.file_type")
    version = said.get("general.quantization_version")
    return GgufHeaderFacts(
        header.version,
        len(header.tensors),
        len(said),
        _text(said.get("general.architecture")),
        _text(said.get("general.name")),
        version if isinstance(version, int) else None,
        kind if isinstance(kind, int) else None,
        file_type_label(kind) if isinstance(kind, int) else "",
        {
            key: value.values if isinstance(value, GgufArray) else value
            for key, value in islice(said.items(), max_kv_pairs)
        },
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
