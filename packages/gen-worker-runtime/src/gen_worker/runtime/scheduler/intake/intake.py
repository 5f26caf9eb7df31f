"""The one way into the scheduler: names, models and limits are checked, then it is on disk."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gen_worker.errors import HardwareUnmetError, OverloadedError, UnknownFunctionError
from gen_worker.runtime.engine.payloads import read_message
from gen_worker.runtime.scheduler.costs import ModelSize
from gen_worker.runtime.scheduler.intake.models import FunctionModels
from gen_worker.runtime.scheduler.intake.payloads import Packer, object_of
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.releases.names import checked_owner
from gen_worker.runtime.scheduler.values import Submission, Submitted
from gen_worker.runtime.worker.observing import factors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.models.overrides import HubLookup
    from gen_worker.runtime.engine import Invocation
    from gen_worker.runtime.http.backend import Target
    from gen_worker.runtime.scheduler.catalog import Catalog, FunctionFacts
    from gen_worker.runtime.scheduler.costs import Costs, GpuClass
    from gen_worker.runtime.scheduler.intake.models import Chosen
    from gen_worker.runtime.scheduler.job_options import Webhook
    from gen_worker.runtime.scheduler.releases.tags import Tags
    from gen_worker.runtime.scheduler.releases.values import ResolvedFunction
    from gen_worker.runtime.scheduler.requests import Requests

__all__ = ["Intake", "Pool"]

_MAX_MOVES = 16
"""Promotions that one submission waits out."""
_MAX_REMEMBERED = 1024


class Pool(Protocol):
    """What workers there are: the fleet."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of models in memory, by ref, as far as they are known."""
        ...

    def classes(self, release_id: str) -> Iterable[GpuClass]:
        """Return the GPUs a release's requests may come to; without any nothing is refused."""
        ...


class _Function(NamedTuple):
    """What was read of one function, for all its requests."""

    facts: FunctionFacts
    models: FunctionModels
    packer: Packer


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
        """Prepare.

        Args:
            requests: Keeps what is taken in.
            tags: Say what callers' names mean.
            catalog: Knows the functions of releases.
            hub: Is asked about the models that callers choose.
            costs: Predicts what a request needs.
            pool: What there is to meet it.
            clock: Unix time, the ledger's own.
            max_payload_bytes: Of one request.
        """
        self._requests = requests
        self._tags = tags
        self._catalog = catalog
        self._hub = hub
        self._costs = costs
        self._pool = pool
        self._clock = clock
        self._max_payload_bytes = max_payload_bytes
        self._read: dict[tuple[str, str, str, str], _Function] = {}

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
            ValidationError: The payload is no JSON object, or its owner no name; `OverrideError`:
                with one of the six codes, an entry of `_models` is refused and so is all of it.
            InputTooLargeError: The payload is too large.
            HardwareUnmetError: No GPU of the pool has the memory that this input needs.
            OverloadedError: Too many wait, in all or of this owner.
            KeyConflictError: The key belongs to another request.
            DuplicateRequestError: There is a request with this id.
            ArtifactTransferError: The hub could not be asked about a model.
            LedgerWriteError: The disk is full.
        """
        came_at, name = self._clock(), str(target)
        owner = checked_owner(invocation.owner) if invocation.owner else ""
        digest = _digest(name, body) if key else b""
        known = await self._requests.earlier(owner, key, digest) if key else None
        if known is not None:
            return Submitted(known, is_new=False)
        message = read_message(invocation, self._max_payload_bytes)
        payload = object_of(message)
        function, chosen, tag = await self._looked_up(name, message.envelope, payload)
        # Nothing is awaited from here on: what names mean now is what they mean to this request.
        facts = function.facts
        factors = self._factors(facts, payload, chosen)
        options = _options(facts, chosen, invocation, factors, webhook)
        submission = Submission(
            request_id=invocation.request_id,
            owner=owner,
            endpoint=facts.endpoint,
            function=facts.function,
            tag=tag,
            release_id=facts.release_id,
            key=key,
            digest=digest,
            priority=priority,
            timeout_ms=invocation.timeout_ms,
            deadline_at=_deadline(came_at, invocation.timeout_ms),
            payload=function.packer.pack(payload),
        )
        return await self._requests.submit(submission, options)

    async def _looked_up(
        self, name: str, envelope: Any, payload: Mapping[str, Any]
    ) -> tuple[_Function, Chosen, str]:
        """Return what a name means at the moment of return, the models chosen there, and the tag.

        Raises:
            UnknownFunctionError: It means nothing.
            ValidationError: The envelope is refused.
            OverloadedError: It means something else each time.
        """
        for _ in range(_MAX_MOVES):
            resolved = self._tags.resolve(name)
            try:
                function = await self._function(resolved)
            except UnknownFunctionError:
                if self._tags.resolve(name) == resolved:
                    raise
                continue  # moved, and its release deleted, since
            chosen = await function.models.choose(envelope, payload, self._hub)
            if self._tags.resolve(name) == resolved:
                return function, chosen, resolved.tag
        raise OverloadedError(f"{name!r} is being moved all the time: submit it again")

    async def _function(self, resolved: ResolvedFunction) -> _Function:
        name = resolved.owner, resolved.endpoint, resolved.release_id, resolved.function
        function = self._read.get(name)
        if function is None:
            facts = await self._catalog.facts(*name)
            if len(self._read) >= _MAX_REMEMBERED:
                self._read.clear()
            packer = Packer(facts.locked.input_schema)
            function = self._read[name] = _Function(facts, FunctionModels(facts), packer)
        return function

    def _factors(
        self, facts: FunctionFacts, payload: Mapping[str, Any], chosen: Chosen
    ) -> dict[str, float]:
        """Return what the cost grows with, unless it is more than any worker could bear.

        Raises:
            HardwareUnmetError: It is.
        """
        resources = facts.resources
        paths = (*resources.vram_scales_with, *resources.runtime_scales_with)
        factors = factors_of(payload, dict.fromkeys(paths)) if paths else {}
        if resources.needs_gpu:
            sizes = self._pool.sizes
            refusal = self._costs.refusal(
                facts.usual_name,
                resources,
                self._pool.classes(facts.release_id),
                size=ModelSize(sum(sizes.get(ref, 0) for ref in chosen.refs)),
                factors=factors,
            )
            if refusal:
                raise HardwareUnmetError(refusal, reason="vram")
        return factors


def _digest(name: str, body: bytes) -> bytes:
    return hashlib.blake2b(b"%b\0%b" % (name.encode(), body), digest_size=32).digest()


def _deadline(came_at: float, timeout_ms: int | None) -> float | None:
    return came_at + timeout_ms / 1000 if timeout_ms else None


def _options(
    facts: FunctionFacts,
    chosen: Chosen,
    invocation: Invocation,
    factors: dict[str, float],
    webhook: Webhook | None,
) -> JobOptions:
    return JobOptions(
        endpoint_owner=facts.owner,
        models=chosen.models,
        refs=chosen.refs,
        factors=factors,
        hints=_hints(invocation.hints),
        invoker_id=invocation.invoker_id or "",
        webhook=webhook,
    )


def _hints(hints: Mapping[str, Any]) -> dict[str, str]:
    """Return hints as the wire carries them: texts, of anything else its JSON."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in hints.items()
    }
