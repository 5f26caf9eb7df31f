"""`run` through the server that is already warm in this directory."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from gen_worker.cli.attach import Request, connect, exit_code_of, sidecar_of
from gen_worker.cli.failures import UsageError
from gen_worker.cli.reports import telemetry_of
from gen_worker.cli.serve import DEFAULT_SOCKET
from gen_worker.runtime.ndjson.address import parse_address
from gen_worker.runtime.ndjson.client import NoServerError, ReplyFrame

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from gen_worker.cli.project import Endpoint
    from gen_worker.cli.reports import Reports
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.runtime.ndjson.client import Client
    from gen_worker.spec import FunctionSpec

__all__ = ["open_server", "run_attached"]

# What the server decided when it started; `run` cannot change it for one call.
_SERVER_OPTIONS = ("offline", "device", "allow_publish", "output")


def open_server(args: argparse.Namespace, endpoint: Endpoint) -> Client | None:
    """Connect to the server of this directory, if the call may go there.

    Returns:
        None when the call has to run in this process.

    Raises:
        UsageError: `--attach` insists, and it cannot be.
    """
    obstacle = _obstacle(args, endpoint)
    if obstacle is None:
        try:
            return connect(DEFAULT_SOCKET)
        except NoServerError as error:
            obstacle = str(error)
    if args.attach:
        raise UsageError(f"cannot attach: {obstacle}")
    return None


def run_attached(
    client: Client,
    args: argparse.Namespace,
    endpoint: Endpoint,
    spec: FunctionSpec,
    payload: Mapping[str, Any],
    printer: ResultPrinter,
    reports: Reports,
) -> int:
    """Send the call and print what the server answers, as a run of its own would.

    Raises:
        UsageError: The server went away before the answer.
    """
    _warn_of_stale_code(endpoint)
    limit = {} if args.timeout is None else {"timeout_ms": max(1, int(args.timeout * 1000))}
    with client, reports.showing(spec.registered_name):
        request = Request(client, spec.registered_name, payload, stream=True, events=True, **limit)
        try:
            return _relay(request.replies(), printer, reports)
        except NoServerError as error:
            raise UsageError(str(error)) from error


def _obstacle(args: argparse.Namespace, endpoint: Endpoint) -> str | None:
    """Return why this call cannot go to the server of this directory, else None."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(DEFAULT_SOCKET).st_mode)
    except OSError:
        is_socket = False
    if not is_socket:
        return f"no server at ./{DEFAULT_SOCKET}: start one with `gen-worker serve`"
    given = [f"--{name.replace('_', '-')}" for name in _SERVER_OPTIONS if getattr(args, name)]
    if given:
        return f"{', '.join(given)} cannot be set for a running server: use --no-attach"
    served = sidecar_of(parse_address(DEFAULT_SOCKET))
    if not served:
        return f"./{DEFAULT_SOCKET} announces no endpoint"
    if (served.get("root"), served.get("main_module")) != (endpoint.root, endpoint.main):
        return f"./{DEFAULT_SOCKET} serves another project: {served.get('root')}"
    return None


def _warn_of_stale_code(endpoint: Endpoint) -> None:
    """Tell when a file of the project is newer than the server."""
    ready_at = sidecar_of(parse_address(DEFAULT_SOCKET)).get("ready_at", 0.0)
    prefix = endpoint.root + os.sep
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    changed = [
        os.path.relpath(file, endpoint.root)
        for file in files
        if file.startswith(prefix) and os.path.exists(file) and os.stat(file).st_mtime > ready_at
    ]
    if changed:
        print(
            f"gen-worker run: the server runs older code: {', '.join(sorted(changed))} changed "
            "since it started; restart it, or use --no-attach",
            file=sys.stderr,
        )


def _relay(replies: Iterator[ReplyFrame], printer: ResultPrinter, reports: Reports) -> int:
    for reply in replies:
        match reply.event:
            case "yield" | "result" as event:
                printer.print(event, reply.value)
            case "context":
                reports.emit(telemetry_of(bytes(reply.value)))
            case _:
                pass
        if reply.error is not None:
            message = f"{reply.error.get('kind', 'error')}: {reply.error.get('message', '')}"
            print(f"gen-worker run: {message}", file=sys.stderr)
            return exit_code_of(reply.error)
    return 0
