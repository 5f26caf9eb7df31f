"""Finds the files inside payloads and results, and puts others in their place.

A type is looked through once; a type without files has no plan and costs nothing per call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.constraints import AssetLimits
from gen_worker.ports import FileLimits
from gen_worker.transforms import Leaf, Transform, compile_transform, run_transform
from gen_worker.types import Asset, StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.annotations import Metadata

__all__ = ["FilePlan", "FoundFile", "file_plan"]

_HOST_FIELDS = {
    "local_path": None,
    "url_max_bytes": None,
    "url_allowed_mime_types": (),
    "url_max_width": None,
    "url_max_height": None,
    "url_max_pixels": None,
}
"""Fields a caller must not choose, with the value they get instead."""


_DEFAULTS = FileLimits()
_NO_LIMITS = AssetLimits()


class FoundFile(NamedTuple):
    """One file of a payload or result."""

    file: StoredFile
    limits: FileLimits


class FilePlan:
    """Where the files of one type are.

    Every method raises `ValidationError` for a value that is nested too deeply.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def sanitize(self, value: Any) -> None:
        """Drop what a caller must not choose: `local_path` and the `url_` limits.

        For values that were decoded from a caller's bytes, before anything reads them; the files
        are changed in place.
        """
        run_transform(self._transform, value, _sanitized)

    def find(self, value: Any, *, host: FileLimits = _DEFAULTS) -> list[FoundFile]:
        """List the files, each once, with what may be accepted for it.

        Args:
            value: A value of the plan's type.
            host: Used where the field's `AssetLimits` say nothing.
        """
        found: dict[int, FoundFile] = {}

        def collect(file: StoredFile, limits: AssetLimits) -> StoredFile:
            found.setdefault(id(file), FoundFile(file, _limits_of(file, limits, host)))
            return file

        run_transform(self._transform, value, collect)
        return list(found.values())

    def replace(self, value: Any, replacements: Mapping[int, StoredFile]) -> Any:
        """Return `value` with files exchanged; whatever holds one is copied, the rest shared.

        Args:
            value: The value that `find` was given.
            replacements: New files by `id()` of the ones that `find` returned.
        """

        def exchange(file: StoredFile, _limits: AssetLimits) -> StoredFile:
            return replacements.get(id(file), file)

        return run_transform(self._transform, value, exchange)


@lru_cache(maxsize=1024)
def file_plan(annotation: Any, *, has_untyped: bool = False) -> FilePlan | None:
    """Return where values of this type hold files; None when they cannot.

    Args:
        annotation: A payload or result type.
        has_untyped: Also look into fields typed `Any`. A decoded payload never holds files there,
            an object that Python code made may.

    Raises:
        TypeError: `AssetLimits` sit on something that is no file; the message names the field.
    """
    find = _untyped_leaf if has_untyped else _typed_leaf
    transform = compile_transform(annotation, Leaf(find, AssetLimits))
    return None if transform is None else FilePlan(transform)


def _sanitized(file: StoredFile, _limits: AssetLimits) -> StoredFile:
    for name, value in _HOST_FIELDS.items():
        if hasattr(file, name):
            msgspec.structs.force_setattr(file, name, value)
    return file


def _limits_of(file: StoredFile, limits: AssetLimits, host: FileLimits) -> FileLimits:
    kind = file.media_kind if isinstance(file, Asset) else ""
    return FileLimits(
        max_bytes=limits.max_bytes or host.max_bytes,
        mime_prefix=f"{kind}/" if kind else host.mime_prefix,
        allowed_mime_types=limits.allowed_mime_types or host.allowed_mime_types,
        max_width=limits.max_width or host.max_width,
        max_height=limits.max_height or host.max_height,
        max_pixels=limits.max_pixels or host.max_pixels,
    )


def _typed_leaf(annotation: Any, metadata: Metadata) -> Transform | None:
    if not (isinstance(annotation, type) and issubclass(annotation, StoredFile)):
        return None
    limits = next((m for m in reversed(metadata) if isinstance(m, AssetLimits)), _NO_LIMITS)
    # The context is what to do with each file: `(file, limits) -> file`.
    return lambda value, visit: visit(value, limits) if isinstance(value, annotation) else value


def _untyped_leaf(annotation: Any, metadata: Metadata) -> Transform | None:
    if annotation in (Any, object):
        return _visit_untyped
    return _typed_leaf(annotation, metadata)


def _visit_untyped(value: Any, visit: Any) -> Any:
    if isinstance(value, (str, bytes, int, float, type(None))):
        return value
    cls: Any = type(value)
    if cls is object:  # stands for anything in an annotation, but is nothing as a value
        return value
    plan = file_plan(cls, has_untyped=True)
    return value if plan is None else plan._transform(value, visit)
