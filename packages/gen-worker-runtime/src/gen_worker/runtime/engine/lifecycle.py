"""Class endpoints: made and set up once, however many calls arrive meanwhile."""

from __future__ import annotations

import threading
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.errors import FunctionUnavailableError, classify, safe_text
from gen_worker.events import Emitted
from gen_worker.runtime.engine.errors import traceback_of
from gen_worker.runtime.engine.leasing import Leases, choose_models, request_for
from gen_worker.runtime.engine.slots import take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from gen_worker.runtime.engine.core import Core
    from gen_worker.runtime.engine.devices import Device
    from gen_worker.runtime.engine.handoff import Waiter
    from gen_worker.runtime.engine.interrupt import Region
    from gen_worker.runtime.engine.runners import Hop, Runner
    from gen_worker.runtime.engine.threads import Worker
    from gen_worker.spec import ClassSpec

__all__ = ["Endpoint", "Instance"]

State = Literal["new", "starting", "ready", "failed", "closed"]

_MAX_RETRY_S = 60.0
_SHOWN_CHARS = 2000
"""Of a traceback, whose end says the most."""
_MAX_VARIANTS = 2
"""Instances kept for callers who bring their own `setup` models, besides the author's."""


class Endpoint:
    """One class and its instances: the author's, and some for callers who override its models.

    The author's has twins on other devices: where calls are meant for those, or have to queue.
    """

    def __init__(self, spec: ClassSpec, core: Core) -> None:
        self.spec = spec
        self.setup_models = {p.name: p for p in spec.setup_parameters}
        self.needs_gpu = spec.resources.needs_gpu
        self.default = Instance(self, core, {})
        self._core = core
        self._variants: dict[bytes, Instance] = {}
        self._twins: dict[str, Instance] = {}
        """By device."""
        self._lock = threading.Lock()
        self.spreads = self.needs_gpu and len(core.devices.by_name) > 1

    def __repr__(self) -> str:
        return f"<Endpoint {self.spec.name}, {self.default.state}>"

    @property
    def is_open(self) -> bool:
        """Whether calls need nothing from here but the instance itself."""
        return self.default.state == "ready" and not self.setup_models

    def pick(self, overrides: Mapping[str, Any], device: str | None = None) -> Instance:
        """Return the instance for one call, set up or not. `leave` it when the call has ended."""
        wanted = {name: overrides[name] for name in self.setup_models if name in overrides}
        if not self.needs_gpu:
            device = None
        if not wanted:
            if device is None:
                return self._least_busy() if self._twins else self.default
            return self._on(device)
        choices = choose_models(self.setup_models, None, wanted)
        key = msgspec.json.encode((choices, device), order="sorted")
        with self._lock:
            instance = self._variants.pop(key, None)
            if instance is None or instance.state == "failed":
                instance = Instance(self, self._core, wanted)
            self._variants[key] = instance  # last, so that the first is the longest unused
            instance.users += 1
            return instance

    def _on(self, device: str) -> Instance:
        """Return the author's instance on a device."""
        with self._lock:
            if self.default.place is None:
                self.default.place = device
            if self.default.place == device or device not in self._core.devices.by_name:
                return self.default
            if device not in self._twins:
                twin = self._twins[device] = Instance(self, self._core, {})
                twin.place = device
            return self._twins[device]

    def _least_busy(self) -> Instance:
        """Return the one of the author's instances that has the shortest queue."""
        by_name, loads = self._core.devices.by_name, {}
        for instance in (self.default, *self._twins.values()):
            if instance.state == "ready" and instance.device is not None:
                loads[instance] = by_name[instance.device].slot.load
        return min(loads, key=loads.__getitem__, default=self.default)

    async def spread(self, chosen: Instance, runner: Runner) -> None:
        """Begin to set the class up on an idle device, if a call has to wait for another one.

        Nobody waits for that: the call keeps the instance that was chosen for it.
        """
        by_name = self._core.devices.by_name
        if chosen.is_variant or chosen.device is None or not by_name[chosen.device].slot.load:
            return
        for name, device in by_name.items():
            if not device.slot.load and await self._on(name).begin(runner):
                return

    async def retire(self, runner: Runner) -> None:
        """Shut every instance down; the next call has one set up anew."""
        with self._lock:
            retired = self.instances
            self.default = Instance(self, self._core, {})
            self._variants, self._twins = {}, {}
        for instance in retired:
            await instance.shut_down(runner)

    async def leave(self, instance: Instance, runner: Runner) -> None:
        """Say that a call no longer uses its instance; superfluous ones are shut down."""
        if not instance.is_variant:
            return
        with self._lock:
            instance.users -= 1
            idle = [key for key, variant in self._variants.items() if not variant.users]
            excess = idle[: max(0, len(self._variants) - _MAX_VARIANTS)]
            closing = [self._variants.pop(key) for key in excess]
        for variant in closing:
            await variant.shut_down(runner)

    @property
    def instances(self) -> list[Instance]:
        return [self.default, *self._twins.values(), *self._variants.values()]


