"""Jobs: from the orchestrator's request to the engine, and from there back to the outbox."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gen_worker.errors import UnknownFunctionError
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.telemetry.memory import MemoryGauge
from gen_worker.runtime.wire import DEFAULT_ITEM_ID
from gen_worker.runtime.worker import admission, answers
from gen_worker.runtime.worker.endpoint_config import terminal_gate
from gen_worker.runtime.worker.gpus import is_of_tier
from gen_worker.runtime.worker.job import Job
from gen_worker.runtime.worker.serving import Served, served_functions
from gen_worker.types import Compute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.errors import Failure
    from gen_worker.events import Failed, Result
    from gen_worker.runtime.engine import Engine
    from gen_worker.runtime.wire import InterruptJob, JobRequest, Observation, ResolvedCompute
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
        devices: Mapping[str, str],
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
            devices: Of the engine, and what each GPU is called.
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
        self._devices = devices
        self._limits = limits or JobLimits()
        self._observer = observer
        self._ended = tuple(ended)
        self._unix_time = unix_time
        self._served = served_functions(engine.functions)
        self.gauge = MemoryGauge() if gauge is None else gauge
        self._is_draining = False
        self._idle: asyncio.Event | None = None
        self._odd_tier = ""

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
        return any(job.served.needs_gpu for job in self.active.values())

    # In.

    def submit(self, request: JobRequest) -> None:
        """Run a request, or answer why not. One whose id is here already shares its answer."""
        request_id = request.request_id
        if request_id in self.active or self.outbox.repeat(request_id):
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
        if served.needs_gpu and request.compute is not None:
            self._check_tier(request.request_id, request.compute)
        others = len(self.active)
        job = Job(
            self,
            request,
            served,
            self._invocation(request, served),
            others=others,
            queued=self._engine.queued if others else 0,
        )
        self.active[request_id] = job
        if self._observer is not None:
            self._observer.began(job)
        job.call = self._engine.submit(job.invocation, job, token=job.token)

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
        name = served.name
        gate = self._availability.gate(name)
        state = self._state()
        if gate is None and name in state.status:
            gate = terminal_gate(state, name, served.keys_of(request))
        if gate is not None:
            return admission.gated(request, gate)
        if 0 < self._limits.max_input_bytes < len(request.payload):
            return admission.too_large(request)
        if served.needs_gpu and self._device(request.compute) is _NOWHERE:
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
            function=served.name,
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
            device=self._device(compute) if served.needs_gpu else None,
        )

    def _device(self, compute: ResolvedCompute | None) -> str | None:
        """Return the device that was chosen for a request; None when none was."""
        if compute is None or compute.accelerator != "cuda" or "cpu" in self._devices:
            return None
        device = f"cuda:{compute.gpu_index}"
        return device if device in self._devices else _NOWHERE

    def _check_tier(self, request_id: str, compute: ResolvedCompute) -> None:
        """Warn of a request that is meant for another kind of GPU; once, while they all are."""
        tier, device = compute.gpu_tier, self._device(compute)
        if not tier or tier == self._odd_tier:
            return
        names = self._devices.values() if device is None else (self._devices[device],)
        if not any(is_of_tier(name, tier) for name in names):
            self._odd_tier = tier
            found = ", ".join(sorted({name or "no GPU" for name in names}))
            _log.warning(
                "request %r is meant for a GPU %r, and here is %s", request_id, tier, found
            )

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
        job.token.cancel("caller")

    async def wait_idle(self) -> None:
        """Wait until no job is under way."""
        while self.active:
            if self._idle is None:
                self._idle = asyncio.Event()
            await self._idle.wait()

    # Out.

    def finish(self, job: Job, outcome: Result | Failed) -> None:
        """Answer a job."""
        request_id = job.request.request_id
        self.active.pop(request_id, None)
        failure, payload = answers.settle(job, outcome)
        observation = answers.observe(
            job, outcome.timings, failure, self._identity(), self.gauge.end(job.memory)
        )
        if job.served.is_streamed:
            self.outbox.end(answers.end_marker(job, failure, self.unix_ms()))
        self.outbox.result(answers.result(request_id, failure, payload, observation))
        if failure is not None:
            self._note_failure(job, failure)
        if self._observer is not None:
            self._observer.ended(job, outcome, observation)
        for ended in self._ended:
            ended(request_id)
        if self._idle is not None and not self.active:
            self._idle.set()
            self._idle = None

    def _note_failure(self, job: Job, failure: Failure) -> None:
        """Keep a function from running again on a machine that it told is not enough for it."""
        if failure.detail:
            _log.warning("%r failed: %s", job, failure.detail)
        if failure.error_type == "hardware_unmet" and self.hardware_unmet is not None:
            self.hardware_unmet(job.served.spec.name, failure)

    hardware_unmet: Callable[[str, Failure], None] | None = None
    """Told of a function whose own code found that this machine cannot run it."""

    def _refuse(self, request: JobRequest, refusal: Refusal) -> None:
        _log.info(
            "request %.200r of %.200r is refused: %s",
            request.request_id,
            request.function,
            refusal.event["reason"],
        )
        if self._observer is not None:
            self._observer.refused(request, refusal)
        self.outbox.result(
            answers.refused(request, refusal, self._identity(), others=len(self.active))
        )


_NOWHERE = ""
"""A device that is not here."""


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
