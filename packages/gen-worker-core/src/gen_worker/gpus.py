"""Which GPU torch takes when nobody says which one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CurrentGpu"]


class CurrentGpu:
    """A context in which `.cuda()` and `device="cuda"` mean one GPU, in the thread that enters it.

    Each thread begins at the first GPU. What was current before is current again afterwards.
    Nothing happens without torch, or for a device that is no GPU or not there. CUDA is initialised
    only where the first GPU would be the wrong one.
    """

    __slots__ = ("_before", "_cuda", "_index")

    def __init__(self, device: str) -> None:
        """Prepare for a device such as `cuda:1`."""
        kind, _, number = device.partition(":")
        self._index = int(number) if kind == "cuda" and number.isdigit() else None
        self._cuda: Any = None
        self._before = 0

    def __enter__(self) -> None:
        index = self._index
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if index is None or cuda is None:
            return
        try:
            if (index == 0 and not cuda.is_initialized()) or index >= cuda.device_count():
                return
            self._before = cuda.current_device()
            if self._before != index:
                cuda.set_device(index)
            self._cuda = cuda
        except RuntimeError:  # whoever needs the GPU learns what is wrong with it
            return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cuda, self._cuda = self._cuda, None
        if cuda is None:
            return
        try:
            cuda.set_device(self._before)
        except RuntimeError:
            return
