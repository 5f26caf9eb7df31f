"""The last event of a request: the answer that its client gets, with every transport the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.events import Failed, Result
from gen_worker.runtime.http.answers import answer_of, json_line
from gen_worker.runtime.scheduler.values import NewEvent

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.values import Ending, RequestRecord

__all__ = ["last_event"]


def last_event(
    record: RequestRecord, ending: Ending, *, now: float, value: bytes = b"null"
) -> NewEvent:
    """Return what is given to `Requests.ended` and `Ledger.end` along with an ending.

    Whoever ends a request makes its last event with this: the API shows it as it is.

    Args:
        record: The request.
        ending: How it ends.
        now: Unix time, by the ledger's clock.
        value: What the function returned, as JSON; of a stream `{"yielded": <count>}`.
    """
    total_s = max(now - record.created_at, 0.0)
    if ending.failure is not None:
        failed = Failed(
            request_id=record.request_id, failure=ending.failure, timings=ending.timings
        )
        return NewEvent(b"error", answer_of(failed, total_s), ending.attempt)
    output = msgspec.Raw(json_line(value))
    result = Result(
        request_id=record.request_id,
        value=output,
        timings=ending.timings,
        is_streamed=ending.is_streamed,
    )
    return NewEvent(b"result", answer_of(result, total_s, output=output), ending.attempt)
