"""Who a job's token stands for at the file API: a worker, as long as the job is its own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.context.refs import output_root
from gen_worker.errors import AuthError
from gen_worker.models.hub.capability import Capability
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.tokens import Principal
from gen_worker.runtime.http.upload_refs import UPLOADS
from gen_worker.runtime.scheduler.files.owners import NOBODY, owner_in_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gen_worker.runtime.scheduler.files.passes import JobPass, Passes
    from gen_worker.runtime.scheduler.values import StoredCall

__all__ = ["JobAuthority", "LiveJob"]

_PATIENCE_S = 30.0
_KNOWN = 64
"""Requests whose payloads were looked at; each is asked for a few times in a row."""
_KEPT = "jobs/"
"""What every ref of the store begins with; all else in a payload may be long."""


class LiveJob(Protocol):
    """A request that has not ended."""

    @property
    def seq(self) -> int: ...
    @property
    def worker_id(self) -> str:
        """Who runs it; empty when nobody does."""
        ...


class JobAuthority:
    """Reads the tokens of jobs. Called in the store's threads; asks on the loop."""

    def __init__(
        self,
        passes: Passes,
        live: Callable[[str], LiveJob | None],
        call: Callable[[int], Awaitable[StoredCall | None]],
    ) -> None:
        """Made on the loop.

        Args:
            passes: Sealed the tokens.
            live: Returns a request that has not ended, by its id; on the loop.
            call: Returns what a request was submitted with; on the loop.
        """
        self._passes = passes
        self._live = live
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._named: OrderedDict[int, frozenset[str]] = OrderedDict()

    def __call__(self, token: str) -> Principal | None:
        """Return who bears a token; None when it is no job's.

        Raises:
            Refusal: 401, it is not valid, or the job is not this worker's any more.
        """
        try:
            job = self._passes.read(token)
        except AuthError as error:
            raise Refusal(401, "unauthorized", str(error)) from error
        if job is None:
            return None
        if not self._asked(self._is_current(job)):
            raise Refusal(401, "unauthorized", "the job has ended, or another worker has it")
        return Principal(
            subject=job.worker_id, capability=Capability(), files=_Rights(job, self.named_by)
        )

    def named_by(self, job: JobPass) -> frozenset[str]:
        """Return what in a job's payload may be a ref: the files it names are among them."""
        named = self._named.get(job.seq)
        if named is None:
            call = self._asked(self._call(job.seq))
            named = frozenset(() if call is None else _refs(_decoded(call.payload)))
            self._named[job.seq] = named
            while len(self._named) > _KNOWN:
                self._named.popitem(last=False)
        return named

    async def _is_current(self, job: JobPass) -> bool:
        live = self._live(job.request_id)
        # While nobody runs it, it may be that this worker is coming back.
        return live is not None and live.seq == job.seq and live.worker_id in ("", job.worker_id)

    def _asked(self, question: Awaitable[Any]) -> Any:
        async def answer() -> Any:
            return await question

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(_PATIENCE_S)


class _Rights:
    """A job writes its own outputs, and reads these and what its payload names."""

    def __init__(self, job: JobPass, named_by: Callable[[JobPass], frozenset[str]]) -> None:
        self._job = job
        self._named_by = named_by
        self._owner = owner_in_store(job.owner)
        self._root = output_root(job.request_id)

    def may_write(self, owner: str, ref: str) -> bool:
        return owner == self._owner and ref.startswith(self._root)

    def may_read(self, owner: str, ref: str) -> bool:
        if self.may_write(owner, ref):
            return True
        # An upload that is nobody's has a ref that nobody guesses.
        is_open = owner == NOBODY and ref.startswith(UPLOADS)
        return (owner == self._owner or is_open) and ref in self._named_by(self._job)


def _decoded(payload: bytes) -> Any:
    """Return a payload as plain values, JSON or MessagePack; nothing when it is neither."""
    decode = msgspec.json.decode if payload[:1] == b"{" else msgspec.msgpack.decode
    try:
        return decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refs(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if one.startswith(_KEPT):
                yield one
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
