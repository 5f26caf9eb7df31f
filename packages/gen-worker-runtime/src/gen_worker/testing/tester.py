"""Run an endpoint in a test: the real engine, without a server."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, cast

from gen_worker.cancel import CancelToken
from gen_worker.runtime import Engine, EngineLimits, Invocation
from gen_worker.spec import FunctionSpec, specs_of
from gen_worker.testing.clock import VirtualClock
from gen_worker.testing.closing import Closing
from gen_worker.testing.loop_thread import LoopThread
from gen_worker.testing.ports import (
    FakeFiles,
    FakeModels,
    FakePublisher,
    Faults,
    RecordedEvents,
    fake_ports,
)
from gen_worker.testing.results import TesterCall, TesterResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from gen_worker.ports import Models
    from gen_worker.runtime import EngineStatistics

__all__ = ["EndpointTester", "functions_in"]

_LIMITS = EngineLimits()


class EndpointTester(Closing):
    """Calls the functions of an endpoint as a server would, and shows all that came of it.

    A context manager, for plain tests and, with `async with`, for async ones. It has an event loop
    in a thread of its own, so `run` and the like work in both.
    """

    __test__ = False  # pytest would take it for a test class

    def __init__(
        self,
        target: ModuleType | Callable[..., Any] | type | FunctionSpec | Iterable[Any],
        *,
        models: Mapping[str, Any] | Models | None = None,
        limits: EngineLimits = _LIMITS,
        devices: Sequence[str] = ("cpu",),
        clock: VirtualClock | None = None,
        is_inline: bool = False,
    ) -> None:
        """Look the endpoint through.

        Args:
            target: A module, a decorated function or class, a `FunctionSpec`, or several of them.
            models: The object that each model parameter receives, by its name (or by ref, for
                dispatch tables), or a `Models` port of your own.
            limits: The engine's.
            devices: The engine's.
            clock: Time for deadlines; a clock of its own by default.
            is_inline: Run calls in the test's thread, as `gen-worker run` does. `start` and
                `stream` need a loop and are not available then.

        Raises:
            ValueError: There is no function in `target`.
        """
        functions = functions_in(target)
        if not functions:
            raise ValueError(f"{target!r} defines no function: decorate one first")
        self._directory = tempfile.TemporaryDirectory(prefix="gen-worker-test-")
        self._faults = Faults()
        self._ports = fake_ports(Path(self._directory.name), functions, models, self._faults)
        self.clock = VirtualClock() if clock is None else clock
        self.engine = Engine(
            functions, self._ports, limits=limits, devices=devices, clock=self.clock
        )
        self._is_inline = is_inline
        self._ids = itertools.count(1)
        self._loop: LoopThread | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<EndpointTester of {', '.join(self.engine.functions)}>"

    # The host

    @property
    def files(self) -> FakeFiles:
        """Inputs to add, and outputs to read."""
        return cast("FakeFiles", self._ports.files)

    @property
    def models(self) -> FakeModels:
        """The fake models; your own port when you gave one."""
        return cast("FakeModels", self._ports.models)

    @property
    def events(self) -> RecordedEvents:
        """Telemetry of all calls, and of none."""
        return cast("RecordedEvents", self._ports.events)

    @property
    def publisher(self) -> FakePublisher:
        return cast("FakePublisher", self._ports.publisher)

    def fail(self, method: str, error: BaseException, times: int | None = 1) -> None:
        """Let a port method raise, such as `fail("files.save", OSError("disk full"))`.

        Args:
            method: Port and method: `files.materialize`, `files.save`, `files.open_output`,
                `models.prepare`, `models.lease`, `models.escalate`, `publisher.put`, …
            error: What it raises.
            times: How often, before it works again; None means always.
        """
        self._faults.script(method, error, times)

    # Calls

    def run(
        self, function: str | Callable[..., Any], payload: Any = None, **fields: Any
    ) -> TesterResult:
        """Run a call to its end. A failure is in the result; reading its `value` raises it.

        Args:
            function: Its name, or the decorated function itself.
            payload: A struct, a mapping, or JSON bytes; None stands for an empty object.
            **fields: Other fields of the `Invocation`, such as `timeout_ms`.
        """
        if not self._is_inline:
            return self.start(function, payload, **fields).wait(timeout_s=60.0)
        invocation = self._invocation(function, payload, fields)
        call = TesterCall(invocation.request_id, CancelToken(), self.events)
        self.engine.run(invocation, call, token=call.token)
        return call.wait()

    def start(
        self, function: str | Callable[..., Any], payload: Any = None, **fields: Any
    ) -> TesterCall:
        """Start a call and return at once: to cancel it, to let time pass, to wait for it."""
        invocation = self._invocation(function, payload, fields)
        call = TesterCall(invocation.request_id, CancelToken(), self.events)
        self._looping.call(lambda: self.engine.submit(invocation, call, token=call.token))
        return call

    def stream(
        self, function: str | Callable[..., Any], payload: Any = None, **fields: Any
    ) -> Iterator[Any]:
        """Yield what the function yields, as it comes; a failure is raised at the end."""
        return self.start(function, payload, **fields).iterate()

    async def call(
        self, function: str | Callable[..., Any], payload: Any = None, **fields: Any
    ) -> TesterResult:
        """Await a call in an async test; canceling this coroutine cancels the call."""
        call = self.start(function, payload, **fields)
        try:
            return await asyncio.to_thread(call.wait, 60.0)
        except asyncio.CancelledError:
            call.cancel()
            raise

    def setup(self) -> None:
        """Set the classes up now; what a failing `setup` raised is raised."""
        if self._is_inline:
            self.engine.setup_now()
        else:
            self._looping.wait(self.engine.setup())

    def statistics(self) -> EngineStatistics:
        """Return what the engine has done; a call that was answered is counted in it."""
        with self._lock:
            loop = self._loop
        # On the loop: it answers a call first and counts it then, in one step.
        return self.engine.statistics() if loop is None else loop.call(self.engine.statistics)

    # Life

    def close(self, grace_s: float = 5.0) -> None:
        """Cancel what runs, shut the classes down, and remove all files."""
        with self._lock:
            loop, self._loop = self._loop, None
        try:
            if loop is None:
                self.engine.close_now(grace_s)
            else:
                loop.wait(self.engine.close(grace_s))
                loop.close()
        finally:
            self._directory.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    # Inside

    @property
    def _looping(self) -> LoopThread:
        with self._lock:
            if self._is_inline:
                raise RuntimeError("an inline tester has no event loop: leave is_inline out")
            if self._loop is None:
                self._loop = LoopThread("endpoint-tester")
            return self._loop

    def _invocation(
        self, function: str | Callable[..., Any], payload: Any, fields: dict[str, Any]
    ) -> Invocation:
        name = function if isinstance(function, str) else _only_spec(function).name
        if isinstance(payload, bytes):
            fields.setdefault("payload_format", "json")
        else:
            fields.setdefault("payload_format", "object")
        fields.setdefault("request_id", f"test-{next(self._ids)}")
        return Invocation(function=name, payload={} if payload is None else payload, **fields)


def functions_in(target: Any) -> list[FunctionSpec]:
    """Return the functions of a module, of something decorated, or of several of them."""
    if isinstance(target, FunctionSpec):
        return [target]
    if isinstance(target, ModuleType):
        members = [m for m in vars(target).values() if _is_defined_in(m, target)]
    elif specs := specs_of(target):
        return list(specs)
    elif isinstance(target, type) or callable(target):
        return []
    else:
        members = list(target)
    return list(dict.fromkeys(spec for member in members for spec in functions_in(member)))


def _is_defined_in(member: Any, module: ModuleType) -> bool:
    return bool(specs_of(member)) and getattr(member, "__module__", "") == module.__name__


def _only_spec(function: Callable[..., Any]) -> FunctionSpec:
    specs = specs_of(function)
    if len(specs) != 1:
        raise ValueError(f"{function!r} stands for {len(specs)} functions: give the name of one")
    return specs[0]
