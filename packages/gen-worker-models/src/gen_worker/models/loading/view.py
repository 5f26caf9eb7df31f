"""A private directory with links to a model's files and with our own configurations.

A snapshot is never changed, and the libraries must never read what was not checked: weights that
can run code and Python are not in the view, configurations in it are the sanitised ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from gen_worker.models.formats import UNSAFE_SUFFIXES, config_changes
from gen_worker.models.formats.plain_files import files_below
from gen_worker.models.formats.unsafe import CODE_SUFFIXES
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Sight", "View", "needs_view"]

_LEFT_OUT = UNSAFE_SUFFIXES | CODE_SUFFIXES


def needs_view(directory: str) -> bool:
    """Tell whether a library must not be given `directory` itself."""
    return any(_is_left_out(name) for _, name in files_below(directory)) or any(
        True for _ in config_changes(directory)
    )


def _is_left_out(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _LEFT_OUT


class View:
    """The directory; it goes away when this object does, or with `close`."""

    def __init__(self, source: str, changes: Mapping[str, Any] | None = None) -> None:
        """Link everything that may be read.

        Args:
            source: The model's directory.
            changes: Further JSON files by their relative path.
        """
        self.source = source
        self._directory = tempfile.TemporaryDirectory(
            prefix="gen-worker-view-", ignore_cleanup_errors=True
        )
        self.path = self._directory.name
        written = {change.path: change.text for change in config_changes(source)}
        written |= {name: _text_of(value) for name, value in (changes or {}).items()}
        for path, name in files_below(source):
            if name not in written and not _is_left_out(name):
                _link(os.path.abspath(path), self._place(name))
        for name, text in written.items():
            with open(self._place(name), "wb") as file:
                file.write(text)

    def inside(self, path: str) -> str:
        """Return where a file or directory of the model is in the view."""
        relative = os.path.relpath(path, self.source)
        return self.path if relative == os.curdir else os.path.join(self.path, relative)

    def close(self) -> None:
        self._directory.cleanup()

    def _place(self, name: str) -> str:
        place = safe_join(self.path, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        return place


class Sight:
    """Where the libraries are sent for each directory of one load; makes the views it takes."""

    def __init__(self, views: Mapping[str, View]) -> None:
        """Begin with the views that are there, by the directories they stand for."""
        self._views = dict(views)

    def of(self, path: str) -> str:
        """Return what a library is given for a file or directory of the model."""
        for source, view in self._views.items():
            if path == source or path.startswith(source + os.sep):
                return view.inside(path)
        if not os.path.isdir(path) or not needs_view(path):
            return path
        view = self._views[path] = View(path)
        return view.path

    def close(self) -> None:
        for view in self._views.values():
            view.close()

    def close_with(self, value: Any) -> None:
        """Close when `value` is gone: tokenizers read their files again when they are saved."""
        if not self._views:
            return
        try:
            weakref.finalize(value, self.close)
        except TypeError:  # no weak references: the directories stay until the process ends
            _kept.append(self)


_kept: list[Sight] = []


def _text_of(value: Any) -> bytes:
    import json

    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _link(source: str, place: str) -> None:
    try:
        os.symlink(source, place)
    except OSError:  # Windows without the right to make links
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
