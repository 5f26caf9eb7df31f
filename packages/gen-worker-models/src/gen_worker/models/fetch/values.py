"""What is asked of the fetcher and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.fetch.digests import parse_digest

__all__ = ["CHUNK_BYTES", "FetchProgress", "FetchReport", "FetchedFile", "FileToFetch", "Location"]

CHUNK_BYTES = 8 * 1024 * 1024
"""What one hash of a hub's chunk list stands for; must match the hub's `/chunks` route."""


class Location(msgspec.Struct, frozen=True):
    """Where a file's bytes are. Neither the query nor a header ever shows in its text."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    """Sent to the URL's own origin only."""

    def __repr__(self) -> str:
        return f"Location({self.url.partition('?')[0].partition('#')[0]!r})"

    __str__ = __repr__


class FileToFetch(msgspec.Struct, frozen=True, kw_only=True):
    """One file: where it goes, how it is known to be right, and where it may come from."""

    destination: str
    """Path of the finished file; its directory is made. A file of that name is replaced."""
    locations: tuple[Location, ...] = ()
    """In order of preference."""
    size_bytes: int | None = None
    """None when unknown: such a download starts again whenever it breaks."""
    digest: str = ""
    """`blake3:`, `sha256:` or `git-sha1:` and hex digits; empty when nothing is known."""
    refresh: Callable[[int], tuple[Location, ...]] | None = None
    """Called with the status (401, 403, 404, 410) that used up the last location; returns new ones.
    On a thread of the fetcher, once at a time per file; what it raises ends the fetch."""
    chunk_hashes: Callable[[], Sequence[str] | None] | None = None
    """Called when the whole file turned out damaged; returns the BLAKE3 hex digests of its chunks
    of 8 MiB, so that only the bad ones are fetched again."""

    def __post_init__(self) -> None:
        if not self.destination:
            raise ValidationError("a file to fetch has no destination")
        if self.size_bytes is not None and self.size_bytes < 0:
            raise ValidationError(f"{self.destination!r} has a negative size, {self.size_bytes}")
        parse_digest(self.digest)


class FetchProgress(NamedTuple):
    """How far a fetch is."""

    bytes_done: int
    """Bytes on disk, those of earlier runs included."""
    bytes_total: int | None
    """None while the size of a file is unknown."""
    files_done: int
    files_total: int


class FetchedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One finished file."""

    destination: str
    size_bytes: int
    digest: str
    """`<algorithm>:<hex>`, computed from the bytes; BLAKE3 where no digest was expected."""
    bytes_fetched: int
    """Bytes that came over the network for it in this call."""
    was_present: bool = False
    """Whether it, or another process's download of it, was there already."""


class FetchReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch did."""

    files: tuple[FetchedFile, ...]
    """In the order they were asked for."""
    duration_s: float

    @property
    def bytes_fetched(self) -> int:
        return sum(file.bytes_fetched for file in self.files)
