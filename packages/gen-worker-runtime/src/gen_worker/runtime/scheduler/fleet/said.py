"""What workers say of themselves, read."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.scheduler.snapshots import Hardware

if TYPE_CHECKING:
    from gen_worker.runtime.wire import FunctionCapabilities, Resources

__all__ = ["hardware_of", "unavailable_in"]

_LOADING = "models_loading"
"""Must match `gen_worker.runtime.worker.availability.LOADING`: it ends by itself."""
_MAX_CHARS = 1024


class _Capability(msgspec.Struct):
    function_name: str
    available: bool = True
    unavailable_reason: str = ""
    unavailable_detail: str = ""


class _Capabilities(msgspec.Struct):
    functions: list[_Capability] = []


_decode = msgspec.json.Decoder(_Capabilities).decode


def hardware_of(resources: Resources) -> Hardware:
    """Return a worker's machine; of machines that are alike, the same object."""
    return _hardware(
        resources.gpu_name if resources.gpu_count else "",
        resources.gpu_memory_bytes if resources.gpu_count else 0,
        resources.gpu_sm,
        resources.installed_libs,
    )


@lru_cache(1024)
def _hardware(name: str, vram_bytes: int, sm: str, libraries: tuple[str, ...]) -> Hardware:
    capability = float(f"{sm[:-1]}.{sm[-1]}") if len(sm) > 1 and sm.isdecimal() else None
    return Hardware(name, vram_bytes, capability, frozenset(libraries))


def unavailable_in(message: FunctionCapabilities) -> dict[str, str]:
    """Return why functions will never run on a worker, by name; empty when it is not understood."""
    try:
        table: Any = _decode(message.capabilities_json)
    except msgspec.MsgspecError:
        return {}
    return {
        one.function_name: (one.unavailable_detail or one.unavailable_reason)[:_MAX_CHARS]
        for one in table.functions
        if not one.available and one.unavailable_reason != _LOADING
    }
