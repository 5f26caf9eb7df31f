"""The host's ports as the calls of one engine see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.ports import FileLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.events import Telemetry
    from gen_worker.ports import Events, Files, OutputStream, Ports, SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = ["CallEvents", "CallFiles", "ports_for_calls"]

_USUAL_LIMITS = FileLimits()


def ports_for_calls(ports: Ports, tell: Callable[[Telemetry], None]) -> tuple[Ports, CallFiles]:
    """Return ports that also show telemetry to `tell`, and remember who used files."""
    # Not `isinstance`, which imports inspect to look at a protocol.
    has_directories = hasattr(ports.files, "find_directory")
    files = (_CallFilesWithDirectories if has_directories else CallFiles)(ports.files)
    events = CallEvents(ports.events, tell)
    return msgspec.structs.replace(ports, files=files, events=events), files


class CallEvents:
    """Shows each event to the transport of its call, then to the host."""

    __slots__ = ("_events", "_tell")

    def __init__(self, events: Events, tell: Callable[[Telemetry], None]) -> None:
        self._events = events
        self._tell = tell

    def emit(self, event: Telemetry) -> None:
        self._tell(event)
        self._events.emit(event)


class CallFiles:
    """Remembers which requests have used files: only those are released.

    Most calls use none, and for a host on another thread a release costs more than the call.
    """

    def __init__(self, files: Files) -> None:
        self._files: Any = files
        self.users: set[str] = set()
        """Ids of the requests."""
        self.input_limits: FileLimits = getattr(files, "input_limits", _USUAL_LIMITS)

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        self.users.add(request_id)
        found: Asset | Tensors = await self._files.materialize(value, limits, request_id=request_id)
        return found

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        self.users.add(request_id)
        saved: Asset | Tensors = await self._files.save(ref, source, options, request_id=request_id)
        return saved

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> OutputStream:
        self.users.add(request_id)
        opened: OutputStream = await self._files.open_output(ref, options, request_id=request_id)
        return opened

    async def release(self, request_id: str) -> None:
        self.users.discard(request_id)
        await self._files.release(request_id)


class _CallFilesWithDirectories(CallFiles):
    async def find_directory(self, ref: str, *, request_id: str, **chosen: Any) -> str | None:
        self.users.add(request_id)
        found: str | None = await self._files.find_directory(ref, request_id=request_id, **chosen)
        return found
