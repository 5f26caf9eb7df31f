"""The processes a platform always has: started again whenever they end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.children import Child, exit_words
from gen_worker.cli.platform.folder import KeptProcess
from gen_worker.cli.platform.pool import pause_s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cli.platform.children import Guard
    from gen_worker.cli.platform.lines import Block

__all__ = ["STEADY_S", "Service", "Surroundings", "stop_child"]

STEADY_S = 30.0
"""What has run for so long has not failed to start."""


class Surroundings(Protocol):
    """What the parts of one platform share."""

    @property
    def guard(self) -> Guard:
        """Ends the processes when this one does."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every process."""
        ...

    def show(self, name: str, block: Block) -> None:
        """Keep and show what a process wrote."""
        ...

    def say(self, text: str) -> None:
        """Tell the user something in the platform's own words."""
        ...

    def changed(self) -> None:
        """Note that a process came or went."""
        ...


class Service:
    """One process that is kept running."""

    def __init__(
        self,
        name: str,
        module: str,
        words: Callable[[], list[str]],
        around: Surroundings,
        *,
        interpreter: str,
        folder: str,
        environment: Mapping[str, str],
        is_ready: Callable[[int], bool],
    ) -> None:
        """Describe it; `run` starts it.

        Args:
            name: `hub` or `scheduler`.
            module: What runs it.
            words: Gives its arguments, for each start anew.
            around: The platform it belongs to.
            interpreter: Runs the module.
            folder: To run in.
            environment: In addition to the platform's.
            is_ready: Whether the process of this number answers; one that ends before it ever
                did is not tried again.
        """
        self.name = name
        self._interpreter = interpreter
        self._module = module
        self._words = words
        self._around = around
        self._folder = folder
        self._environment = {**around.environment, **environment}
        self._is_ready = is_ready
        self._was_ready = False
        self._restarts = 0
        self._child: Child | None = None
        self._stopping = asyncio.Event()

    @property
    def kept(self) -> KeptProcess | None:
        """What is announced of it."""
        child = self._child
        if child is None:
            return None
        return KeptProcess(
            name=self.name,
            kind=self.name,
            pid=child.pid,
            began=child.began,
            started_at=child.started_at,
            restarts=self._restarts,
        )

    async def run(self) -> None:
        """Keep it running until `stop`.

        Raises:
            UsageError: It ended before it was ever ready.
        """
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if not self._was_ready:
                raise UsageError(
                    f"the {self.name} {exit_words(code)} before it answered: see above"
                )
            failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
            self._restarts += 1
            pause = pause_s(failures)
            self._around.say(f"{self.name} {exit_words(code)}: starting it again in {pause:g} s")
            await _wait(self._stopping, pause)

    async def ready(self, poll_s: float = 0.01) -> bool:
        """Wait until the process answers that runs now; False when it is stopped instead."""
        while not self._stopping.is_set():
            child = self._child
            if child is not None and self._is_ready(child.pid):
                self._was_ready = True
                return True
            await _wait(self._stopping, poll_s)
        return False

    async def stop(self, grace_s: float) -> None:
        """End it in order, or else by force."""
        self._stopping.set()
        if self._child is not None:
            await stop_child(self._child, grace_s)

    def kill(self) -> None:
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    async def _run_once(self) -> int:
        self._child = child = await Child.start(
            self.name,
            self._around.guard.command(self._interpreter, self._module, *self._words()),
            self._around.guard,
            self._around.show,
            environment=self._environment,
            folder=self._folder,
            keeps_output=True,  # where it listens, which is known here
        )
        self._around.changed()
        try:
            return await child.wait()
        finally:
            self._child = None
            self._around.changed()


async def stop_child(child: Child, grace_s: float) -> int:
    """Ask a process to end, and make it; return its exit code."""
    child.terminate()
    try:
        return await asyncio.wait_for(child.wait(), grace_s)
    except TimeoutError:
        child.kill()
        return await child.wait()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
