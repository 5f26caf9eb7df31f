"""What an orchestrator is told of a job that has ended, or that was not let in."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from gen_worker.errors import OutputTooLargeError, classify
from gen_worker.events import Result
from gen_worker.runtime.wire import (
    MAX_OUTPUT_BYTES,
    JobResult,
    Observation,
    StreamDone,
    StreamError,
    success_payload,
)
from gen_worker.runtime.wire.places import with_place

if TYPE_CHECKING:
    from gen_worker.errors import Failure
    from gen_worker.events import Failed, Timings
    from gen_worker.runtime.wire import JobRequest
    from gen_worker.runtime.worker.admission import Refusal
    from gen_worker.runtime.worker.identity import Identity
    from gen_worker.runtime.worker.job import Job

__all__ = ["end_marker", "observe", "refused", "result", "settle"]


def settle(job: Job, outcome: Result | Failed) -> tuple[Failure | None, bytes]:
    """Return how a job ends: its failure, or its payload."""
    if job.failure is not None:
        return job.failure, b""
    if not isinstance(outcome, Result):
        failure = outcome.failure
        if failure.error_type == "canceled" and job.token.reason == "shutdown":
            # Nobody but this worker wanted it to end: another one may run it.
            failure = msgspec.structs.replace(
                failure, error_type="retryable", retryable=True, message="worker busy"
            )
        return failure, b""
    try:
        payload = success_payload(outcome, job.served.spec.kind)
    except Exception as error:  # a value that MessagePack has no words for
        return classify(error), b""
    if len(payload) > MAX_OUTPUT_BYTES:  # sent all the same, it would break every connection
        too_large = OutputTooLargeError(size_bytes=len(payload), max_bytes=MAX_OUTPUT_BYTES)
        return classify(too_large), b""
    return None, payload


def result(
    request_id: str, failure: Failure | None, payload: bytes, observation: Observation
) -> JobResult:
    """Return the one answer to a request."""
    if failure is None:
        return JobResult(
            request_id=request_id, success=True, payload=payload, observation=observation
        )
    return JobResult(
        request_id=request_id,
        success=False,
        error_type=failure.error_type,
        retryable=failure.retryable,
        safe_message=_sentence(failure),
        observation=observation,
    )


def _sentence(failure: Failure) -> str:
    is_about_input = failure.error_type == "validation"
    return with_place(failure.message, failure.path) if is_about_input else failure.message


def end_marker(job: Job, failure: Failure | None, unix_ms: int) -> StreamDone | StreamError:
    """Return the end of a streamed output; it gets its sequence when it is written."""
    request_id, function = job.request.request_id, job.served.spec.name
    if failure is None:
        return StreamDone(
            request_id=request_id, function=function, sequence=0, timestamp_unix_ms=unix_ms
        )
    return StreamError(
        request_id=request_id,
        function=function,
        sequence=0,
        timestamp_unix_ms=unix_ms,
        error_message=failure.message,
    )


def observe(
    job: Job,
    timings: Timings,
    failure: Failure | None,
    identity: Identity,
    peak_bytes: tuple[int, int],
) -> Observation:
    """Return how a job went.

    Args:
        job: It has ended just now.
        timings: Of its call.
        failure: None when it succeeded.
        identity: Of the worker.
        peak_bytes: It had in RAM and on its GPU.
    """
    pace, served, factors = job.pace, job.served, job.served.factors
    took_ms = (perf_counter() - job.began_at) * 1000
    return Observation(
        release_id=identity.release_id,
        function=served.name,
        provider=identity.provider,
        worker_id=identity.worker_id,
        status="succeeded" if failure is None else "failed",
        error_type="" if failure is None else failure.error_type,
        runtime_ms=round(max(0.0, took_ms - timings.queue_ms)),
        local_queue_ms=round(timings.queue_ms),
        peak_memory_bytes=peak_bytes[0],
        peak_vram_bytes=peak_bytes[1],
        active_count_at_start=job.others,
        local_queued_count_at_start=job.queued,
        ttft_ms=0 if pace is None or pace.first_s is None else _at_least_1_ms(pace.first_s),
        itl_p50_ms=0 if pace is None else round(pace.median_s * 1000),
        scaling_factors={} if factors is None else factors.of(job.request.payload),
    )


def refused(request: JobRequest, refusal: Refusal, identity: Identity, *, others: int) -> JobResult:
    """Return the answer to a request that is not let in, while so many others are under way."""
    return JobResult(
        request_id=request.request_id,
        success=False,
        error_type=refusal.error_type,
        retryable=refusal.retryable,
        safe_message=refusal.safe_message,
        observation=Observation(
            release_id=identity.release_id,
            function=request.function,
            provider=identity.provider,
            worker_id=identity.worker_id,
            status="failed",
            error_type=refusal.error_type,
            active_count_at_start=others,
        ),
    )


def _at_least_1_ms(seconds: float) -> int:
    """Return milliseconds; 0 would say that nothing was measured."""
    return max(1, round(seconds * 1000))
