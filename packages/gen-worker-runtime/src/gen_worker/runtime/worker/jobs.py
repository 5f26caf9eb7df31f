"""Jobs: from the orchestrator's request to the engine, and from there back to the outbox."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from gen_worker.errors import UnknownFunctionError, classify
from gen_worker.events import Delta, Failed, Result
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.telemetry.memory import MemoryGauge
from gen_worker.runtime.wire import (
    DEFAULT_ITEM_ID,
    JobResult,
    Observation,
    StreamDone,
    StreamError,
    success_payload,
)
from gen_worker.runtime.wire.refs import ref_index
from gen_worker.runtime.worker import admission
from gen_worker.runtime.worker.endpoint_config import terminal_gate
from gen_worker.runtime.worker.observing import Pace
from gen_worker.runtime.worker.serving import Served, served_functions
from gen_worker.types import Compute

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from gen_worker.errors import Failure
    from gen_worker.events import Event, Timings
    from gen_worker.runtime.engine import Engine, RunningCall
    from gen_worker.runtime.wire import InterruptJob, JobRequest, ResolvedCompute, ResolvedRepo
    from gen_worker.runtime.worker.admission import Refusal
    from gen_worker.runtime.worker.availability import Availability
    from gen_worker.runtime.worker.endpoint_config import EndpointState
    from gen_worker.runtime.worker.identity import Identity
    from gen_worker.runtime.worker.outbox import Outbox

__all__ = ["Job", "JobLimits", "JobObserver", "Jobs"]

_log = logging.getLogger("gen_worker.worker")


class JobLimits(NamedTuple):
    """What a worker takes in. 0 is no limit."""

    max_input_bytes: int = 0
    max_concurrency: int = 0
    max_queue: int = 1024


class JobObserver(Protocol):
    """Whoever reports on jobs besides their results. On the loop; must not block or raise."""

    def began(self, job: Job) -> None:
        """Take note of a job that was admitted; it has no call yet."""
        ...

    def refused(self, request: JobRequest, refusal: Refusal) -> None:
        """Take note of a request that is not let in."""
        ...

    def ended(self, job: Job, outcome: Result | Failed, observation: Observation) -> None:
        """Take note of its end, right after its result went to the outbox."""
        ...


class Job:
    """One request under way, and the engine's sink for it."""

    wants_events = False
    call: RunningCall
    failure: Failure | None = None
    """Why it fails although its handler did not."""
    _repos: Mapping[str, ResolvedRepo] | None = None

    def __init__(
        self, jobs: Jobs, request: JobRequest, served: Served, others: int, queued: int
    ) -> None:
        self.request = request
        self.served = served
        self.began_at = perf_counter()
        """Seconds of `time.perf_counter`."""
        self.others = others
        """Jobs that were under way when it came; `queued` of all of them waited."""
        self.pace = Pace(self.began_at) if served.is_streamed else None
        self.stopped_items: frozenset[str] = frozenset()
        self.queued = queued
        self.memory = jobs.gauge.begin()
        self._jobs = jobs

    def __repr__(self) -> str:
        return f"<Job {self.request.request_id!r} of {self.request.function}>"

    @property
    def repos(self) -> Mapping[str, ResolvedRepo]:
        """What the request says that refs mean, by every spelling of a ref."""
        if self._repos is None:
            self._repos = ref_index(self.request.repos)
        return self._repos

    def deliver(self, batch: Sequence[Event]) -> None:
        """Pass on what the call produced; see `gen_worker.runtime.engine.Sink`."""
        last = batch[-1]
        outcome = last if isinstance(last, (Result, Failed)) else None
        if self.pace is not None:
            items = batch if outcome is None else batch[:-1]
            if items:
                self._stream(items)
        if outcome is not None:
            self._jobs._finish(self, outcome)

    def _stream(self, items: Sequence[Event]) -> None:
        now_ms = self._jobs.unix_ms()
        form, request_id = self.served.form, self.request.request_id
        outbox, call = self._jobs.outbox, self.call
        assert self.pace is not None
        self.pace.note(len(items), perf_counter())
        for item in items:
            if isinstance(item, Delta) and self.failure is None:
                try:
                    delta = form.delta(item.value, request_id=request_id, timestamp_unix_ms=now_ms)
                except Exception as error:  # an item that JSON has no words for
                    self.failure = classify(error)
                    call.token.cancel("disconnect")
                    return
                if delta.item_id not in self.stopped_items:
                    outbox.delta(delta, call)


