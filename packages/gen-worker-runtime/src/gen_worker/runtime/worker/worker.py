"""The worker put together: one connection, one engine, and what is between them."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from gen_worker.context.local import off_loop
from gen_worker.models.keyed import with_keyspaces
from gen_worker.runtime.engine import SYSTEM_CLOCK, Engine
from gen_worker.runtime.telemetry.diagnostics import WorkerIdentity
from gen_worker.runtime.telemetry.memory import MemoryGauge
from gen_worker.runtime.telemetry.metrics import WorkerFigures
from gen_worker.runtime.telemetry.telemetry import Telemetry
from gen_worker.runtime.telemetry.tracing import open_tracer
from gen_worker.runtime.wire import (
    DownloadModel,
    Drain,
    EndpointConfig,
    FunctionUnavailable,
    InterruptJob,
    JobRequest,
    LoadModel,
    ModelReady,
    UnloadModel,
    WorkerEvent,
)
from gen_worker.runtime.worker.availability import Availability, Gate
from gen_worker.runtime.worker.catalog import bound_models
from gen_worker.runtime.worker.endpoint_config import apply, initial_state
from gen_worker.runtime.worker.gpus import host_facts
from gen_worker.runtime.worker.hosting import Seams, worker_ports
from gen_worker.runtime.worker.identity import identity_of
from gen_worker.runtime.worker.inventory import Inventory
from gen_worker.runtime.worker.jobs import JobLimits, Jobs
from gen_worker.runtime.worker.leaving import Leaving
from gen_worker.runtime.worker.link import Link
from gen_worker.runtime.worker.model_room import ModelRoom
from gen_worker.runtime.worker.models import WorkerModels
from gen_worker.runtime.worker.options import WorkerOptions
from gen_worker.runtime.worker.phases import Dials, Phases
from gen_worker.runtime.worker.reporting import tell
from gen_worker.runtime.worker.token import ROTATIONS, ConnectionToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gen_worker.errors import Failure
    from gen_worker.manifest import Manifest
    from gen_worker.models.injection import Keyspaces
    from gen_worker.models.residency import TierChange
    from gen_worker.ports import Ports
    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.wire import Message, Registration, ResolvedRepo
    from gen_worker.runtime.worker.job import Job
    from gen_worker.runtime.worker.outbox import OutboxLimits, Role
    from gen_worker.runtime.worker.states import Exit, LinkPolicy
    from gen_worker.spec import FunctionSpec

__all__ = ["Worker", "WorkerOptions"]

_log = logging.getLogger("gen_worker.worker")


class Worker:
    """Runs the functions of an image for an orchestrator; the handler of its connection.

    For the thread of the loop it was made on, like everything it is made of.
    """

    def __init__(
        self,
        functions: Iterable[FunctionSpec],
        policy: LinkPolicy,
        options: WorkerOptions,
        *,
        manifest: Manifest | None = None,
        make_ports: Callable[[Seams], Ports] = worker_ports,
        outbox_limits: OutboxLimits | None = None,
        read_token: Callable[[], str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Put a worker together; nothing is dialed yet.

        Args:
            functions: What it runs.
            policy: How it connects.
            options: How it works.
            manifest: What its image was built with; None knows no keys of models.
            make_ports: Makes the host that functions see.
            outbox_limits: Of what waits to be written.
            read_token: Reads the token anew before each connect; it may have been replaced where it
                is kept.
            clock: For every timer.
        """
        self.options = options
        self.identity = identity_of(
            options.token, worker_id=options.worker_id, runpod_pod_id=options.runpod_pod_id
        )
        self._token = ConnectionToken(options.token, read_token)
        self._clock = clock
        self.link = self._make_link(policy, outbox_limits)
        self.phases = Phases(self.link.outbox, self.identity.worker_id)
        self._dials = Dials(self.phases)
        self._loop = asyncio.get_running_loop()
        self._signature = ""
        self._is_told_ready = False
        """Whether this connection was told that the worker is."""
        self._connections = 0
        keyed = self._key(functions, manifest)
        gauge = MemoryGauge()
        self.telemetry = self._make_telemetry(gauge)
        self.models = WorkerModels(
            self.telemetry, self._find_repo, observe=self._note_move, renewal_s=options.renewal_s
        )
        self._seams = Seams(self.telemetry, self.models, self._find_job, [], [])
        ports = self.telemetry.watch(make_ports(self._seams))
        gpus = {f"cuda:{index}": gpu.name for index, gpu in enumerate(options.gpus)} or {"cpu": ""}
        devices = tuple(gpus)
        self.engine = Engine(keyed, ports, limits=options.limits, devices=devices, clock=clock)
        self.engine.on_warmup(self._note_warmup)
        self.availability = Availability(self.engine.functions, host_facts(options.gpus))
        self.jobs = self._make_jobs(gpus, gauge)
        self.room = self._make_room(devices)
        self.inventory = self._make_inventory()
        self.leaving = Leaving(self.engine, self.jobs, self.link, options.times, clock)
        self.telemetry.metrics.gather(self.engine.statistics, self._figures)

    def _key(
        self, functions: Iterable[FunctionSpec], manifest: Manifest | None
    ) -> list[FunctionSpec]:
        """Have functions read the keys of models from the state, and begin it with those models."""
        self.state = initial_state(manifest)
        keyed = [with_keyspaces(one, partial(self._keyspaces, one.name)) for one in functions]
        models = bound_models(keyed, self.state)
        self.state = initial_state(manifest, [model.choice.target for model in models])
        return keyed

    def _make_link(self, policy: LinkPolicy, limits: OutboxLimits | None) -> Link:
        return Link(
            policy,
            self,
            heartbeat_s=self.options.heartbeat_s,
            splits=self.options.splits,
            limits=limits,
            clock=self._clock,
        )

    def _make_inventory(self) -> Inventory:
        return Inventory(
            lambda: self.identity,
            self.availability,
            self.jobs,
            gpus=self.options.gpus,
            models=self.models.places,
            splits=self.options.splits,
        )

    def _make_telemetry(self, gauge: MemoryGauge) -> Telemetry:
        outbox = self.link.outbox
        return Telemetry(
            outbox,
            policy=self.options.telemetry,
            identity=lambda: WorkerIdentity(*self.identity),
            shed=lambda: outbox.statistics().shed,
            gauge=gauge,
            tracer=open_tracer(self.options.traces_endpoint),
            clock=self._clock,
        )

    def _make_jobs(self, gpus: Mapping[str, str], gauge: MemoryGauge) -> Jobs:
        limits = self.options.limits
        jobs = Jobs(
            self.engine,
            self.link.outbox,
            lambda: self.identity,
            self.availability,
            lambda: self.state,
            devices=gpus,
            limits=JobLimits(
                max_input_bytes=limits.max_input_bytes,
                max_concurrency=self.options.max_concurrency,
                max_queue=limits.max_queue,
            ),
            observer=self.telemetry,
            gauge=gauge,
            ended=self._seams.ended,
            unix_time=self._clock.time,
        )
        jobs.hardware_unmet = self._disable
        return jobs

    def _make_room(self, devices: Sequence[str]) -> ModelRoom:
        return ModelRoom(
            self.engine,
            self.jobs,
            self.availability,
            self.models,
            self.link.outbox,
            lambda: self.state,
            devices=devices,
            parallel=self.options.parallel_downloads,
            config_grace_s=self.options.config_grace_s,
            changed=self._changed,
            hardware_unmet=self._disable,
            clock=self._clock,
        )

    async def run(self) -> Exit:
        """Work until there is a reason to end; return it. What is owed then is written."""
        self.phases.log("boot")
        if not self.engine.functions:
            _log.error("this image has no functions: every job will be refused")
        try:
            exit = await self.link.run()
        finally:
            await self.room.close()
            await self.leaving.finish()
            self.telemetry.close()
            await self.models.close()
            for close in self._seams.closes:
                await off_loop(close)
        if exit.code:
            self.phases.log(exit.phase, "error", detail=exit.detail)
        return exit

    @property
    def is_ready(self) -> bool:
        """Whether an orchestrator had better send its requests here now."""
        return self.link.is_connected and self.room.is_settled and not self.leaving.has_begun

    def stop(self, reason: str) -> None:
        """End because the machine wants it; see `Leaving.stop`."""
        self.leaving.stop(reason, self.identity.worker_id)

    # The connection's handler.

    def token(self) -> str:
        """Return the token to connect with next; empty for none."""
        return self._token.current()

    def dialing(self, address: str) -> None:
        """Note that an orchestrator is dialed."""
        self._dials.begin(address)

    def registration(
        self, *, role: Role, is_heartbeat: bool, stream_started_unix_ms: int
    ) -> Registration:
        """Return the first message of a stream, or a heartbeat."""
        return self.inventory.registration(
            role=role,
            is_heartbeat=is_heartbeat,
            stream_started_unix_ms=stream_started_unix_ms,
            unsent=self.link.outbox.unsent_request_ids(),
        )

    def opened(self) -> None:
        """Tell a new orchestrator everything it cannot know."""
        self._connections += 1
        self._dials.succeed()
        self._signature, self._is_told_ready = "", False
        self._tell_capabilities()
        for function, gate in self.availability.disabled_here.items():
            self._tell_unavailable(function, gate)
        self.phases.say("registered")
        if self.options.ready_on_connect:
            tell(self.link.outbox, "model.ready", {})
        self.phases.say("models_downloading")
        self.room.begin()
        self._tell_ready()

    def unreached(self, reason: str) -> None:
        """Note that the orchestrator cannot be had; it is dialed again."""
        self._dials.fail(reason)

    def lost(self, reason: str) -> None:
        """Note that the connection is gone; jobs go on."""
        _log.info("%s: %s", "left" if self.leaving.has_begun else "connection lost", reason)

    def receive(self, message: Message) -> None:
        """Take what the orchestrator says; nothing here waits."""
        match message:
            case JobRequest():
                self.jobs.submit(message)
            case InterruptJob():
                self.jobs.interrupt(message)
            case LoadModel():
                self.room.commands.load(message)
            case UnloadModel():
                self.room.commands.unload(message)
            case DownloadModel():
                self.room.commands.download(message)
            case EndpointConfig():
                self._configure(message)
            case Drain():
                self.leaving.drain(message)
            case WorkerEvent() if message.event_type in ROTATIONS:
                self._token.rotate(message)
            case _:
                _log.info("%r is not for a worker and is ignored", message)

    # Inside.

    def _configure(self, config: EndpointConfig) -> None:
        before, self.state = self.state, apply(self.state, config)
        self.availability.configure(self.state.disabled)
        self.models.news()
        self.room.configure(before)
        self._changed()

    def _note_warmup(self, name: str) -> None:
        """Tell that a class warms up; in any thread."""
        say = partial(self.phases.say, "warming", "starting", class_name=name)
        self._loop.call_soon_threadsafe(say)

    def _note_move(self, change: TierChange) -> None:
        """Note that a model came to another place; in the thread that moved it."""
        self._loop.call_soon_threadsafe(self._moved, change)

    def _moved(self, change: TierChange) -> None:
        """Note that a model came to another place."""
        if self.options.emits_tiers and change.now != "cold":
            self.link.outbox.control(
                ModelReady(
                    model_id=f"{change.model_id}\ttier={change.now.upper()}",
                    kind="ready" if change.now == "vram" else "cached",
                ),
                replaces=("tier", change.model_id),
            )
        self._changed()

    def _changed(self) -> None:
        """Tell that other functions run than before, or that models are elsewhere."""
        self._tell_capabilities()
        self.link.heartbeat()
        self._tell_ready()

    def _tell_capabilities(self) -> None:
        """Say what functions need and which run, unless this orchestrator knows."""
        capabilities = self.availability.capabilities()
        if capabilities.signature != self._signature:
            self._signature = capabilities.signature
            self.link.outbox.control(capabilities, replaces="capabilities")

    def _tell_ready(self) -> None:
        if self.is_ready and not self._is_told_ready:
            self._is_told_ready = True
            self.phases.say("ready")
        self._tell_disk()

    def _tell_disk(self) -> None:
        """Say which models are on the disk, if they are others than before."""
        if self.options.cas_dir:
            self.telemetry.disk_models(self.models.places().disk, self.options.cas_dir)

    def _keyspaces(self, function: str) -> Keyspaces:
        state = self.state
        return {"fixed": state.models, "payload": state.models_by_function.get(function, {})}

    def _disable(self, function: str, failure: Failure) -> None:
        """Keep a function from running here, because its own code said that it cannot."""
        gate = Gate(failure.code or "hardware_unmet", failure.message, is_hardware=True)
        if self.availability.disable(function, gate):
            self._tell_unavailable(function, gate)
            self._changed()

    def _tell_unavailable(self, function: str, gate: Gate) -> None:
        signal = FunctionUnavailable(
            worker_id=self.identity.worker_id,
            release_id=self.identity.release_id,
            function=function,
            reason=gate.reason,
            detail=gate.detail,
            detected_at_unix=int(self._clock.time()),
            axes=gate.axes,
        )
        self.link.outbox.control(signal, replaces=("unavailable", function))

    def _figures(self) -> WorkerFigures:
        """Return what Prometheus is told besides the engine's figures."""
        places = self.models.places()
        return WorkerFigures(
            outbox=self.link.outbox.statistics(),
            connections=self._connections,
            is_connected=self.link.is_connected,
            models={"vram": places.vram, "ram": places.ram, "disk": places.disk},
            model_bytes=self.models.memory_bytes(),
        )

    def _find_job(self, request_id: str) -> Job | None:
        return self.jobs.find(request_id)

    def _find_repo(self, request_id: str, ref: str) -> ResolvedRepo | None:
        """Return what a ref means to a request; what the request says comes first. Any thread."""
        job = self.jobs.find(request_id) if request_id else None
        found = job.repos.get(ref) if job is not None else None
        return found or self.state.repos.get(ref)
