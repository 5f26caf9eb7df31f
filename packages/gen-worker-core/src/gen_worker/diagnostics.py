"""The operator's channel: what an author reports about a worker rather than to a caller.

A worker installs a sink; without one everything is dropped. Values are cut and credentials masked
before they leave the process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.masking import REDACTED, is_secret_name, printable, without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Diagnostic", "emit_diagnostic_log", "install_diagnostics", "sanitize"]

Severity = Literal["debug", "info", "warning", "error"]

_MAX_DEPTH = 8
_MAX_ITEMS = 64
_MAX_CHARS = 2048
_MAX_PAYLOAD_BYTES = 16 * 1024


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One report, fit to leave the process."""

    category: str
    message: str
    severity: str
    payload: dict[str, Any]
    endpoint_class: str
    function_name: str
    image_digest: str
    at: float
    """Unix time in seconds."""


_sink: Callable[[Diagnostic], object] | None = None


def install_diagnostics(
    sink: Callable[[Diagnostic], object] | None,
) -> Callable[[Diagnostic], object] | None:
    """Send reports to `sink` from now on; None drops them.

    Args:
        sink: Called in the reporting thread; must not block. What it raises is dropped.

    Returns:
        The sink that was installed before, for whoever wants to put it back.
    """
    global _sink
    previous, _sink = _sink, sink
    return previous


def emit_diagnostic_log(
    category: str,
    message: str = "",
    payload: Mapping[str, Any] | None = None,
    *,
    severity: str = "info",
    endpoint_class: str = "",
    function_name: str = "",
    image_digest: str = "",
) -> bool:
    """Report something to the worker's operator. Never raises, never blocks.

    Args:
        category: What kind of report it is, such as `weights_check`.
        message: One line for a person.
        payload: Facts; credentials are masked, long values cut (2,048 characters a text, 64 items
            a container, 16 KiB in all).
        severity: `debug`, `info`, `warning` or `error`.
        endpoint_class: Class of the endpoint, where it matters.
        function_name: Function it is about, where it matters.
        image_digest: Image it is about, where it matters.

    Returns:
        True when a worker took the report, False outside of one.
    """
    sink = _sink
    if sink is None:
        return False
    try:
        sink(
            Diagnostic(
                category=str(category),
                message=_masked_text(str(message)),
                severity=str(severity),
                payload=sanitize(payload or {}),
                endpoint_class=str(endpoint_class),
                function_name=str(function_name),
                image_digest=str(image_digest),
                at=time.time(),
            )
        )
    except Exception:
        return False
    return True


def sanitize(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return `payload` as plain JSON values without credentials, at most 16 KiB of it."""
    clean: dict[str, Any] = _clean(payload, _MAX_DEPTH)
    encoded = msgspec.json.encode(clean)
    if len(encoded) <= _MAX_PAYLOAD_BYTES:
        return clean
    return {
        "truncated": True,
        "original_size_bytes": len(encoded),
        "payload_preview": encoded[:_MAX_CHARS].decode(errors="ignore"),
    }


def _clean(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else f"<int of {value.bit_length()} bits>"
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)  # NaN compares False too
    if isinstance(value, str):
        return _masked_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"type": type(value).__name__, "size_bytes": memoryview(value).nbytes}
    if depth == 0:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return _clean_mapping(value, depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = list(value)
        rest = [f"<{len(items) - _MAX_ITEMS} more>"] if len(items) > _MAX_ITEMS else []
        return [_clean(item, depth - 1) for item in items[:_MAX_ITEMS]] + rest
    return _masked_text(str(value))


def _clean_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for key, item in value.items():
        if len(clean) == _MAX_ITEMS:
            clean["<more>"] = len(value) - _MAX_ITEMS
            break
        name = _masked_text(str(key))
        clean[name] = REDACTED if is_secret_name(name) else _clean(item, depth - 1)
    return clean


def _masked_text(text: str) -> str:
    # Masking may shorten a text but must not be paid for one without end.
    masked = without_credentials(printable(text[: 4 * _MAX_CHARS]))
    return masked if len(masked) <= _MAX_CHARS else masked[: _MAX_CHARS - 1] + "…"
