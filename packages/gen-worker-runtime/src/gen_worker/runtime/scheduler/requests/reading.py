"""The requests of a ledger that have not ended, read by the thousand."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gen_worker.runtime.scheduler.queries import options_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["unfinished"]

_AT_ONCE = 1000


async def unfinished(
    ledger: Ledger,
) -> AsyncIterator[tuple[Sequence[RequestRecord], Mapping[int, bytes]]]:
    """Yield records, by seq, and their options."""
    after = 0
    while records := await ledger.unfinished(after=after, limit=_AT_ONCE):
        wanted = [record.seq for record in records]
        options = await ledger.ask(partial(options_of, seqs=wanted))
        yield [_shared(record) for record in records], options
        after = records[-1].seq


def _shared(record: RequestRecord) -> RequestRecord:
    """Return a record that shares the names that many have."""
    return replace(
        record,
        owner=sys.intern(record.owner),
        endpoint=sys.intern(record.endpoint),
        function=sys.intern(record.function),
        tag=sys.intern(record.tag),
        release_id=sys.intern(record.release_id),
    )
