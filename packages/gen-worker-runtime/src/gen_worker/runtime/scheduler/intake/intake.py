"""The one way into the scheduler: names, models and limits are checked, then it is on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.overrides import HubLookup
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Target
    from gen_worker.runtime.scheduler.catalog import Catalog
    from gen_worker.runtime.scheduler.costs import Costs, GpuClass, ModelSize
    from gen_worker.runtime.scheduler.job_options import Webhook
    from gen_worker.runtime.scheduler.releases.tags import Tags
    from gen_worker.runtime.scheduler.requests import Requests
    from gen_worker.runtime.scheduler.values import Submitted

__all__ = ["Intake", "Pool"]


class Pool(Protocol):
    """What workers there are or could be: the fleet."""

    def gpu_classes(self, release_id: str) -> Iterable[GpuClass]:
        """Return the GPUs a release's requests may come to; without any nothing is refused."""
        ...

    def model_size(self, ref: str) -> ModelSize:
        """Return what is known of a model's size."""
        ...


class Intake:
    """Takes requests in. On the loop."""

    def __init__(
        self,
        requests: Requests,
        tags: Tags,
        catalog: Catalog,
        *,
        hub: HubLookup,
        costs: Costs,
        pool: Pool,
        clock: Callable[[], float],
        max_payload_bytes: int = 16 * 1024**2,
    ) -> None:
        raise NotImplementedError

    async def submit(
        self,
        target: Target,
        invocation: Invocation,
        *,
        key: str = "",
        body: bytes = b"",
        priority: int = 0,
        webhook: Webhook | None = None,
    ) -> Submitted:
        """Check a request and keep it, or return the one that has the same key.

        Args:
            target: What is called, as its caller wrote it.
            invocation: The call; its `function` is not looked at, its `timeout_ms` counts from now.
            key: The caller's `Idempotency-Key`.
            body: What makes two requests with the same key the same.
            priority: Greater comes earlier among the same owner's.
            webhook: Who is told how it goes.

        Raises:
            UnknownFunctionError: There is no such function, endpoint or tag.
            ValidationError: The payload is no JSON object; `OverrideError`: with one of the six
                codes, an entry of `_models` is refused and so is all of it.
            InputTooLargeError: The payload is too large.
            HardwareUnmetError: No GPU of the pool has the memory that this input needs.
            OverloadedError: Too many wait, in all or of this owner.
            KeyConflictError: The key belongs to another request.
            DuplicateRequestError: There is a request with this id.
            ArtifactTransferError: The hub could not be asked about a model.
            LedgerWriteError: The disk is full.
        """
        raise NotImplementedError
