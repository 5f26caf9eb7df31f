"""A project as one tar file, which is what a platform takes a release from."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.releases.project import scan
from gen_worker.runtime.scheduler.releases.values import ReleaseLimits

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["LOCK_MEMBER", "pack"]

LOCK_MEMBER = ".tensorhub/endpoint.lock"


def pack(root: str, lock: bytes, out: BinaryIO, *, own_folder: str = "") -> int:
    """Write a project and its lock, the same bytes for the same files; return how many files.

    Args:
        root: The project's folder.
        lock: Its endpoint.lock.
        out: Written from where it stands.
        own_folder: A data folder that may be inside the project; it is left out.

    Raises:
        RefusedReleaseError: With everything in the project that cannot be published.
    """
    found = scan(root, ReleaseLimits(), own_folder=own_folder)
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_member(LOCK_MEMBER, len(lock)), io.BytesIO(lock))
        for one in found:
            member = _member(one.path, one.size_bytes)
            if one.target:
                member.type, member.linkname, member.size = tarfile.SYMTYPE, one.target, 0
                tar.addfile(member)
                continue
            member.mode = 0o755 if one.is_executable else 0o644
            with open(os.path.join(root, one.path), "rb") as file:
                tar.addfile(member, file)
    return len(found)


def _member(path: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size = size_bytes
    return member
