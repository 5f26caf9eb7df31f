"""Whether a release on disk is what was published."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NoReturn

import msgspec

from gen_worker.models.store.durable import hash_file
from gen_worker.runtime.scheduler.releases.errors import DamagedReleaseError
from gen_worker.runtime.scheduler.releases.project import is_left_out
from gen_worker.runtime.scheduler.releases.values import Contents, StoredFile

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CONTENTS_NAME", "LOCK_NAME", "SOURCE_NAME", "id_of", "verified"]

SOURCE_NAME = "source"
LOCK_NAME = "endpoint.lock"
CONTENTS_NAME = "release.json"
_ID_CHARS = 32


def id_of(contents: bytes) -> str:
    """Return the id of a release whose `release.json` has these bytes."""
    from blake3 import blake3

    return f"r-{blake3(contents).hexdigest()[:_ID_CHARS]}"


def verified(folder: str, release_id: str) -> Contents:
    """Return what a release has, once every byte of it was looked at.

    Raises:
        DamagedReleaseError: With the first file that is not what was published.
    """

    def refuse(path: str, found: str) -> NoReturn:
        raise DamagedReleaseError(release_id, folder, path, found)

    path = CONTENTS_NAME
    try:
        with open(os.path.join(folder, CONTENTS_NAME), "rb") as file:
            content = file.read()
        if id_of(content) != release_id:
            refuse(path, "has other bytes")
        contents = msgspec.json.decode(content, type=Contents)
        path = LOCK_NAME
        if hash_file(os.path.join(folder, LOCK_NAME)) != contents.lock_blake3:
            refuse(path, "has other bytes")
        source = os.path.join(folder, SOURCE_NAME)
        for entry in contents.files:
            path = f"{SOURCE_NAME}/{entry.path}"
            if found := _wrong_with(os.path.join(source, entry.path), entry):
                refuse(path, found)
        for link in contents.links:
            path = f"{SOURCE_NAME}/{link.path}"
            if os.readlink(os.path.join(source, link.path)) != link.target:
                refuse(path, "leads elsewhere")
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})")
    except msgspec.MsgspecError as error:
        refuse(path, f"cannot be understood ({error})")
    known = {file.path for file in contents.files} | {link.path for link in contents.links}
    for extra in _paths(source):
        if extra not in known:
            refuse(f"{SOURCE_NAME}/{extra}", "was not published")
    return contents


def _wrong_with(path: str, file: StoredFile) -> str:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_size != file.size_bytes:
        return f"has {found.st_size} bytes instead of {file.size_bytes}"
    if bool(found.st_mode & stat.S_IXUSR) != file.is_executable:
        return "can be executed" if not file.is_executable else "cannot be executed"
    return "has other bytes" if hash_file(path) != file.blake3 else ""


def _paths(source: str, folder: str = "") -> Iterator[str]:
    """Yield what there is, but for what a run leaves where it may write."""
    with os.scandir(os.path.join(source, folder)) as entries:
        for entry in entries:
            if is_left_out(entry.name, is_top=not folder):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(source, path)
            else:
                yield path
