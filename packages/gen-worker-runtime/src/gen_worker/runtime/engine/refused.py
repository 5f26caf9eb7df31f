"""A call that was not let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cancel import CancelToken
from gen_worker.errors import OverloadedError, WorkerError, classify
from gen_worker.events import Failed, Timings
from gen_worker.runtime.engine.calls import RunningCall
from gen_worker.runtime.engine.errors import traceback_of

if TYPE_CHECKING:
    from gen_worker.runtime.engine.core import Core
    from gen_worker.runtime.engine.invocation import Invocation, Sink

__all__ = ["RefusedCall"]


class RefusedCall(RunningCall):
    """All that is left to do is to say so."""

    def __init__(
        self, core: Core, invocation: Invocation, sink: Sink | None, error: Exception
    ) -> None:
        plan = None  # perhaps there is no such function; nobody will look
        super().__init__(core, plan, invocation, sink, CancelToken())  # type: ignore[arg-type]
        if isinstance(error, OverloadedError):
            core.counters.refused.add()
        failure = classify(error, origin="input")
        if failure.error_type == "internal" and not isinstance(error, WorkerError):
            failure = classify(error, origin="input", detail=traceback_of(error))
        self.outcome = Failed(request_id=invocation.request_id, failure=failure, timings=Timings())
