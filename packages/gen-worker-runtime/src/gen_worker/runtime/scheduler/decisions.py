"""What placement is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from gen_worker.resources import ResourceRequirements, Resources

__all__ = [
    "Decision",
    "Give",
    "ModelNeed",
    "Needs",
    "Never",
    "NeverCause",
    "Policy",
    "Prediction",
    "Tier",
    "Wait",
    "WaitCause",
]

Tier = Literal["vram", "ram", "disk", "cold"]
"""Where a model is: on the device, in host memory, on the disk, nowhere on this machine."""
WaitCause = Literal[
    "busy",
    "warm",
    "room",
    "overloaded",
    "loading",
    "starting",
    "draining",
    "silent",
    "disconnected",
    "no_workers",
]
NeverCause = Literal["hardware", "function_unavailable", "model_disabled"]


class Prediction(NamedTuple):
    """What a call is expected to cost on one class of GPU."""

    vram_bytes: int = 0
    """0 when nothing is known."""
    run_s: float | None = None
    """Without loading; None when nothing is known."""


class ModelNeed(NamedTuple):
    """A model a request needs, and how long it takes to load. Colder is never quicker."""

    ref: str
    size_bytes: int = 0
    """0 when it is not known."""
    ram_s: float = 0.0
    disk_s: float = 0.0
    cold_s: float = 0.0
    disabled: str = ""
    """Why it cannot be used, in the words of the endpoint's configuration."""


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is to be placed."""

    function: str
    release_id: str = ""
    resources: Resources | ResourceRequirements = Resources()
    models: tuple[ModelNeed, ...] = ()
    predictions: Mapping[str, Prediction] = {}
    """By GPU class, `""` for workers without one; see `Costs.predict`."""
    backlog_s: float = 0.0
    """Seconds of work that waits behind it for the same models."""
    deferred_since: float | None = None
    """When placement first had it wait; None when it was not asked before."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How placement weighs. The defaults suit models of gigabytes and jobs of seconds."""

    prefetch_s: float = 0.1
    """A device gets its next job this long before it needs it, so that it never runs dry."""
    max_prefetched: int = 16
    """Jobs per slot beyond those that run, however short they are."""
    replica_factor: float = 1.25
    """How much sooner a backlog has to be done with a second copy, for it to be loaded."""
    patience_s: float = 30.0
    """After this, and the load, a request takes the next worker that can run it at all."""
    settle_s: float = 2.0
    """By so much a worker that has just joined counts as slower than it is."""
    silent_s: float = 25.0
    """Silence after which a worker is given nothing: two heartbeats and a half."""
    look_again_s: float = 5.0
    """The longest wait until placement is asked again."""
    usual_run_s: float = 1.0
    """Of a function of which nothing is known."""


class Give(NamedTuple):
    """The request goes to a worker now."""

    worker_id: str
    gpu_index: int | None
    """None for a function that needs no GPU."""
    tier: Tier
    """Where the coldest of its models is."""
    starts_at: float
    """As expected, as the next."""
    ends_at: float
    is_replica: bool = False
    """Its models are loaded although they are elsewhere: any that needs the same may be given."""
    unload: tuple[str, ...] = ()
    """What has to make room, the coldest first."""


class Wait(NamedTuple):
    """The request waits; any change of a worker may be a reason to ask before `again_at`."""

    cause: WaitCause
    message: str
    again_at: float


class Never(NamedTuple):
    """No worker of this pool can run it, however long it waits."""

    cause: NeverCause
    message: str


Decision = Give | Wait | Never
