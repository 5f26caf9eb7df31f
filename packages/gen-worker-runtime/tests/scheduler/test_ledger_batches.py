"""How operations fall into batches makes no difference to what they come to."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_worker.errors import RetryableError, classify
from gen_worker.runtime.scheduler import Ending, Keeping, NewEvent, Submission
from gen_worker.runtime.scheduler.changes import Append, Assign, End, Operation, Requeue, Submit
from gen_worker.runtime.scheduler.database import open_database
from gen_worker.runtime.scheduler.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Sequence

seqs = st.integers(1, 4)
attempts = st.integers(1, 3)
events = st.builds(
    NewEvent, st.sampled_from([b"delta", b"event"]), st.just(b"{}"), attempts, st.integers(0, 3)
)
endings = st.builds(
    Ending,
    status=st.just("failed"),
    failure=st.sampled_from([classify(RetryableError("x")), classify(ValueError("x"))]),
    is_streamed=st.booleans(),
    attempt=st.integers(0, 3),
)
submissions = st.builds(
    Submission,
    request_id=st.sampled_from(["r-1", "r-2", "r-3", "r-4", "r-5"]),
    owner=st.sampled_from(["", "acme"]),
    function=st.just("f"),
    key=st.sampled_from(["", "k-1", "k-2"]),
    digest=st.sampled_from([b"1", b"2"]),
    payload=st.just(b"x"),
)
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Submit, submissions),
    st.builds(Assign, seqs, st.sampled_from(["", "w-1", "w-2"]), attempts, st.floats(0, 9)),
    st.builds(Append, seqs, st.lists(events, max_size=3)),
    st.builds(End, seqs, endings, st.just(NewEvent(b"error", b"{}"))),
    st.builds(Requeue, seqs, attempts, st.floats(0, 9)),
)


def written(batches: Sequence[Sequence[Operation]]) -> tuple[list[str], list[object]]:
    """Return what each operation came to, and all rows there are then."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="gen-worker-ledger-", dir=memory)
    try:
        with closing(open_database(folder)) as database:
            journal = Journal(database, Keeping(), lambda: 5.0)
            outcomes = [repr(one) for batch in batches for one in journal.commit(batch)]
            assert (journal.batches, journal.failed_batches) == (len(batches), 0)
            tables = ("requests", "calls", "events")
            rows: list[object] = [
                database.writer.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                for table in tables
            ]
            return outcomes, [*rows, journal.totals]
    finally:
        shutil.rmtree(folder)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(batches=st.lists(st.lists(operations, min_size=1, max_size=8), min_size=1, max_size=4))
def test_batches_make_no_difference(batches: list[list[Operation]]) -> None:
    single = [[operation] for batch in batches for operation in batch]
    assert written(batches) == written(single)
