"""Which files of a project belong to a release."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.names import slugify_name
from gen_worker.paths import safe_join
from gen_worker.runtime.scheduler.releases.errors import RefusedReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

    from gen_worker.manifest import Manifest
    from gen_worker.runtime.scheduler.releases.values import ReleaseLimits

__all__ = ["Found", "is_left_out", "lock_problems", "scan", "stamp_of"]

_NOWHERE = frozenset(
    ".git .hg .svn .venv __pycache__ .gen-worker-run .tensorhub .mypy_cache .pytest_cache"
    " .ruff_cache .hypothesis .tox .nox .idea .vscode .ipynb_checkpoints node_modules"
    " .DS_Store .env".split()
)
"""What git, environments, caches, editors and local runs leave, and secrets of the author's."""
_NOT_AT_THE_TOP = frozenset("outputs venv build dist".split())
"""Below the top such a name may well be a package's."""
_MAX_LINKS = 40
"""That one path leads through, as on Linux; more are a circle."""


class Found(NamedTuple):
    """A file or a symbolic link of a project."""

    path: str
    """Relative, with `/`."""
    size_bytes: int
    is_executable: bool
    target: str
    """Of a link; empty for a file."""
    stamp: tuple[int, ...]
    """Differs once the file is another, or was written."""


def is_left_out(name: str, *, is_top: bool) -> bool:
    """Return whether a file or folder of this name is no part of a release."""
    return (
        name in _NOWHERE
        or name.endswith((".pyc", ".egg-info"))
        or (is_top and name in _NOT_AT_THE_TOP)
    )


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def scan(project: str, limits: ReleaseLimits, *, own_folder: str) -> tuple[Found, ...]:
    """Return what a release of a project has, by path.

    Args:
        project: Its folder.
        limits: How much of it.
        own_folder: Where releases are kept; left out when it is in the project.

    Raises:
        RefusedReleaseError: With everything that does not belong into a release.
    """
    look = _Look(project, limits, own_folder)
    found = sorted(look.files())
    problems = [*look.problems, *_link_problems(project, found), *_size_problems(found, limits)]
    if not found and not problems:
        problems = ["there is no file in it: name the folder that has the endpoint's sources"]
    if problems:
        raise RefusedReleaseError(project, problems)
    return tuple(found)


def lock_problems(manifest: Manifest) -> Iterator[str]:
    """Find what is wrong with the functions of a project's lock."""
    names = [function.name for function in manifest.functions]
    if not names:
        yield "its lock has no function: decorate one, and build the lock anew"
    for name in sorted(set(names)):
        if names.count(name) > 1:
            yield f"its lock has {name!r} twice: build it anew"
        if slugify_name(name) != name or not name:
            yield f"its lock has {name!r}, which is no slug: build it anew"


class _Look:
    """One walk through a project."""

    def __init__(self, project: str, limits: ReleaseLimits, own_folder: str) -> None:
        self.problems: list[str] = []
        self._project = project
        self._max_files = limits.max_files
        self._own = _identity(own_folder)

    def files(self) -> Iterator[Found]:
        folders, count = [""], 0
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                path = posixpath.join(folder, entry.name)
                found = self._stat(entry, path)
                if found is None:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    if (found.st_dev, found.st_ino) != self._own:
                        folders.append(path)
                    continue
                count += 1
                if count > self._max_files:
                    self.problems.append(
                        f"it has more than {self._max_files} files: move what is no source away"
                    )
                    return
                yield from self._file(path, found)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self._project, folder)) as entries:
                return [one for one in entries if not is_left_out(one.name, is_top=not folder)]
        except OSError as error:
            self.problems.append(f"{folder or '.'!r} cannot be read ({error.strerror})")
            return []

    def _stat(self, entry: os.DirEntry[str], path: str) -> os.stat_result | None:
        try:
            safe_join("", path)
            return entry.stat(follow_symlinks=False)
        except ValidationError as error:
            self.problems.append(str(error))
        except OSError as error:
            self.problems.append(f"{path!r} cannot be read ({error.strerror})")
        return None

    def _file(self, path: str, found: os.stat_result) -> Iterator[Found]:
        is_executable = bool(found.st_mode & stat.S_IXUSR)
        if stat.S_ISLNK(found.st_mode):
            try:
                target = os.readlink(os.path.join(self._project, path))
            except OSError as error:
                self.problems.append(f"link {path!r} cannot be read ({error.strerror})")
            else:
                yield Found(path, 0, False, target, stamp_of(found))
        elif stat.S_ISREG(found.st_mode):
            yield Found(path, found.st_size, is_executable, "", stamp_of(found))
        else:
            self.problems.append(f"{path!r} is neither a file nor a folder: remove it")


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _link_problems(project: str, found: list[Found]) -> Iterator[str]:
    """Find the links that would not mean the same in a release."""
    inside = {one.path for one in found if not one.target}
    links = {one.path: one.target for one in found if one.target}
    for path in (*inside, *links):
        while path := posixpath.dirname(path):
            inside.add(path)
    for path, target in links.items():
        is_there = os.path.exists(os.path.join(project, path))
        if not (is_there and _stays_inside(path, links, inside)):
            yield (
                f"link {path!r} leads to {target!r}, which is not in the release: have it lead "
                "to a file of the project by a relative path, or copy the file"
            )


def _stays_inside(link: str, links: Mapping[str, str], inside: Set[str]) -> bool:
    """Return whether a link passes nothing but what is in the release, other links included."""
    here, followed = posixpath.dirname(link), 0
    parts = [posixpath.basename(link)]
    while parts:
        part = parts.pop()
        path = posixpath.join(here, part)
        if part == "..":
            if not here:
                return False
            here = posixpath.dirname(here)
        elif path in links:
            followed += 1
            if followed > _MAX_LINKS or links[path].startswith("/"):
                return False
            parts += reversed(links[path].split("/"))
        elif path in inside:
            here = path
        elif part not in ("", "."):
            return False
    return True


def _size_problems(found: list[Found], limits: ReleaseLimits) -> Iterator[str]:
    for one in found:
        if one.size_bytes > limits.max_file_bytes:
            yield (
                f"{one.path!r} has {one.size_bytes} bytes, at most {limits.max_file_bytes} are "
                "allowed: publish weights to the model hub, and move other data away"
            )
    total = sum(one.size_bytes for one in found)
    if total > limits.max_bytes:
        largest = sorted(found, key=lambda one: -one.size_bytes)[:3]
        names = ", ".join(f"{one.path!r} with {one.size_bytes}" for one in largest)
        yield (
            f"it has {total} bytes, at most {limits.max_bytes} are allowed: move what is no source "
            f"away; the largest are {names}"
        )
