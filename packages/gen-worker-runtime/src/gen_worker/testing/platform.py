"""A whole platform in a test: hub, scheduler, real workers and a client, and what goes wrong."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from gen_worker.client import Client
from gen_worker.runtime.worker.worker import WorkerOptions
from gen_worker.testing.closing import Closing
from gen_worker.testing.loop_thread import LoopThread
from gen_worker.testing.platform_release import release_of
from gen_worker.testing.platform_site import PlatformSite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.testing.platform_faults import PlatformFaults

__all__ = ["Platform"]


class Platform(Closing):
    """One endpoint on a platform of its own, over real connections on loopback.

    A context manager. It has an event loop in a thread of its own, on which functions that are
    coroutines run as well; every method blocks. Nothing is left of it afterwards. While it is open,
    the model cache and the hub of this process are its own, so have one at a time.

    Example:
        with Platform(spell) as platform:
            platform.faults.lose_worker(after_deltas=3)
            assert platform.client.run("spell", text="one two") == [...]
    """

    def __init__(
        self,
        target: Any,
        *,
        workers: int = 1,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        options: WorkerOptions | None = None,
        lost_after_s: float = 30.0,
    ) -> None:
        """Start everything, and wait for the workers.

        Args:
            target: The folder of a project; or a module, a decorated function or class, or several
                of them.
            workers: How many, each with all functions: `worker-1`, `worker-2` and so on.
            models: Folders that the hub has as models, by ref.
            options: How the workers work.
            lost_after_s: How long a worker may be without a connection before what it was given is
                given to another.

        Raises:
            ProjectError: The project's endpoint.toml is wrong.
            DiscoveryError: The project cannot be imported, or a function in it is wrong.
            ValueError: There is no function in `target`.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-worker-platform-"))
            project = os.path.join(folder, "project")
            os.mkdir(project)
            release = release_of(target, project)
            stack.enter_context(patch.dict(os.environ, _environment(folder)))
            self._loop = LoopThread("platform")
            stack.callback(self._loop.close)
            options = options or WorkerOptions()
            self._site = self._loop.call(
                lambda: PlatformSite(self._loop, release, folder, options, lost_after_s)
            )
            stack.callback(lambda: self._loop.wait(self._site.close()))
            self._loop.wait(self._site.start(models or {}))
            os.environ["TENSORHUB_URL"] = self._site.hub.url
            self.url = f"http://{self._site.cable.address}"
            """Of the scheduler's HTTP API."""
            self.client = stack.enter_context(Client(self.url))
            for _ in range(workers):
                self.add_worker()
            self._stack = stack.pop_all()

    def __repr__(self) -> str:
        return f"<Platform on {self.url}: {len(self._site.workers)} workers, {self.faults!r}>"

    @property
    def faults(self) -> PlatformFaults:
        """What goes wrong; script it before it is to happen."""
        return self._site.faults

    def add_worker(self) -> str:
        """Start one more worker, wait until it is connected, and return its id."""
        worker_id = f"worker-{len(self._site.workers) + 1}"
        worker = self._loop.call(lambda: self._site.add_worker(worker_id))
        self._loop.wait(self._site.until(lambda: worker.is_connected))
        return worker_id

    def attempts(self, request_id: str) -> int:
        """Return how often a request was given to a worker, or is to be."""
        return int(self.client.request(request_id).show()["attempt"])

    def restart(self) -> None:
        """Stop the scheduler and start it again, with all that it has kept."""
        self._loop.wait(self._site.restart())

    def close(self) -> None:
        """End everything, and remove all files."""
        self._stack.close()


def _environment(folder: str) -> dict[str, str]:
    """Return what keeps the workers of this process away from the user's models."""
    cache = os.path.join(folder, "cache")
    return {
        "TENSORHUB_CACHE_DIR": cache,
        "TENSORHUB_CAS_DIR": os.path.join(cache, "cas"),
        "TENSORHUB_TOKEN": "",
    }
