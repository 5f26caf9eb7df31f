"""What is known of releases and of the tags that point to them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

__all__ = [
    "DEFAULT_TAG",
    "Contents",
    "Move",
    "Published",
    "ReleaseLimits",
    "ReleaseRecord",
    "ResolvedFunction",
    "StoredFile",
    "StoredLink",
    "StoredRelease",
    "TagAction",
    "TagChange",
    "TagTarget",
]

DEFAULT_TAG = "prod"

TagAction = Literal["promote", "rollback", "forward", "remove"]


class ReleaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a project may be; weights belong into the model hub."""

    max_files: int = 20_000
    max_file_bytes: int = 256 * 1024**2
    max_bytes: int = 1024**3


class StoredFile(msgspec.Struct, frozen=True):
    """One file of a release."""

    path: str
    size_bytes: int
    blake3: str
    is_executable: bool


class StoredLink(msgspec.Struct, frozen=True):
    """One symbolic link of a release."""

    path: str
    target: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes a release what it is; its id is a digest of this."""

    format_version: int = 1
    environment: str
    """Name of the environment its workers run in."""
    lock_blake3: str
    files: tuple[StoredFile, ...]
    """By path, as are the links."""
    links: tuple[StoredLink, ...]


class StoredRelease(NamedTuple):
    """A release on disk."""

    release_id: str
    source: str
    """The folder workers run in; nothing is to be written there."""
    lock: str
    """Path of its endpoint.lock."""
    contents: Contents


class ReleaseRecord(NamedTuple):
    """A release as an endpoint has it."""

    number: int
    """Releases that were published later have greater ones."""
    owner: str
    endpoint: str
    release_id: str
    created_at: float
    created_by: str
    environment: str
    functions: tuple[str, ...]
    """Slugs."""


class Move(msgspec.Struct, frozen=True):
    """What became of one function's tag; an empty release means that it pointed to none."""

    function: str
    from_release: str
    to_release: str


class TagChange(NamedTuple):
    """One change of a tag: who, when, from where, to where and why."""

    number: int
    owner: str
    endpoint: str
    tag: str
    action: TagAction
    changed_at: float
    changed_by: str
    reason: str
    moves: tuple[Move, ...]


class TagTarget(NamedTuple):
    """Where a function's tag points."""

    owner: str
    endpoint: str
    tag: str
    function: str
    release_id: str


class Published(NamedTuple):
    """What became of a publication."""

    record: ReleaseRecord
    is_new: bool
    """False: the endpoint has the same release already, and nothing changed."""
    change: TagChange | None
    """The tag that was set because it is the endpoint's first release."""


class ResolvedFunction(NamedTuple):
    """What a caller's name means now."""

    release_id: str
    function: str
    owner: str
    endpoint: str
    tag: str
