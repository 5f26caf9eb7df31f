"""What authors and failures tell the operator, as messages to the orchestrator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.diagnostics import emit_diagnostic_log, install_diagnostics
from gen_worker.runtime.wire import DiagnosticLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.diagnostics import Diagnostic
    from gen_worker.errors import Failure

__all__ = ["DiagnosticSink", "WorkerIdentity", "report_exception", "tail_of"]

_MAX_MESSAGE_CHARS = 1024
_MAX_PAYLOAD_BYTES = 16 * 1024
_MAX_TRACEBACK_CHARS = 2000  # a text of a report may have 2,048
_EXPECTED = frozenset({"canceled", "validation", "retryable", "worker_overloaded"})
"""Failures that are no news to an operator."""

_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


class WorkerIdentity(NamedTuple):
    """Who the worker is to its operator."""

    worker_id: str = ""
    release_id: str = ""
    runpod_pod_id: str = ""


class DiagnosticSink:
    """Passes reports on for as long as it is installed."""

    def __init__(
        self, pass_on: Callable[[DiagnosticLog], object], identity: Callable[[], WorkerIdentity]
    ) -> None:
        """Install the sink of this process.

        Args:
            pass_on: Takes the messages, in any thread.
            identity: Says who the worker is.
        """
        self._pass_on = pass_on
        self._identity = identity
        self._is_closed = False
        self._previous = install_diagnostics(self)

    def close(self) -> None:
        """Put back what was installed before, unless somebody else came after this."""
        self._is_closed = True
        previous = self._previous
        while isinstance(previous, DiagnosticSink) and previous._is_closed:
            previous = previous._previous
        current = install_diagnostics(previous)
        if current is not self:
            install_diagnostics(current)

    def __call__(self, report: Diagnostic) -> None:
        worker_id, release_id, runpod_pod_id = self._identity()
        self._pass_on(
            DiagnosticLog(
                worker_id=worker_id,
                release_id=release_id,
                runpod_pod_id=runpod_pod_id,
                category=report.category,
                severity=report.severity,
                message=_cut(report.message),
                payload_json=_payload_of(report),
                emitted_at_unix_ms=int(report.at * 1000),
            )
        )


def report_exception(request_id: str, function: str, failure: Failure) -> None:
    """Report what a handler raised, if it is news: its traceback goes to nobody else."""
    if not failure.detail or failure.error_type in _EXPECTED:
        return
    emit_diagnostic_log(
        "request_exception",
        f"{failure.exception or failure.error_type}: {failure.message}",
        {
            "request_id": request_id,
            "error_type": failure.error_type,
            "exception_class": failure.exception,
            "traceback": tail_of(failure.detail),
        },
        severity="error",
        function_name=function,
    )


def tail_of(traceback: str) -> str:
    """Return the end of a traceback, which says the most."""
    if len(traceback) <= _MAX_TRACEBACK_CHARS:
        return traceback
    return f"…{traceback[-_MAX_TRACEBACK_CHARS:]}"


def _payload_of(report: Diagnostic) -> bytes:
    facts: dict[str, Any] = {
        name: value
        for name in ("endpoint_class", "function_name", "image_digest")
        if (value := getattr(report, name))
    }
    encoded = _encode({**report.payload, **facts})
    # What a report says is within the limit; whom it is about may take it beyond.
    return encoded if len(encoded) <= _MAX_PAYLOAD_BYTES else _encode({**facts, "truncated": True})


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[: _MAX_MESSAGE_CHARS - 1]}…"
