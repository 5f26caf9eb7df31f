"""The GPUs of this machine as orchestrators are told of them: no torch, no subprocess."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.host_requirements import Gpu, HostFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GpuFacts", "fake_gpus", "find_gpus", "free_bytes", "host_facts", "is_of_tier"]

_GIB = 1024**3
# Names and numbers of the CUDA driver API (cuda.h), stable since CUDA 3.2, and of NVML.
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_NVML = ("libnvidia-ml.so.1", "nvml.dll")
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES, _BUS_ID_BYTES = 256, 32


class GpuFacts(NamedTuple):
    """One GPU."""

    name: str
    memory_bytes: int
    compute_capability: float | None = None
    """Such as 8.9; None when it could not be read."""
    bus_id: str = ""
    """Where it is plugged in; empty for one that is not there."""

    @property
    def sm(self) -> str:
        """Compute capability without its dot, such as `89`; empty when it is not known."""
        return "" if self.compute_capability is None else f"{self.compute_capability * 10:.0f}"


def fake_gpus(count: int, memory_bytes: int, name: str) -> tuple[GpuFacts, ...]:
    """Return GPUs that are not there, to try placement out."""
    return tuple(GpuFacts(name, memory_bytes) for _ in range(count))


def host_facts(gpus: Sequence[GpuFacts]) -> HostFacts:
    """Return what functions may need of this machine."""
    return HostFacts(
        gpus=tuple(Gpu(gpu.memory_bytes / _GIB, gpu.compute_capability) for gpu in gpus)
    )


def is_of_tier(name: str, tier: str) -> bool:
    """Tell whether a GPU's name has what a tier such as `h100-80gb` says before its dash."""
    return _plain(tier.partition("-")[0]) in _plain(name)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def find_gpus() -> tuple[GpuFacts, ...]:
    """Return the GPUs CUDA sees here, in its order; none where there is no driver."""
    driver = _library(_DRIVERS)
    if driver is None or driver.cuInit(0) != 0:
        return ()
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_describe(driver, index) for index in range(count.value))


def free_bytes(gpu: GpuFacts, index: int = 0) -> int:
    """Return how much of a GPU's memory is free; 0 when that is not known."""
    if not gpu.bus_id:
        return gpu.memory_bytes
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.mem_get_info(index)[0])
    return _free_by_nvml(gpu.bus_id)


def _describe(driver: ctypes.CDLL, index: int) -> GpuFacts:
    device = ctypes.c_int()
    total = ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    bus_id = ctypes.create_string_buffer(_BUS_ID_BYTES)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceGetPCIBusId(bus_id, _BUS_ID_BYTES, device)
    major = _attribute(driver, device, _CAPABILITY_MAJOR)
    minor = _attribute(driver, device, _CAPABILITY_MINOR)
    known = major is not None and minor is not None
    return GpuFacts(
        name=name.value.decode(errors="replace"),
        memory_bytes=total.value,
        compute_capability=float(f"{major}.{minor}") if known else None,
        bus_id=bus_id.value.decode(errors="replace"),
    )


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, code: int) -> int | None:
    value = ctypes.c_int()
    if driver.cuDeviceGetAttribute(ctypes.byref(value), code, device) != 0:
        return None
    return value.value


class _NvmlMemory(ctypes.Structure):
    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _free_by_nvml(bus_id: str) -> int:
    """Ask the management library, which needs no context on the GPU."""
    nvml = _library(_NVML)
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return 0
    handle, memory = ctypes.c_void_p(), _NvmlMemory()
    if nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id.encode(), ctypes.byref(handle)) != 0:
        return 0
    if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
        return 0
    return int(memory.free)


def _library(names: Sequence[str]) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
