"""What a worker gets along with a request: where files are, the right to them, models' files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.dispatcher.ports import Equipment, Outfit
from gen_worker.runtime.wire import EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from gen_worker.runtime.scheduler.files import Passes
    from gen_worker.runtime.scheduler.requests import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.wire import ResolvedRepo

    Describe = Callable[[Iterable[str]], Awaitable[Mapping[str, ResolvedRepo]]]

__all__ = ["Outfitter"]

_NOTHING = EndpointConfig()
_SLACK_S = 3600.0
"""How much longer than its own limit a job may use files: it is not limited while it waits."""
_LONGEST_S = 7 * 86_400.0
"""For jobs without a limit. A token ends with its job in any case."""


class Outfitter(Outfit):
    """Equips the workers of one scheduler. On the loop."""

    def __init__(
        self, passes: Passes, base_url: Callable[[str], str], describe: Describe | None = None
    ) -> None:
        """Prepare.

        Args:
            passes: Seals what a job may do with files.
            base_url: Returns where the files are, as a worker reaches them, by its id.
            describe: Returns the files of models by ref; what it leaves out a worker has to find
                itself. None leaves out all.
        """
        self._passes = passes
        self._base_url = base_url
        self._describe = describe

    async def outfit(self, live: Live, state: WorkerState) -> Equipment:
        record, base_url = live.record, self._base_url(state.worker_id)
        limit_s = _LONGEST_S if record.timeout_ms is None else record.timeout_ms / 1000 + _SLACK_S
        token = self._passes.issue(
            seq=record.seq,
            request_id=record.request_id,
            worker_id=state.worker_id,
            owner=record.owner,
            ttl_s=min(limit_s, _LONGEST_S),
        )
        repos: Mapping[str, ResolvedRepo] = {}
        if live.options.refs and self._describe is not None:
            repos = await self._describe(live.options.refs)
        return Equipment(file_base_url=base_url, capability_token=token, repos=repos)

    def config(self, state: WorkerState) -> EndpointConfig:
        return _NOTHING
