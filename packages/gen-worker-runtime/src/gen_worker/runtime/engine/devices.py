"""The devices of one engine: each has one slot, and one thread for blocking handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import ValidationError
from gen_worker.runtime.engine.slots import SlotQueue
from gen_worker.runtime.engine.threads import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.runtime.engine.interrupt import Interrupter

__all__ = ["Device", "Devices"]


class Device:
    """One GPU, or the stand-in for it where there is none.

    A thread of its own: blocking CPU functions cannot keep a call with a slot waiting for a
    thread, and CUDA's per-thread state stays on one device: what runs there finds it current.
    """

    def __init__(self, name: str, interrupter: Interrupter) -> None:
        self.name = name
        self.slot = SlotQueue(name)
        gpu = name if name.startswith("cuda:") else None
        self.pool = ThreadPool(name, 1, interrupter, gpu=gpu)

    def __repr__(self) -> str:
        return f"<Device {self.name}, {self.slot}>"


class Devices:
    """Picks a device for each call that needs one."""

    def __init__(self, names: Sequence[str], interrupter: Interrupter) -> None:
        if not names or len(set(names)) < len(names):
            raise ValueError(f"devices must be distinct and at least one, not {names!r}")
        self.by_name = {name: Device(name, interrupter) for name in names}

    def pick(self, requested: str | None, pinned: str | None = None) -> Device:
        """Return the device for one call.

        Args:
            requested: What the caller wants; None leaves it to the engine: the shortest queue.
            pinned: Where the objects the call needs are set up.

        Raises:
            ValidationError: There is no such device here, or the objects are on another one.
        """
        if requested is not None and requested not in self.by_name:
            known = ", ".join(map(repr, self.by_name))
            raise ValidationError(f"there is no device {requested!r} here: choose from {known}")
        if pinned is not None:
            if requested not in (None, pinned):
                raise ValidationError(
                    f"the endpoint is set up on {pinned!r} and cannot run on {requested!r}: "
                    "leave the device out"
                )
            return self.by_name[pinned]
        if requested is not None:
            return self.by_name[requested]
        return min(self.by_name.values(), key=lambda device: device.slot.load)
