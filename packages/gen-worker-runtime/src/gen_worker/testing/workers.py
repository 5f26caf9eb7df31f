"""Workers for tests: in this process, or in one of their own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gen_worker.runtime.engine import SYSTEM_CLOCK
from gen_worker.runtime.worker.addresses import parse_address
from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.states import LinkPolicy
from gen_worker.runtime.worker.worker import Worker, WorkerOptions
from gen_worker.testing.tester import functions_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

    from gen_worker.runtime.engine import Clock
    from gen_worker.runtime.worker.outbox import OutboxLimits

__all__ = ["DEV_TOKEN", "WorkerProcess", "quick_policy", "working"]

DEV_TOKEN = "dev-worker-jwt"
"""No JWT at all, which is good enough where nobody checks it."""

_OPTIONS = WorkerOptions(token=DEV_TOKEN, worker_id="worker-1")


def quick_policy(address: str) -> LinkPolicy:
    """Return how workers connect in tests: as they do, but back within milliseconds."""
    backoff = Backoff(base_s=0.01, cap_s=0.05, jitter_s=0.01)
    return LinkPolicy(seeds=(parse_address(address),), backoff=backoff, grace_s=0.05)


@asynccontextmanager
async def working(
    target: Any,
    address: str,
    *,
    policy: LinkPolicy | None = None,
    options: WorkerOptions = _OPTIONS,
    outbox_limits: OutboxLimits | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncIterator[Worker]:
    """Have a real worker on this event loop until the block ends.

    Args:
        target: What it runs: a module, something decorated, or several of them.
        address: Of an orchestrator, such as `Orchestrator.address`.
        policy: How it connects; `quick_policy` by default.
        options: How it works.
        outbox_limits: Of what waits to be written.
        clock: For every timer.
    """
    worker = Worker(
        functions_in(target),
        policy or quick_policy(address),
        options,
        outbox_limits=outbox_limits,
        clock=clock,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop("the test is over")
        await task


class WorkerProcess:
    """A worker as its container runs it: `python -m gen_worker.entrypoint`, without a container.

    A context manager; what is still running at its end is killed.
    """

    def __init__(
        self,
        project: str | os.PathLike[str],
        address: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Build the project's lock, which imports it in a process of its own.

        Args:
            project: Directory that has an endpoint.toml.
            address: Of the orchestrator.
            environment: More variables, such as `WORKER_JWT`. Of this process's own only `PATH`
                is passed on.

        Raises:
            ProjectError: endpoint.toml is wrong.
            DiscoveryError: The code is.
        """
        from gen_worker.discovery import build_lock
        from gen_worker.manifest import write_lock
        from gen_worker.project import load_project

        self._project = os.path.abspath(project)
        self._directory = tempfile.TemporaryDirectory(prefix="gen-worker-process-")
        self.home = Path(self._directory.name)
        """Its HOME, with its caches; kept through restarts."""
        lock = build_lock(load_project(self._project))
        write_lock(self.home / "endpoint.lock", lock.table)
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "GEN_WORKER_LOCK": str(self.home / "endpoint.lock"),
            "PUBLIC_ORCHESTRATOR_GRPC_ADDR": address,
            "WORKER_JWT": DEV_TOKEN,
            "WORKER_ID": "worker-1",
            "RECONNECT_DELAY": "0.01",
            "RECONNECT_MAX_DELAY": "0.1",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<WorkerProcess of {self._project!r}, pid {self.pid}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._directory.cleanup()

    @property
    def pid(self) -> int | None:
        """Of the process that runs, or ran last."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What it and those before it wrote to stderr."""
        path = self.home / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, again after `kill` or its own end."""
        with open(self.home / "stderr", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gen_worker.entrypoint"],
                cwd=self._project,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it on the spot, without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self, timeout_s: float = 60.0) -> int:
        """Ask it to end, as engines do, and return its exit code."""
        assert self._process is not None, "it was never started"
        self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until it ends by itself and return its exit code; blocks.

        Raises:
            subprocess.TimeoutExpired: It did not.
        """
        assert self._process is not None, "it was never started"
        return self._process.wait(timeout_s)
