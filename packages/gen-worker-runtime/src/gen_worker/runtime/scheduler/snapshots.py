"""Workers as placement sees them: plain values, made anew when something about a worker changes.

Times are seconds of one clock whose zero is long past, such as Unix times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

__all__ = [
    "DeviceState",
    "Hardware",
    "InOrder",
    "Resident",
    "WorkerState",
    "nearby",
    "overload_backoff_s",
]

Nearby = Literal["ram", "disk"]
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 30.0


class Hardware(NamedTuple):
    """What does not change about a worker's machine. Workers that are alike may share one."""

    gpu_class: str = ""
    """Such as `NVIDIA H200`; empty without a GPU."""
    vram_bytes: int = 0
    """In all, of one GPU."""
    compute_capability: float | None = None
    """Such as 8.9; None when it is not known."""
    libraries: frozenset[str] = frozenset()
    """Of those that workers report (spec/wire.md 3.1, `installed_libs`)."""


class Resident(NamedTuple):
    """A model that a device has, or will have."""

    ready_at: float = 0.0
    """When it will have been loaded; past when it is there."""
    used_at: float = 0.0
    """When it was given a job last."""
    size_bytes: int = 0
    """0 when it is not known."""


class DeviceState(msgspec.Struct, frozen=True):
    """One GPU of a worker, or its processor. Made by `of`."""

    index: int
    slots: int
    """Jobs that run at the same time."""
    outstanding: int
    """Jobs it was given that have not ended."""
    free_at: float
    """When one more job would begin; 0 while there is a free slot."""
    models: Mapping[str, Resident]
    """By ref, those that need no loading here."""
    free_bytes: int | None
    """None when it is not known, or nobody counts it."""
    coldest_at: float
    """When the model was used that has not been for the longest; 0 when there is none."""

    @classmethod
    def of(
        cls,
        index: int = 0,
        *,
        slots: int = 1,
        ends_at: tuple[float, ...] = (),
        models: Mapping[str, Resident] | None = None,
        free_bytes: int | None = None,
    ) -> DeviceState:
        """Return the state of a device.

        Args:
            index: Of the GPU.
            slots: Jobs that run at the same time, at least 1.
            ends_at: When each of the jobs it was given is expected to end.
            models: By ref, those that are loaded or on their way.
            free_bytes: Of its memory; None when it is not known.
        """
        models = models or {}
        waiting = len(ends_at) - slots
        free_at = sorted(ends_at)[waiting] if waiting >= 0 else 0.0
        coldest_at = min((model.used_at for model in models.values()), default=0.0)
        return cls(index, slots, len(ends_at), free_at, models, free_bytes, coldest_at)


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    worker_id: str
    release_id: str = ""
    functions: frozenset[str] = frozenset()
    """Available, as it says."""
    loading: frozenset[str] = frozenset()
    """Functions that will run once a model is there."""
    unavailable: Mapping[str, str] = {}
    """By function, why the worker says that it will never run it."""
    hardware: Hardware = Hardware()
    gpus: tuple[DeviceState, ...] = ()
    processors: tuple[DeviceState, ...] = (DeviceState.of(),)
    """One, for functions that need no GPU; what it holds is in host memory."""
    nearby: Mapping[str, Nearby] = {}
    """By ref, where a model is that is not on a device; see `nearby`."""
    is_connected: bool = True
    is_draining: bool = False
    heard_at: float = 0.0
    """When it said something last."""
    joined_at: float = 0.0
    refused_until: float = 0.0
    """After it answered that it has too much to do: see `overload_backoff_s`."""
    open_for: frozenset[str] = frozenset()
    """Computed: what it may be given, empty while it takes nothing."""
    unsettled_until: float = 0.0
    """Computed: whichever of `joined_at` and `refused_until` is later."""

    def __post_init__(self) -> None:
        if self.is_connected and not self.is_draining:
            msgspec.structs.force_setattr(self, "open_for", self.functions - self.loading)
        until = max(self.joined_at, self.refused_until)
        msgspec.structs.force_setattr(self, "unsettled_until", until)

    @property
    def outstanding(self) -> int:
        return sum(device.outstanding for device in (*self.gpus, *self.processors))


class InOrder(list[WorkerState]):
    """States by worker id: who looks for the first of equals need not look at all of them."""


def nearby(*, ram: Iterable[str] = (), disk: Iterable[str] = ()) -> dict[str, Nearby]:
    """Return where the models are that a worker names as warm in host memory, or on its disk."""
    return {**dict.fromkeys(disk, "disk"), **dict.fromkeys(ram, "ram")}


def overload_backoff_s(count: int) -> float:
    """Return for how long a worker is given nothing that refused jobs so many times in a row."""
    return min(_FIRST_BACKOFF_S * 2.0 ** min(count - 1, 16), _LONGEST_BACKOFF_S)
