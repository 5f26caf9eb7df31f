"""Files are kept as long as the ledger keeps their requests."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from gen_worker.runtime.http.upload_refs import UPLOADS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from gen_worker.models.hub import LocalHub
    from gen_worker.runtime.scheduler.ledger import Ledger

__all__ = ["FileSweep"]

_log = logging.getLogger("gen_worker.scheduler")

_JOBS = "jobs"
_FIRST_S = 60.0
_EVERY_S = 3600.0
_YOUNG_S = 3600.0
"""What is younger may belong to a request that is just being submitted."""
_NAMED = re.compile(rb"jobs/[A-Za-z0-9._~%-]+")
_DIGEST = re.compile(r"jobs/%[0-9a-f]{64}")
"""Folder of a request whose id is too long for a name."""
_CHUNK = 500
_KNOWN = "SELECT request_id FROM requests WHERE request_id IN (SELECT value FROM json_each(?))"
_PAYLOADS = """
SELECT requests.seq, calls.payload FROM requests JOIN calls USING (seq)
WHERE requests.ended_at IS NULL AND requests.seq > ? ORDER BY requests.seq LIMIT ?
"""


class FileSweep:
    """Removes files that no request has any more. On the loop; works in threads."""

    def __init__(
        self,
        store: LocalHub,
        ledger: Ledger,
        *,
        keep_uploads_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            store: Of this scheduler alone: what the ledger does not know is nobody's.
            ledger: Knows the requests.
            keep_uploads_s: How long an upload stays that no unfinished request names.
            now: Unix time.
        """
        self._store = store
        self._ledger = ledger
        self._keep_uploads_s = keep_uploads_s
        self._now = now

    async def run(self) -> None:
        """Sweep now and then, until this is canceled."""
        pause_s = _FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _EVERY_S
            try:
                await self.sweep()
            except Exception as error:  # such as a full disk; the next one may do better
                _log.warning("files that are not needed any more could not be removed: %r", error)

    async def sweep(self) -> int:
        """Remove what is not to be kept; return of how many requests and uploads."""
        limit = self._now() - _YOUNG_S
        folders = await asyncio.to_thread(self._store.media.folders, _JOBS, older_than=limit)
        gone = await self._unknown([one for one in folders if not _is_dated(one)])
        if any(map(_is_dated, folders)):
            old = self._now() - self._keep_uploads_s
            expired = await asyncio.to_thread(self._store.media.folders, _JOBS, older_than=old)
            gone.update(filter(_is_dated, expired))
        if gone:
            gone -= await self._named()
            await asyncio.to_thread(self._store.media.forget, gone, older_than=limit)
            await asyncio.to_thread(self._store.collect_garbage)
        return len(gone)

    async def _unknown(self, folders: Sequence[str]) -> set[str]:
        """Return those whose requests are not in the ledger."""
        ids = {unquote(folder.removeprefix(f"{_JOBS}/")): folder for folder in folders}
        unknown: set[str] = set()
        names = list(ids)
        for start in range(0, len(names), _CHUNK):
            some = names[start : start + _CHUNK]
            known = await self._ledger.ask(partial(_known, some))
            unknown |= {ids[name] for name in some if name not in known}
        return unknown

    async def _named(self) -> set[str]:
        """Return the folders that unfinished requests name in their payloads."""
        named: set[str] = set()
        after = 0
        while rows := await self._ledger.ask(partial(_payloads, after)):
            for _, payload in rows:
                named |= {found.decode() for found in _NAMED.findall(payload)}
            after = rows[-1][0]
        return named


def _is_dated(folder: str) -> bool:
    """Tell whether a folder's name says nothing of a request, so that its age decides."""
    return folder.startswith(UPLOADS) or _DIGEST.fullmatch(folder) is not None


def _payloads(after: int, reader: sqlite3.Connection) -> list[tuple[int, bytes]]:
    return reader.execute(_PAYLOADS, (after, _CHUNK)).fetchall()


def _known(ids: Collection[str], reader: sqlite3.Connection) -> frozenset[str]:
    rows = reader.execute(_KNOWN, (msgspec.json.encode(list(ids)).decode(),))
    return frozenset(row[0] for row in rows)
