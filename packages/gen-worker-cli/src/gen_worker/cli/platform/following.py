"""`gen-worker requests ID --follow`: what a request produces and reports, as it comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cli.results import ResultPrinter
from gen_worker.client import Client
from gen_worker.client.errors import error_of_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cli.platform.api import Api
    from gen_worker.client import Request, StreamEvent

__all__ = ["follow", "print_events"]


def follow(api: Api, request_id: str) -> int:
    """Print items and output on stdout, the rest on stderr; Ctrl-C lets the request go on.

    Raises:
        CallError: It failed, or there is none.
    """
    state = api.get(f"/v1/requests/{request_id}")
    if state["status"] == "queued":
        _tell(_queued(state))
    printer = ResultPrinter(sys.stdout.buffer, envelope=False, pretty=sys.stdout.isatty())
    with Client(api.url, api.token) as client:
        return print_events(client.request(request_id), printer, lambda one: _tell(_reported(one)))


def print_events(
    request: Request, printer: ResultPrinter, tell: Callable[[StreamEvent], object]
) -> int:
    """Print what a request produces until it ends, and return the exit code.

    Args:
        request: Followed from its beginning.
        printer: Of items and output.
        tell: Given every other event.

    Raises:
        CallError: It failed.
    """
    for event in request.events():
        match event.name:
            case "delta":
                printer.print("yield", event.data)
            case "result":
                printer.print("result", event.data["output"])
            case "error":
                raise error_of_answer(event.data)
            case _:
                tell(event)
    return 0


def _queued(state: dict[str, Any]) -> str:
    position, why = state.get("position"), state.get("waits_for")
    return "waits" + (f", {position} before" if position else "") + (f": {why}" if why else "")


def _reported(event: StreamEvent) -> str:
    """Return in words what the handler reports; empty for what only machines read."""
    if event.name == "restarted":
        return "begins anew: what was printed is void"
    kind, payload = str(event.data.get("event_type", event.name)), event.data.get("payload", {})
    if kind == "request.progress":
        share = payload.get("progress")
        words = [f"{share:.0%}" if isinstance(share, int | float) else "", payload.get("stage")]
        return " ".join(str(word) for word in words if word) or "goes on"
    if kind == "request.log":
        return f"{payload.get('level', 'info')}: {payload.get('message', '')}"
    is_quiet = kind.startswith(("metrics.", "request.", "worker.", "model."))
    return "" if is_quiet else f"{kind} {msgspec.json.encode(payload).decode()}"


def _tell(text: str) -> None:
    if not text:
        return
    print(text, file=sys.stderr, flush=True)
