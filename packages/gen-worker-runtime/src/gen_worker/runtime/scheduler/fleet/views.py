"""What clients are shown of workers and of the models they have."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["DeviceView", "ModelView", "WorkerView"]


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, or the processor."""

    kind: str
    """`gpu` or `cpu`."""
    index: int
    name: str = ""
    memory_bytes: int = 0
    free_bytes: int | None = None
    slots: int
    running: int
    models: tuple[str, ...] = ()


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker. Times are Unix times."""

    id: str
    release_id: str
    state: str
    """`ready`, `starting`, `draining`, `overloaded`, `silent`, `disconnected`."""
    functions: tuple[str, ...]
    loading: tuple[str, ...]
    unavailable: Mapping[str, str]
    """By function, why it cannot run there."""
    devices: tuple[DeviceView, ...]
    running: tuple[str, ...]
    """Ids of requests it was given."""
    models: Mapping[str, str]
    """By ref, where it is: `vram`, `ram` or `disk`."""
    heard_at: float
    joined_at: float
    peer: str = ""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One model, wherever it is."""

    ref: str
    size_bytes: int = 0
    """0 when it is not known."""
    workers: Mapping[str, str]
    """By worker id, where it is: `vram`, `ram` or `disk`."""
