"""`gen-worker invoke --url`: a request to a platform, followed to its end."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gen_worker.cli.platform.api import find_api
from gen_worker.cli.platform.following import print_events
from gen_worker.client import Client
from gen_worker.client.errors import CallError

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.results import ResultPrinter
    from gen_worker.client import StreamEvent

__all__ = ["invoke"]


def invoke(args: argparse.Namespace, payload: dict[str, Any], printer: ResultPrinter) -> int:
    """Submit a request and print what it produces, as it comes; Ctrl-C cancels it.

    Raises:
        CallError: It failed, or the platform has refused it.
    """
    api = find_api(args)
    with Client(api.url, api.token) as client:
        request = client.submit(args.function, payload, timeout_s=args.timeout or None)
        try:
            return print_events(request, printer, _tell_restart)
        except CallError:  # it has ended, or nobody is there to cancel it
            raise
        except BaseException:
            with suppress(CallError):
                request.cancel()
            raise


def _tell_restart(event: StreamEvent) -> None:
    """Tell of a restart alone: what the handler reports is in the worker's log."""
    if event.name != "restarted":
        return
    text = "its worker was lost: it begins anew, what was printed is void"
    print(f"gen-worker invoke: {text}", file=sys.stderr, flush=True)
