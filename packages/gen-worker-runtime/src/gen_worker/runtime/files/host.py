"""The `Files` port of a worker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from gen_worker.context.local import LocalOutputs, off_loop
from gen_worker.runtime.files.requests import Requests
from gen_worker.runtime.files.scope import JobScope
from gen_worker.runtime.files.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Events, FileLimits, OutputStream, SaveOptions
    from gen_worker.runtime.files.inputs import Inputs
    from gen_worker.runtime.files.limits import FilePolicy
    from gen_worker.runtime.files.outputs import HubOutputs
    from gen_worker.types import Asset, Tensors

__all__ = ["WorkerFiles"]

T = TypeVar("T")


class WorkerFiles:
    """Inputs from URLs, the hub and payloads; outputs to the hub of each job.

    Begin a job with `enter`, which gives the files their hub, and end it with `leave`. In between
    the engine uses the port. Everything may be called from any thread.
    """

    def __init__(
        self,
        policy: FilePolicy,
        events: Events,
        *,
        default: JobScope | None = None,
        find: Callable[[str], tuple[JobScope, CancelToken] | None] | None = None,
    ) -> None:
        """Nothing is read, made or opened before it is needed.

        Args:
            policy: Limits and places.
            events: Gets the progress of uploads.
            default: The hub of requests that name none.
            find: Says what belongs to a request that was not entered, when it first needs files.
        """
        self.policy = policy
        self.events = events
        self.input_limits: FileLimits = policy.input_limits
        self._workplace = Workplace(policy.job_dir)
        self.requests = Requests(default or JobScope(), self._workplace, find)
        self._kept = None if policy.output_dir is None else LocalOutputs(policy.output_dir)
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self._inputs: Inputs | None = None
        self._outputs: HubOutputs | None = None

    # The job

    def enter(self, request_id: str, scope: JobScope, *, token: CancelToken | None = None) -> None:
        """Say where a request's files belong, before it is submitted; never blocks.

        Args:
            request_id: Of the call.
            scope: What its job says.
            token: Ends the request's transfers; `follow` may name it later.
        """
        request = self.requests.enter(request_id, scope)
        if token is not None:
            request.follow(token)

    def follow(self, request_id: str, token: CancelToken) -> None:
        """Let a cancel of `token` end the request's transfers, those under way included."""
        request = self.requests.find(request_id)
        if request is not None:
            request.follow(token)

    def leave(self, request_id: str) -> None:
        """Forget a request whose outcome is known; never blocks.

        The engine releases what it saw being used; what else there is, is given back behind this.
        """
        request = self.requests.take(request_id)
        if request is not None and request.is_used:
            self._threads().submit(request.close)

    def close(self) -> None:
        """Give up everything that was begun, and remove all files of requests. Blocks."""
        for request in self.requests.take_all():
            request.token.cancel("shutdown")
            request.close()
        with self._lock:
            inputs, self._inputs = self._inputs, None
            executor, self._executor = self._executor, None
        if inputs is not None:
            inputs.close()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        self._workplace.close()

    # The port

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        """Bring an input here; see the `Files` port."""
        request = self.requests.get(request_id)
        return await self.away(self.inputs.materialize, request, value, limits)

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        """Store a finished output; see the `Files` port."""
        request = self.requests.get(request_id)
        if not request.scope.has_hub:
            kept = self._kept_outputs()
            return await kept.save(ref, source, options, request_id=request_id)
        return await self.away(self.outputs.save, request, ref, source, options)

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> OutputStream:
        """Begin an output; see the `Files` port."""
        request = self.requests.get(request_id)
        if not request.scope.has_hub:
            kept = self._kept_outputs()
            stream = await kept.open_output(ref, options, request_id=request_id)
            request.streams.append(stream)
            return stream
        return await self.away(self.outputs.open, request, ref, options)

    async def find_directory(
        self,
        ref: str,
        *,
        request_id: str,
        checkpoint_id: str = "",
        attributes: Mapping[str, Any] | None = None,
        is_dataset: bool = False,
    ) -> str | None:
        """Bring a job's source or a dataset here; see the `Directories` port."""
        from gen_worker.runtime.files.directories import Wanted, fetch_directory

        wanted = Wanted(ref, checkpoint_id, attributes or {}, is_dataset)
        request = self.requests.get(request_id)
        return await self.away(fetch_directory, request, wanted, self.policy.cas_dir)

    async def release(self, request_id: str) -> None:
        """Remove what was written for a request, and give up what it did not finish."""
        if self._kept is not None:
            await self._kept.release(request_id)
        request = self.requests.take(request_id)
        if request is not None and request.is_used:
            await self.away(request.close)

    # Parts of the host

    async def away(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that blocks: in a thread of the files' own where a loop would wait."""
        return await off_loop(function, *args, executor=self._threads())

    @property
    def inputs(self) -> Inputs:
        """What fetches inputs."""
        with self._lock:
            if self._inputs is None:
                from gen_worker.runtime.files.inputs import Inputs

                self._inputs = Inputs(self.policy, self._kept)
            return self._inputs

    @property
    def outputs(self) -> HubOutputs:
        """What stores the outputs of requests that have a hub."""
        with self._lock:
            if self._outputs is None:
                from gen_worker.runtime.files.outputs import HubOutputs

                self._outputs = HubOutputs(self.policy, self.events)
            return self._outputs

    def _threads(self) -> Executor:
        with self._lock:
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self.policy.transfers, "gen-worker-files")
            return self._executor

    def _kept_outputs(self) -> LocalOutputs:
        if self._kept is None:
            from gen_worker.runtime.files.uploads import no_hub

            raise no_hub()
        return self._kept
