"""One request in the hands of one worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.fleet.stream import Stream

if TYPE_CHECKING:
    import asyncio

    from gen_worker.runtime.scheduler.decisions import Tier
    from gen_worker.runtime.scheduler.dispatcher.ports import Facts
    from gen_worker.runtime.scheduler.fleet.member import Member
    from gen_worker.runtime.scheduler.requests.live import Live
    from gen_worker.runtime.wire import JobResult

__all__ = ["Job"]


class Job:
    """What one worker was given, until it says that it is done with it."""

    __slots__ = (
        "attempt",
        "connection",
        "cost_key",
        "ends_at",
        "facts",
        "gpu_index",
        "has_reported",
        "heard_at",
        "is_alone",
        "is_interrupted",
        "is_over",
        "is_reported",
        "live",
        "member",
        "output_bytes",
        "refs",
        "result",
        "stream",
        "tier",
        "timers",
    )

    def __init__(
        self,
        live: Live,
        member: Member,
        *,
        gpu_index: int | None = None,
        refs: tuple[str, ...] = (),
        tier: Tier = "vram",
        now: float,
        ends_at: float,
        cost_key: str = "",
        facts: Facts | None = None,
    ) -> None:
        self.live = live
        self.member = member
        self.gpu_index = gpu_index
        """None where it needs no GPU."""
        self.refs = refs
        self.tier: Tier = tier
        """Where the coldest of its models was."""
        self.heard_at = now
        """When its worker said something of it last, or it was given."""
        self.ends_at = ends_at
        """As expected."""
        self.cost_key = cost_key
        """What its costs are learned under; empty when they are not."""
        self.facts = facts
        """None where another scheduler process gave it."""
        self.attempt = 0
        """0 until it was sent."""
        self.connection = 0
        """Of its worker, on which it was sent; 0 when it was not, or somebody else has."""
        self.is_interrupted = False
        self.is_over = False
        """The request is nobody's business here any more, and the worker is still busy with it."""
        self.is_alone = False
        """Whether nothing else had its GPU when it began."""
        self.has_reported = self.is_reported = False
        """Whether its worker has reported something besides its output, and whether that is all."""
        self.stream = Stream()
        self.result: JobResult | None = None
        """Its result, where its stream is not whole yet."""
        self.output_bytes = 0
        self.timers: list[asyncio.TimerHandle] = []
        """Of no use once it is over."""

    def __repr__(self) -> str:
        return f"<Job {self.request_id!r} on {self.member.worker_id!r}, attempt {self.attempt}>"

    @property
    def request_id(self) -> str:
        return self.live.record.request_id

    @property
    def function(self) -> str:
        return self.live.record.function

    @property
    def is_answered(self) -> bool:
        """Whether all of its output is here, and about to be written."""
        return self.result is not None and bool(self.result.payload)

    @property
    def is_sent(self) -> bool:
        return self.attempt > 0
