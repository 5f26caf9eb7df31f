"""A folder that appears under its name when all of it is written."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.writer.output_file import output_directory, write_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["new_folder"]


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give an empty folder beside the wanted one, which takes its place after the block.

    After a failure there is neither.

    Args:
        path: Absent, or an empty folder.

    Raises:
        ConversionInputError: It is not empty.
        OutputSpaceError: The disk is full.
        ConversionError: The folder cannot be made.
    """
    target = os.path.abspath(os.fspath(path))
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise ConversionInputError(f"{target!r} is not empty: choose another folder", file=target)
    parent, name = os.path.split(target)
    place = os.path.join(parent, f".{name}.{secrets.token_hex(8)}")
    with output_directory(parent):
        try:
            os.mkdir(place)
        except OSError as error:
            raise write_failure(target, error) from error
        try:
            yield place
            _move(place, target)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise


def _move(place: str, target: str) -> None:
    try:
        os.replace(place, target)
    except OSError as error:
        raise write_failure(target, error) from error
