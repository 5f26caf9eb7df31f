"""A worker that was started as root becomes an ordinary user before it runs anything of an author.

An image cannot simply name a user: a directory that the engine makes for `-v ./out:/outputs`
belongs to root, and only root can give it away.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["User", "become", "find_user", "owner_or"]


class User(NamedTuple):
    """Whom a process belongs to."""

    uid: int
    gid: int
    home: str


def find_user(name: str) -> User:
    """Return an account of this machine.

    Args:
        name: Or its number.

    Raises:
        SettingsError: There is none.
    """
    import pwd

    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        problem = f"GEN_WORKER_USER {name!r:.80} is no user of this image: add it, or leave it out"
        raise SettingsError((problem,)) from None
    return User(entry.pw_uid, entry.pw_gid, entry.pw_dir)


def owner_or(directory: str, user: User) -> User:
    """Return who already owns a directory, unless that is root or nobody: then the user.

    Somebody's own directory, mounted for outputs, is filled as its owner.
    """
    try:
        owner = os.stat(directory)
    except OSError:
        return user
    return user if owner.st_uid == 0 else User(owner.st_uid, owner.st_gid, user.home)


def become(user: User, directories: Iterable[str]) -> None:
    """Become a user for good. Only root can.

    Args:
        user: Who.
        directories: Given to the user where they exist; only themselves, not what is in them.
    """
    for directory in directories:
        try:
            if os.stat(directory).st_uid != user.uid:
                os.chown(directory, user.uid, user.gid)
        except OSError:
            continue  # missing or read-only: whatever needs it will say so
    os.setgroups([user.gid])
    os.setgid(user.gid)
    os.setuid(user.uid)
