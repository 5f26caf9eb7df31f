"""Processes that are started, read and ended; none of them outlives the one that started it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.cli.platform.identity import started_at
from gen_worker.cli.platform.lines import Block, Blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Child", "Guard", "end_group", "exit_words"]

_GUARDED = os.path.join(os.path.dirname(__file__), "guarded.py")
_READ_BYTES = 65_536
_HELD_BACK_S = 0.2
"""The rest of a traceback follows at once, or not at all."""
_LAST_WORDS_S = 1.0


class Guard:
    """A pipe that nobody writes to: children see it end with this process."""

    def __init__(self) -> None:
        self.descriptor, self._held = os.pipe()

    def command(self, interpreter: str, module: str, *words: str) -> list[str]:
        """Return what runs a module under this guard."""
        return [interpreter, _GUARDED, str(self.descriptor), module, *words]

    def close(self) -> None:
        os.close(self._held)
        os.close(self.descriptor)


class Child:
    """One process in a group of its own, whose output is given on in blocks."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Use `Child.start`."""
        self.name = name
        self.pid = process.pid
        self.began = started_at(process.pid)
        self.started_at = time.time()
        self.output = b""
        """What it wrote to standard output, where that is kept apart."""
        self._process = process
        self._reading: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        guard: Guard,
        show: Callable[[str, Block], object],
        *,
        environment: Mapping[str, str],
        folder: str,
        keeps_output: bool = False,
    ) -> Child:
        """Start a process.

        Args:
            name: What it is called in logs.
            command: From `Guard.command`.
            guard: Its descriptor is given on.
            show: Takes what it writes, standard output and error alike.
            environment: All of it.
            folder: To run in.
            keeps_output: Keep standard output for `output`; only standard error is shown.

        Raises:
            OSError: It cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE if keeps_output else asyncio.subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            cwd=folder,
            pass_fds=(guard.descriptor,),
            start_new_session=True,  # Ctrl-C at a terminal is ours to pass on
        )
        child = cls(name, process)
        shown = process.stderr if keeps_output else process.stdout
        assert shown is not None, "it is a pipe"
        child._reading.append(asyncio.create_task(child._show(shown, show)))
        if keeps_output:
            child._reading.append(asyncio.create_task(child._keep()))
        return child

    @property
    def exit_code(self) -> int | None:
        """Negative for the signal that ended it; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and for its last words; return its exit code."""
        code = await self._process.wait()
        # What it started itself may keep the pipes open.
        await asyncio.wait(self._reading, timeout=_LAST_WORDS_S)
        for task in self._reading:
            task.cancel()
        return code

    def terminate(self) -> None:
        """Ask it to end; it looks after what it started."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End it and all it started."""
        if self.exit_code is None:
            end_group(self.pid, signal.SIGKILL)

    async def _keep(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        self.output = await self._process.stdout.read()

    async def _show(
        self, stream: asyncio.StreamReader, show: Callable[[str, Block], object]
    ) -> None:
        blocks = Blocks()
        while True:
            limit = _HELD_BACK_S if blocks.is_open else None
            try:
                data = await asyncio.wait_for(stream.read(_READ_BYTES), limit)
            except TimeoutError:
                found = blocks.flush()
            else:
                found = blocks.feed(data) if data else blocks.flush()
                if not data and not found:
                    return
            for block in found:
                show(self.name, block)


def end_group(pid: int, number: int) -> None:
    """Send a signal to a process that leads a group, and to all that are in it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def exit_words(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
