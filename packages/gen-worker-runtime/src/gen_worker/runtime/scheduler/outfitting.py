"""What a worker gets along with a request: where files are, the right to them, models' files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.dispatcher.ports import Equipment, Outfit
from gen_worker.runtime.scheduler.hub_rights import lifetime_s
from gen_worker.runtime.wire import EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from gen_worker.runtime.scheduler.catalog import Catalog
    from gen_worker.runtime.scheduler.files import Passes
    from gen_worker.runtime.scheduler.hub_rights import HubRights
    from gen_worker.runtime.scheduler.requests import Live
    from gen_worker.runtime.scheduler.snapshots import WorkerState
    from gen_worker.runtime.scheduler.values import RequestRecord
    from gen_worker.runtime.wire import ResolvedRepo

    Describe = Callable[[Iterable[str]], Awaitable[Mapping[str, ResolvedRepo]]]

__all__ = ["Outfitter"]

_NOTHING = EndpointConfig()


class Outfitter(Outfit):
    """Equips the workers of one scheduler. On the loop."""

    def __init__(
        self,
        catalog: Catalog,
        passes: Passes,
        base_url: Callable[[str], str],
        describe: Describe | None = None,
        rights: HubRights | None = None,
    ) -> None:
        """Prepare.

        Args:
            catalog: Knows which functions work with the hub.
            passes: Seals what a job may do with files.
            base_url: Returns where the files are, as a worker reaches them, by its id.
            describe: Returns the files of models by ref; what it leaves out a worker has to find
                itself. None leaves out all.
            rights: Has the hub's tokens for jobs that publish; None leaves them to the token that
                workers are set up with.
        """
        self._catalog = catalog
        self._passes = passes
        self._base_url = base_url
        self._describe = describe
        self._rights = rights

    async def outfit(self, live: Live, state: WorkerState, payload: bytes) -> Equipment:
        """Return what a worker gets; see `Outfit`.

        Jobs that publish models and datasets work with the hub of the worker's own settings.
        """
        record, options = live.record, live.options
        repos: Mapping[str, ResolvedRepo] = {}
        if options.refs and self._describe is not None:
            repos = await self._describe(options.refs)
        name = options.endpoint_owner, record.endpoint, record.release_id, record.function
        facts = self._catalog.known(*name) or await self._catalog.facts(*name)
        if facts.uses_hub:
            token = ""
            if self._rights is not None:
                token = await self._rights.token(record, payload, facts.locked.payload_refs)
            return Equipment(job_id=record.request_id, repos=repos, capability_token=token)
        return Equipment(
            file_base_url=self._base_url(state.worker_id),
            capability_token=self._token(record, state.worker_id),
            repos=repos,
        )

    def _token(self, record: RequestRecord, worker_id: str) -> str:
        return self._passes.issue(
            seq=record.seq,
            request_id=record.request_id,
            worker_id=worker_id,
            owner=record.owner,
            ttl_s=lifetime_s(record),
        )

    def config(self, state: WorkerState) -> EndpointConfig:
        return _NOTHING
