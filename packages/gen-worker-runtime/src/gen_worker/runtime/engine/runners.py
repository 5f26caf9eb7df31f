"""The two places a call can run in: the caller's thread, or an event loop with threads."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gen_worker.gpus import CurrentGpu
from gen_worker.runtime.engine.handoff import LoopPort, LoopWaiter, ThreadWaiter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from gen_worker.runtime.engine.calls import RunningCall
    from gen_worker.runtime.engine.handoff import Waiter
    from gen_worker.runtime.engine.interrupt import Region
    from gen_worker.runtime.engine.threads import ThreadPool, Worker

__all__ = ["Hop", "InlineRunner", "LoopRunner", "Runner", "Traveler"]

T = TypeVar("T")

_IS_EAGER = sys.version_info >= (3, 12)
"""Whether a task may take its first steps at once, which spares most calls a turn of the loop."""


class Traveler(Protocol):
    """What may have a part of itself run in another thread: a call, a batch, a class's setup."""

    hop: Hop[Any] | None
    """The part that is under way, so that a cancel can call it back before a thread takes it."""
    worker: Worker | None


class Runner(Protocol):
    """How the one pipeline waits and where it calls the author. Coroutines never suspend inline."""

    is_inline: bool

    def waiter(self) -> Waiter: ...

    async def port(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run what a port of the host returned."""
        ...

    async def blocking(
        self, traveler: Traveler, function: Callable[[Region], T], pool: ThreadPool
    ) -> T:
        """Call a function that blocks and runs author code; the pool's GPU is current then."""
        ...

    async def coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the author's that is no handler, such as an async `setup`."""
        ...

    async def apart(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run work that several calls wait for, so that it outlives a cancel of this one."""
        ...


class InlineRunner:
    """Everything happens in the current thread, one thing after the other."""

    __slots__ = ("_run_coroutine", "_run_port", "region")

    is_inline = True

    def __init__(
        self,
        region: Region,
        run_port: Callable[[Coroutine[Any, Any, Any]], Any],
        run_coroutine: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self.region = region
        self._run_port = run_port
        self._run_coroutine = run_coroutine

    def waiter(self) -> Waiter:
        return ThreadWaiter()

    async def port(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._run_port(coroutine)
        return result

    async def blocking(
        self, traveler: Traveler, function: Callable[[Region], T], pool: ThreadPool
    ) -> T:
        if pool.gpu is not None:
            return _on_gpu(pool.gpu, function, self.region)
        return function(self.region)

    async def coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._run_coroutine(coroutine)
        return result

    async def apart(self, coroutine: Coroutine[Any, Any, None]) -> None:
        await coroutine


class LoopRunner:
    """A task on the loop; whatever blocks goes to a thread."""

    __slots__ = ("_apart", "_make_task", "loop", "port_to_loop", "running_loop")

    is_inline = False

    def __init__(self) -> None:
        """Stand on the running loop."""
        import asyncio

        self.running_loop = asyncio.get_running_loop
        self.loop = asyncio.get_running_loop()
        self.port_to_loop = LoopPort(self.loop)
        self._make_task: Any = asyncio.Task
        self._apart: set[asyncio.Task[None]] = set()

    def waiter(self) -> Waiter:
        return LoopWaiter(self.port_to_loop)

    async def port(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await coroutine

    async def blocking(
        self, traveler: Traveler, function: Callable[[Region], T], pool: ThreadPool
    ) -> T:
        if pool.gpu is not None:
            function = partial(_on_gpu, pool.gpu, function)
        hop = Hop(self.port_to_loop, traveler, function)
        traveler.hop = hop
        pool.submit(hop)
        try:
            return await hop.result()
        finally:
            traveler.hop = None

    async def coroutine(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await coroutine

    async def apart(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.spawn(coroutine)

    def start(self, call: RunningCall, steps: Coroutine[Any, Any, None]) -> None:
        """Begin a call's task; what it ends with is delivered later, even if it ends at once."""
        make, loop, name = self._make_task, self.loop, call.request_id
        task: asyncio.Task[None] = (
            make(steps, loop=loop, name=name, eager_start=True)
            if _IS_EAGER
            else make(steps, loop=loop, name=name)
        )
        if task.done():
            self.loop.call_soon(call.arrive)
        else:
            call.task = task

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task of its own; only on the loop."""
        task = self.loop.create_task(coroutine)
        self._apart.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._apart.discard)
        return task

    async def settle(self, timeout_s: float) -> None:
        """Wait for the tasks that were spawned, but not longer than so many seconds."""
        from asyncio import wait

        if self._apart:
            await wait(self._apart, timeout=timeout_s)


def _on_gpu(gpu: str, function: Callable[[Region], T], region: Region) -> T:
    with CurrentGpu(gpu):
        return function(region)


class Hop(Generic[T]):
    """One function on its way to a thread and back."""

    __slots__ = ("_error", "_function", "_future", "_port", "_ticket", "_traveler", "_value")

    _value: T

    def __init__(self, port: LoopPort, traveler: Traveler, function: Callable[[Region], T]) -> None:
        self._port = port
        self._traveler = traveler
        self._function = function
        self._future: asyncio.Future[None] = port.loop.create_future()
        self._ticket = [None]
        self._error: BaseException | None = None

    def call_back(self, error: BaseException) -> None:
        """Fail with `error`, unless a thread has begun already. Only on the loop."""
        if self._claim():
            self._error = error
            self.arrive()

    def run(self, worker: Worker) -> None:
        if not self._claim():
            return
        self._traveler.worker = worker
        try:
            self._value = self._function(worker.region)
        except BaseException as error:  # crosses to the task, which judges it
            self._error = error
        self._traveler.worker = None

    def report(self) -> None:
        self._port.post(self)

    def arrive(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def result(self) -> T:
        """Wait for the thread. The engine cancels no task here: it tells the function to stop."""
        await self._future
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or the frame would keep itself alive through the traceback
        return self._value

    def _claim(self) -> bool:
        """Whoever is first gets it; popping a list is atomic."""
        try:
            self._ticket.pop()
        except IndexError:
            return False
        return True
