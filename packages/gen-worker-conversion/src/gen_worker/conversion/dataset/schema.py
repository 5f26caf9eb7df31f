"""Types of columns as `dataset_info.json` names them, and what they are to Arrow."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DatasetError", "arrow_schema", "require_pyarrow"]

_LIST = re.compile(r"list<(.+)>")
_PLAIN = frozenset(
    "string binary bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 "
    "float64".split()
)


class DatasetError(ConversionInputError):
    """A dataset cannot be read or written as asked."""

    def __init__(self, message: str, *, file: str = "", column: str = "", step: str = "") -> None:
        """Keep where it failed: a file, a column and a step, where one is to blame."""
        super().__init__(message, file=file, step=step)
        self.column = column


def require_pyarrow() -> None:
    """Raise `DatasetError` where pyarrow is missing."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise DatasetError('Parquet needs pyarrow: install "gen-worker-conversion[data]"')


def arrow_schema(features: Mapping[str, str]) -> Any:
    """Return the pyarrow schema of columns.

    Raises:
        DatasetError: There are none, or a type is not known; all such columns are named.
    """
    require_pyarrow()
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if not features:
        raise DatasetError("a dataset needs columns: give their types by name")
    types = {name: _arrow_type(text) for name, text in features.items()}
    unknown = {name: features[name] for name, known in types.items() if known is None}
    if unknown:
        raise DatasetError(
            f"columns {unknown!r} have unknown types: there are {', '.join(sorted(_PLAIN))}, "
            "image, and list<…> of one",
            column=next(iter(unknown)),
        )
    return pyarrow.schema(list(types.items()))


def _arrow_type(text: Any) -> Any:
    import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    if not isinstance(text, str):
        return None
    if text == "image":
        return pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    inner = _LIST.fullmatch(text)
    if inner:
        item = _arrow_type(inner[1])
        return None if item is None else pyarrow.list_(item)
    return getattr(pyarrow, f"{text}_" if text == "bool" else text)() if text in _PLAIN else None