class Instance:
    """One object of an author's class, and what its `setup` was given."""

    # As a traveler and occupant of threads; see `runners.Traveler` and `interrupt.Occupant`.
    hop: Hop[Any] | None = None
    worker: Worker | None = None
    region: Region | None = None

    def __init__(self, endpoint: Endpoint, core: Core, overrides: Mapping[str, Any]) -> None:
        self.object: Any = None
        self.state: State = "new"
        self.users = 0
        self.is_variant = bool(overrides)
        """Whether it is for callers with models of their own, and given up when there are many."""
        self.place: str | None = None
        """Where it is to be set up; None leaves that to who asks first."""
        self.device: str | None = None
        """Where it was set up; None when it needs no device."""
        self.warmup_ms: float | None = None
        """What its `warmup` took."""
        self.prepared: dict[str, object] = {}
        """Its models, to be leased again by each call."""
        self.choices = choose_models(endpoint.setup_models, None, overrides)
        self.token = CancelToken()
        self._endpoint = endpoint
        self._core = core
        self._lock = threading.Lock()
        self._waiting: list[Waiter] = []
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        """Of the failed attempt; every caller's copy of the error grows its own."""
        self._attempts = 0
        self._retry_at = 0.0

    def __repr__(self) -> str:
        return f"<Instance of {self._endpoint.spec.name}, {self.state}>"

    async def set_up(self, token: CancelToken, runner: Runner, device: str | None) -> None:
        """Make sure it is set up; all who ask meanwhile share one attempt.

        Args:
            token: Ends the waiting of one caller, not the attempt.
            runner: Where the attempt runs.
            device: The device the caller wants.

        Raises:
            FunctionUnavailableError: It failed before, and it is too early to try again.
            BaseException: What this attempt failed with.
        """
        waiter = runner.waiter()
        with self._lock:
            if self.state == "ready":
                return
            if self.state == "closed" or self._retry_at > self._core.clock.now():
                raise self._unavailable()
            begins = self.state != "starting"
            self.state = "starting"
            self._waiting.append(waiter)
        if begins:
            await runner.apart(self._attempt(runner, device))
        await waiter.wait(token)
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)

    async def begin(self, runner: Runner) -> bool:
        """Begin to set it up for later calls, unless it is, or failed just now; tell whether."""
        with self._lock:
            is_early = self._retry_at > self._core.clock.now()
            if self.state not in ("new", "failed") or is_early:
                return False
            self.state = "starting"
        await runner.apart(self._attempt(runner, self.place))
        return True

    async def shut_down(self, runner: Runner) -> None:
        """Call the author's `shutdown`, once, if `setup` succeeded."""
        with self._lock:
            was_ready, self.state = self.state == "ready", "closed"
        self.token.cancel("shutdown")
        if was_ready:
            await self._end(runner, self.object)
        elif self.region is not None:
            self._core.interrupter.interrupt(self.region, self)
        elif self.hop is not None:
            self.hop.call_back(self.token.error())

    async def _end(self, runner: Runner, made: Any) -> None:
        if not self._endpoint.spec.has_shutdown:
            return
        try:
            await self._author(runner, made.shutdown)
        except Exception:
            import logging

            logging.getLogger("gen_worker.runtime").exception("shutdown of %r failed", self)

    async def _attempt(self, runner: Runner, device: str | None) -> None:
        error: BaseException | None = None
        try:
            await self._set_up(runner, device)
            if self.token.reason is not None:  # shut down meanwhile, and nobody else will end it
                await self._end(runner, self.object)
        except BaseException as caught:  # judged by each waiting call
            error = caught
        with self._lock:
            self._error = error
            self._traceback = error.__traceback__ if error is not None else None
            waiting, self._waiting = self._waiting, []
            if self.state == "starting":
                self.state = "ready" if error is None else "failed"
            if error is not None:
                self._attempts += 1
                pause_s = self._core.limits.setup_retry_s * 2 ** (self._attempts - 1)
                self._retry_at = self._core.clock.now() + min(pause_s, _MAX_RETRY_S)
        if error is not None:
            self._tell("worker.function_unavailable", "setup_failed", error)
        for waiter in waiting:
            waiter.wake()
        if isinstance(error, KeyboardInterrupt):
            raise error

    async def _set_up(self, runner: Runner, device: str | None) -> None:
        endpoint = self._endpoint
        asks = request_for(endpoint.spec, self.token, is_setup=True)
        leases = Leases(self._core.ports.models, runner, asks)
        await leases.prepare(endpoint.setup_models, self.choices)
        place = None
        if endpoint.needs_gpu:
            place = self._core.devices.pick(self.place or device)
            self.place = place.name
        if place is not None:
            await take(place.slot, runner.waiter, self.token)
        try:
            models = await leases.open("cpu" if place is None else place.name)
            made = await self._author(runner, endpoint.spec.cls, place)
            if endpoint.spec.has_setup:
                await self._author(runner, partial(made.setup, **models), place)
            if endpoint.spec.has_warmup:
                await self._warm_up(runner, made, place)
        finally:
            try:
                await leases.close()
            finally:
                if place is not None:
                    place.slot.give_back()
        self.object, self.prepared = made, leases.prepared
        self.device = None if place is None else place.name

    async def _warm_up(self, runner: Runner, made: Any, place: Device | None) -> None:
        self._core.notice_warmup(self._endpoint.spec.name)
        since = perf_counter()
        try:
            await self._author(runner, made.warmup, place)
            self.warmup_ms = (perf_counter() - since) * 1000
        except Exception as error:  # a cold first call is better than none
            self._tell("worker.warmup_failed", "warmup_failed", error)

    async def _author(
        self, runner: Runner, function: Callable[[], Any], place: Device | None = None
    ) -> Any:
        pool = self._core.threads if place is None else place.pool
        value = await runner.blocking(self, partial(self._call, function), pool)
        return await runner.coroutine(value) if hasattr(value, "__await__") else value

    def _call(self, function: Callable[[], Any], region: Region) -> Any:
        self.region = region
        try:
            return region.call(self, function)
        finally:
            self.region = None

    def _unavailable(self) -> FunctionUnavailableError:
        name = self._endpoint.spec.name
        if self.state == "closed":
            return FunctionUnavailableError(f"{name} is shut down", reason="shut_down")
        left_s = max(0.0, self._retry_at - self._core.clock.now())
        cause = f": {classify(self._error).message}" if self._error else ""
        error = FunctionUnavailableError(
            f"setup of {name} failed{cause}; it is tried again in {left_s:.1f} s",
            reason="setup_failed",
        )
        error.retry_after_s = left_s  # type: ignore[attr-defined]  # `classify` reports it
        return error

    def _tell(self, event: str, reason: str, error: BaseException) -> None:
        spec = self._endpoint.spec
        self._core.ports.events.emit(
            Emitted(
                request_id="",
                type=event,
                payload={
                    "class_name": spec.name,
                    "functions": [function.name for function in spec.functions],
                    "reason": reason,
                    "error_type": type(error).__name__,
                    "message": safe_text(str(error)),
                    "attempt": max(1, self._attempts),
                },
                at=self._core.clock.time(),
            )
        )
        from gen_worker.diagnostics import emit_diagnostic_log  # late: its patterns cost 3 ms

        emit_diagnostic_log(
            f"serial_{reason.removesuffix('_failed')}",
            f"{type(error).__name__}: {error}",
            {
                "exception_class": type(error).__name__,
                "traceback": traceback_of(error)[-_SHOWN_CHARS:],
            },
            severity="error",
            endpoint_class=spec.name,
        )
