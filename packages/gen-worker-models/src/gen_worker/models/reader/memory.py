"""Host memory of an exact size, which the GPU's driver can be told about."""

from __future__ import annotations

import mmap
from typing import Any

from gen_worker.errors import ResourceError

__all__ = ["PAGE", "HostMemory", "page_lock"]

PAGE = mmap.PAGESIZE
_HUGE_PAGE = 2 << 20
_PORTABLE = 1  # cudaHostRegisterPortable: for the contexts of all devices


class HostMemory(mmap.mmap):
    """Anonymous memory, as large as asked rounded up to a page, on huge pages where there are any.

    It lives as long as a tensor that was made of it. Not torch's own page-locked memory, which is
    rounded up to a power of two and never given back.
    """

    _unlock: Any = None

    def __new__(cls, size_bytes: int) -> HostMemory:
        try:
            # Private: shared memory, Python's default, gets no huge pages.
            memory = super().__new__(
                cls,
                -1,
                max(-(-size_bytes // PAGE) * PAGE, PAGE),
                flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            )
        except OSError as error:
            raise ResourceError(
                f"{size_bytes} bytes of memory cannot be had, {error}: free some, or load less"
            ) from error
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        if advice is not None and size_bytes >= _HUGE_PAGE:
            try:
                memory.madvise(advice)
            except OSError:  # a kernel without huge pages
                return memory
        return memory

    @property
    def is_page_locked(self) -> bool:
        return self._unlock is not None

    def page_lock(self) -> None:
        """Tell CUDA about this memory, so that copies from it need no copy in between.

        Undone when the memory is given back. A second call does nothing.

        Raises:
            ResourceError: The driver refuses.
        """
        if self._unlock is None:
            self._unlock = page_lock(_address_of(self), len(self))

    def page_unlock(self) -> None:
        """Undo `page_lock`; no copy may be under way."""
        unlock, self._unlock = self._unlock, None
        if unlock is not None:
            unlock()

    def __del__(self) -> None:
        self.page_unlock()


def _address_of(memory: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def page_lock(address: int, size_bytes: int) -> Any:
    """Register memory with CUDA and return what undoes it.

    Raises:
        ResourceError: The driver refuses.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    cuda: Any = torch.cuda
    if not cuda.is_available():
        raise ResourceError("memory cannot be page-locked without a CUDA device: load it as it is")
    runtime = cuda.cudart()
    code = int(runtime.cudaHostRegister(address, size_bytes, _PORTABLE))
    if code != 0:
        raise ResourceError(
            f"{size_bytes} bytes cannot be page-locked, CUDA error {code}: raise the limit of "
            "locked memory (`ulimit -l`), or keep less in the RAM tier"
        )

    def unlock() -> None:
        runtime.cudaHostUnregister(address)

    return unlock
