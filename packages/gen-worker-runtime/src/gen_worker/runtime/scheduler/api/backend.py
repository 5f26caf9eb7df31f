"""The scheduler behind the HTTP app: every call is a request that is kept, and runs on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.runtime.http.backend import Health
from gen_worker.runtime.scheduler.api.bodies import answer_of
from gen_worker.runtime.scheduler.api.figures import Figures
from gen_worker.runtime.scheduler.api.jobs import LedgerJobs
from gen_worker.runtime.scheduler.api.release_routes import ReleaseRoutes
from gen_worker.runtime.scheduler.api.request_routes import RequestRoutes
from gen_worker.runtime.scheduler.api.shelf import Shelf
from gen_worker.runtime.scheduler.api.tag_routes import TagRoutes
from gen_worker.runtime.scheduler.api.token_routes import TokenRoutes
from gen_worker.runtime.scheduler.api.worker_routes import WorkerRoutes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.runtime.http.backend import FileRoom, ServedFunction, Target
    from gen_worker.runtime.http.table import HttpRoute
    from gen_worker.runtime.scheduler.api.worker_routes import IssueWorkerToken, Workers
    from gen_worker.runtime.scheduler.catalog import Catalog
    from gen_worker.runtime.scheduler.intake import Intake
    from gen_worker.runtime.scheduler.job_options import Webhook
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.releases import ReleaseLimits, Releases
    from gen_worker.runtime.scheduler.requests import Requests
    from gen_worker.runtime.scheduler.tokens import Tokens
    from gen_worker.runtime.scheduler.values import RequestRecord

__all__ = ["SchedulerBackend", "SchedulerParts"]


class SchedulerParts(NamedTuple):
    """What a scheduler's API talks to; all of it on one loop."""

    ledger: Ledger
    requests: Requests
    intake: Intake
    catalog: Catalog
    releases: Releases
    workers: Workers
    """The dispatcher."""
    tokens: Tokens
    issue_worker_token: IssueWorkerToken
    clock: Callable[[], float]
    """Unix time, the ledger's own."""


class SchedulerBackend:
    """Where the calls of a scheduler go. Made on its loop; closed before its parts are."""

    def __init__(
        self,
        parts: SchedulerParts,
        *,
        uploads: str,
        metrics: Callable[[], bytes],
        files: FileRoom | None = None,
        owner: str | None = None,
        address: str = "",
        hub: str = "",
        check_webhook: Callable[[Webhook], None] = lambda _webhook: None,
        release_limits: ReleaseLimits | None = None,
        routes: Iterable[HttpRoute] = (),
    ) -> None:
        """Answer for a scheduler.

        Args:
            parts: What it is made of.
            uploads: A folder of its own for releases that are on their way.
            metrics: Makes the text of `/metrics`.
            files: Of its callers.
            owner: Whose endpoints are meant where nobody is named.
            address: Where workers connect to.
            hub: URL of the model hub that they use.
            check_webhook: Raises a `ValidationError` for one that nothing can be sent to.
            release_limits: How large a release may be.
            routes: Of other parts, such as webhooks.
        """
        self.direct = None
        self.files = files
        self.models = None
        self.jobs = LedgerJobs(
            parts.ledger,
            parts.requests,
            parts.intake,
            waits_for=parts.workers.waits_for,
            check=check_webhook,
        )
        self._ledger = parts.ledger
        self._requests = parts.requests
        self._catalog = parts.catalog
        self._metrics = metrics
        self._figures = Figures(parts.ledger, parts.requests, parts.workers, parts.clock)
        shelf = Shelf(parts.releases, owner)
        self._releases = ReleaseRoutes(shelf, uploads, release_limits)
        workers = WorkerRoutes(
            parts.workers,
            parts.requests,
            shelf,
            parts.issue_worker_token,
            address=address,
            hub=hub,
            clock=parts.clock,
        )
        others = RequestRoutes(parts.ledger, parts.requests, shelf), TagRoutes(shelf)
        tables = (*others, workers, self._releases, TokenRoutes(parts.tokens))
        own = (route for table in tables for route in table.table())
        self.routes: Sequence[HttpRoute] = (*own, *routes)

    def close(self) -> None:
        """Let go of what publishes releases."""
        self._releases.close()

    async def answer(self, record: RequestRecord) -> bytes:
        """Return the body of `GET /v1/requests/{id}`; what a webhook carries."""
        return await answer_of(self._ledger, record)

    def find(self, target: Target) -> str:
        """Return the name as it was written: what it means is looked up with each request."""
        return str(target)

    async def functions(self) -> Sequence[ServedFunction]:
        return await self._catalog.functions()

    def health(self) -> Health:
        reasons = {
            "the disk has to catch up": self._requests.is_behind,
            "the disk cannot be written: make room on it": self._ledger.statistics().is_refused,
        }
        return Health(unready=tuple(reason for reason, holds in reasons.items() if holds))

    def status(self) -> dict[str, Any]:
        return {"scheduler": self._figures.status()}

    def metrics(self) -> bytes:
        return self._metrics()
