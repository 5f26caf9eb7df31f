"""Which GPUs this machine has, asked of the NVIDIA driver itself: no torch, no subprocess."""

from __future__ import annotations

import ctypes

from gen_worker.host_requirements import Gpu

__all__ = ["find_gpus"]

# Names and numbers of the CUDA driver API (cuda.h), stable since CUDA 3.2.
_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76
_GIB = 1024**3


def find_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs CUDA sees here, in its order; none where there is no driver."""
    driver = _load_driver()
    if driver is None or driver.cuInit(0) != 0:
        return ()
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_describe(driver, index) for index in range(count.value))


def _load_driver() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _describe(driver: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_int()
    total = ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    major, minor = (_attribute(driver, device, code) for code in _CAPABILITY_CODES)
    capability = None if major is None or minor is None else float(f"{major}.{minor}")
    return Gpu(vram_gb=round(total.value / _GIB, 2), compute_capability=capability)


_CAPABILITY_CODES = (_CAPABILITY_MAJOR, _CAPABILITY_MINOR)


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, code: int) -> int | None:
    value = ctypes.c_int()
    if driver.cuDeviceGetAttribute(ctypes.byref(value), code, device) != 0:
        return None
    return value.value
