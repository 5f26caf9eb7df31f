"""Links in the folder of a model: one that leads out of it would carry somebody's file along."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.models.formats import SAFE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Home", "OutsideLinkError", "refuse_links_below"]

_INDEX = "model_index.json"


class OutsideLinkError(ConversionInputError):
    """A file of a source is a link to somewhere else."""

    def __init__(self, file: str, target: str) -> None:
        """Keep both ends.

        Args:
            file: In the folder of the model.
            target: What it leads to, as an absolute path.
        """
        super().__init__(
            f"{file!r} is a link to {target!r}, outside of the model's folder: put a copy in its "
            "place if it belongs to the model, or remove it",
            file=file,
            step="plan",
        )
        self.target = target

    def __reduce__(self) -> tuple[type[OutsideLinkError], tuple[str, str]]:
        return type(self), (self.file, self.target)


class Home:
    """The folder of a model, and whether files in it are its own.

    Links may lead to anywhere in it. Where it is `snapshots/<name>`, as caches lay models out, they
    may also lead to the folder `blobs` beside `snapshots`.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Find the folder.

        Args:
            directory: Of a model, or of a component of a pipeline: then the pipeline's counts.
        """
        place = os.path.abspath(os.fspath(directory))
        parent = os.path.dirname(place)
        is_component = os.path.isfile(os.path.join(parent, _INDEX))
        self._places = tuple(_own_places(os.path.realpath(parent if is_component else place)))

    def refuse_outside(self, path: str) -> None:
        """Refuse a file, or a folder, that is elsewhere when its links are followed.

        Raises:
            OutsideLinkError: It is.
        """
        target = os.path.realpath(path)
        if not any(_is_in(target, place) for place in self._places):
            raise OutsideLinkError(path, target)


def refuse_links_below(directory: str | os.PathLike[str]) -> None:
    """Refuse a model's folder with a link that leads out of it.

    Hidden files are never copied, and pass unless they hold weights.

    Raises:
        OutsideLinkError: Names the first.
    """
    home = Home(directory)
    for path in _links(os.fspath(directory)):
        home.refuse_outside(path)


def _links(directory: str) -> Iterator[str]:
    """Yield files and folders that are links; what is behind one that stays is seen elsewhere."""
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in (*directories, *sorted(names)):
            path = os.path.join(parent, name)
            is_read = not name.startswith(".") or os.path.splitext(name)[1].lower() in SAFE_SUFFIXES
            if is_read and os.path.islink(path):
                yield path


def _own_places(root: str) -> Iterator[str]:
    yield root
    parent, name = os.path.split(root)
    while name:
        if name == "snapshots":
            yield os.path.join(parent, "blobs")
        parent, name = os.path.split(parent)


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)