class Jobs:
    """Every job of a worker, from its request to its result. For the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        identity: Callable[[], Identity],
        availability: Availability,
        state: Callable[[], EndpointState],
        *,
        devices: Collection[str] = ("cpu",),
        limits: JobLimits | None = None,
        observer: JobObserver | None = None,
        gauge: MemoryGauge | None = None,
        ended: Iterable[Callable[[str], object]] = (),
        unix_time: Callable[[], float],
    ) -> None:
        """Take jobs for an engine.

        Args:
            engine: Runs them.
            outbox: Takes what they produce.
            identity: Says who the worker is.
            availability: Says which functions run.
            state: Says what the orchestrator configured.
            devices: Of the engine.
            limits: Of what is taken in.
            observer: Reports on jobs besides their results.
            gauge: Measures the memory of jobs.
            ended: Called with the id of each job that was answered.
            unix_time: Seconds.
        """
        self.outbox = outbox
        self.active: dict[str, Job] = {}
        """Admitted and not answered."""
        self._engine = engine
        self._identity = identity
        self._availability = availability
        self._state = state
        self._devices = frozenset(devices)
        self._limits = limits or JobLimits()
        self._observer = observer
        self._ended = tuple(ended)
        self._unix_time = unix_time
        self._served = served_functions(engine.functions)
        self.gauge = MemoryGauge() if gauge is None else gauge
        self._is_draining = False
        self._idle: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<Jobs {', '.join(self.active) or 'none'}>"

    def unix_ms(self) -> int:
        return int(self._unix_time() * 1000)

    def find(self, request_id: str) -> Job | None:
        """Return a job that is under way. Any thread."""
        return self.active.get(request_id)

    @property
    def uses_gpu(self) -> bool:
        """Whether a job has a GPU, or waits for one."""
        return any(job.served.spec.resources.needs_gpu for job in self.active.values())

    # In.

    def submit(self, request: JobRequest) -> None:
        """Run a request, or answer why not. One whose id is here already shares its answer."""
        request_id = request.request_id
        if request_id in self.active or self.outbox.has_result(request_id):
            _log.info("request %r is here already: its one result answers both", request_id)
            return
        served = self._served.get(request.function) or self._found(request.function)
        if served is None:
            self._refuse(request, admission.unknown_function(request))
            return
        refusal = self._refusal(request, served) or self._overload()
        if refusal is not None:
            self._refuse(request, refusal)
            return
        job = Job(self, request, served, len(self.active), self._engine.queued)
        self.active[request_id] = job
        if self._observer is not None:
            self._observer.began(job)
        job.call = self._engine.submit(self._invocation(request, served), job)

    def stop_admitting(self) -> None:
        """Refuse whatever comes from now on."""
        self._is_draining = True

    def _found(self, name: str) -> Served | None:
        try:
            return self._served[self._engine.lookup(name).name]
        except UnknownFunctionError:
            return None

    def _refusal(self, request: JobRequest, served: Served) -> Refusal | None:
        """Return what speaks against a request, whatever else is under way."""
        name = served.spec.name
        gate = self._availability.gate(name)
        state = self._state()
        if gate is None and name in state.status:
            gate = terminal_gate(state, name, served.keys_of(request))
        if gate is not None:
            return admission.gated(request, gate)
        if 0 < self._limits.max_input_bytes < len(request.payload):
            return admission.too_large(request)
        if served.spec.resources.needs_gpu and self._device(request.compute) is _NOWHERE:
            return admission.no_such_device(request)
        return admission.draining() if self._is_draining else None

    def _overload(self) -> Refusal | None:
        """Return whether too much is under way."""
        limits, count = self._limits, len(self.active)
        if 0 < limits.max_concurrency <= count:
            return admission.busy()
        if count >= limits.max_queue and self._engine.queued >= limits.max_queue:
            return admission.overloaded()
        return None

    def _invocation(self, request: JobRequest, served: Served) -> Invocation:
        compute = request.compute
        return Invocation(
            function=served.spec.name,
            payload=request.payload,
            payload_format="msgpack",
            result_format="msgpack",
            request_id=request.request_id,
            models=served.models_of(request) if request.models else None,
            timeout_ms=request.timeout_ms if request.timeout_ms > 0 else None,
            owner=request.owner or None,
            invoker_id=request.invoker_id or None,
            job_id=request.job_id or None,
            hints=served.hints_of(request),
            compute=None if compute is None else _compute(compute),
            device=self._device(compute) if served.spec.resources.needs_gpu else None,
        )

    def _device(self, compute: ResolvedCompute | None) -> str | None:
        """Return the device that was chosen for a request; None when none was."""
        if compute is None or compute.accelerator != "cuda" or self._devices == {"cpu"}:
            return None
        device = f"cuda:{compute.gpu_index}"
        return device if device in self._devices else _NOWHERE

    # Stops.

    def interrupt(self, command: InterruptJob) -> None:
        """Cancel a request, or single items of it."""
        job = self.active.get(command.request_id)
        if job is None:
            _log.info("there is no request %r to interrupt", command.request_id)
            return
        if command.cancel_queued_only and job.call.has_begun:
            return
        items = frozenset(command.item_ids)
        if items and job.served.is_streamed and DEFAULT_ITEM_ID not in items:
            job.stopped_items |= items  # the others go on
            return
        job.call.token.cancel("caller")

    async def wait_idle(self) -> None:
        """Wait until no job is under way."""
        while self.active:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    # Out.

    def _finish(self, job: Job, outcome: Result | Failed) -> None:
        """Answer a request."""
        request, served = job.request, job.served
        self.active.pop(request.request_id, None)
        failure, payload = _settled(job, outcome)
        observation = self._observe(job, outcome.timings, failure)
        if served.is_streamed:
            self.outbox.end(self._marker(job, failure))
        if failure is None:
            result = JobResult(
                request_id=request.request_id,
                success=True,
                payload=payload,
                observation=observation,
            )
        else:
            result = JobResult(
                request_id=request.request_id,
                success=False,
                error_type=failure.error_type,
                retryable=failure.retryable,
                safe_message=failure.message,
                observation=observation,
            )
        self.outbox.result(result)
        if failure is not None:
            self._note_failure(job, failure)
        if self._observer is not None:
            self._observer.ended(job, outcome, observation)
        for ended in self._ended:
            ended(request.request_id)
        if self._idle is not None and not self.active:
            self._idle.set()
            self._idle = None

    def _marker(self, job: Job, failure: Failure | None) -> StreamDone | StreamError:
        if failure is None:
            return StreamDone(
                request_id=job.request.request_id,
                function=job.served.spec.name,
                sequence=0,
                timestamp_unix_ms=self.unix_ms(),
            )
        return StreamError(
            request_id=job.request.request_id,
            function=job.served.spec.name,
            sequence=0,
            timestamp_unix_ms=self.unix_ms(),
            error_message=failure.message,
        )

    def _note_failure(self, job: Job, failure: Failure) -> None:
        """Keep a function from running again on a machine that it told is not enough for it."""
        if failure.detail:
            _log.warning("%r failed: %s", job, failure.detail)
        if failure.error_type == "hardware_unmet" and self.hardware_unmet is not None:
            self.hardware_unmet(job.served.spec.name, failure)

    hardware_unmet: Callable[[str, Failure], None] | None = None
    """Told of a function whose own code found that this machine cannot run it."""

    def _observe(self, job: Job, timings: Timings, failure: Failure | None) -> Observation:
        identity, pace, served = self._identity(), job.pace, job.served
        took_ms = (perf_counter() - job.began_at) * 1000
        ram_bytes, vram_bytes = self.gauge.end(job.memory)
        return Observation(
            release_id=identity.release_id,
            function=served.spec.name,
            provider=identity.provider,
            worker_id=identity.worker_id,
            status="succeeded" if failure is None else "failed",
            error_type="" if failure is None else failure.error_type,
            runtime_ms=round(max(0.0, took_ms - timings.queue_ms)),
            local_queue_ms=round(timings.queue_ms),
            peak_memory_bytes=ram_bytes,
            peak_vram_bytes=vram_bytes,
            active_count_at_start=job.others,
            local_queued_count_at_start=job.queued,
            ttft_ms=0 if pace is None or pace.first_s is None else _at_least_1_ms(pace.first_s),
            itl_p50_ms=0 if pace is None else round(pace.median_s * 1000),
            scaling_factors=served.factors.of(job.request.payload) if served.factors else {},
        )

    def _refuse(self, request: JobRequest, refusal: Refusal) -> None:
        if self._observer is not None:
            self._observer.refused(request, refusal)
        identity = self._identity()
        self.outbox.result(
            JobResult(
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
                    active_count_at_start=len(self.active),
                ),
            )
        )


_NOWHERE = ""
"""A device that is not here."""


def _settled(job: Job, outcome: Result | Failed) -> tuple[Failure | None, bytes]:
    """Return how a job ends: its failure, or its payload."""
    if job.failure is not None:
        return job.failure, b""
    if isinstance(outcome, Failed):
        failure = outcome.failure
        if failure.error_type == "canceled" and job.call.token.reason == "shutdown":
            # Nobody but this worker wanted it to end: another one may run it.
            failure = msgspec.structs.replace(
                failure, error_type="retryable", retryable=True, message="worker busy"
            )
        return failure, b""
    try:
        return None, success_payload(outcome, job.served.spec.kind)
    except Exception as error:  # a value that MessagePack has no words for
        return classify(error), b""


def _at_least_1_ms(seconds: float) -> int:
    """Return milliseconds; 0 would say that nothing was measured."""
    return max(1, round(seconds * 1000))


def _compute(compute: ResolvedCompute) -> Compute:
    return Compute(
        accelerator=compute.accelerator,
        min_compute_capability=compute.min_compute_capability,
        vram_gb=compute.vram_gb,
        gpu_count=compute.gpu_count,
        gpu_tier=compute.gpu_tier or None,
        memory_gb=compute.memory_gb,
        cpu_cores=compute.cpu_cores,
        disk_gb=compute.disk_gb,
    )
