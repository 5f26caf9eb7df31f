"""Copies of a project's files, taken while nobody wrote to them."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.models.store.durable import copy_into, opened_new, remove_tree
from gen_worker.runtime.scheduler.releases.errors import ProjectChangedError, RefusedReleaseError
from gen_worker.runtime.scheduler.releases.project import stamp_of
from gen_worker.runtime.scheduler.releases.values import StoredFile

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.runtime.scheduler.releases.project import Found

__all__ = ["copied", "make_durable", "remove", "require_stillness", "write_new"]


def copied(root: str, one: Found, copy: str) -> tuple[StoredFile, str]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(os.path.join(root, one.path), flags)
    except PermissionError as error:
        problem = f"{one.path!r} cannot be read ({error.strerror})"
        raise RefusedReleaseError(root, [problem]) from error
    except OSError as error:  # it is gone, or a link
        raise ProjectChangedError(one.path) from error
    with open(descriptor, "rb", buffering=0) as reader, opened_new(copy) as writer:
        digest, size = copy_into(writer, reader)
        if stamp_of(os.fstat(descriptor)) != one.stamp or size != one.size_bytes:
            raise ProjectChangedError(one.path)
    return StoredFile(one.path, size, digest, one.is_executable), copy


def require_stillness(before: Collection[Found], after: Collection[Found]) -> None:
    changed = set(before) ^ set(after)
    if changed:
        raise ProjectChangedError(min(one.path for one in changed))


def write_new(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(path, 0o444)


def make_durable(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove a tree whose folders may be read-only; what resists waits for the next start."""
    for folder, _, _ in os.walk(path):
        with suppress(OSError):
            os.chmod(folder, 0o700)
    remove_tree(path)
