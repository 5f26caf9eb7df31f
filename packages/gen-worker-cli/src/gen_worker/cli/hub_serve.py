"""`gen-worker hub serve`: a hub that listens."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from gen_worker.cli.collecting import collect_rarely
from gen_worker.cli.failures import UsageError
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.errors import WorkerError
from gen_worker.runtime.stopping import StopSignals

if TYPE_CHECKING:
    import argparse
    import socket
    from typing import BinaryIO

    from gen_worker.models.hub import LocalHub

__all__ = ["open_hub", "serve"]

_YEAR_S = 365 * 86_400.0


def serve(args: argparse.Namespace) -> int:
    """Answer until a signal says stop."""
    from gen_worker.runtime.http import open_listener
    from gen_worker.runtime.loop import run
    from gen_worker.runtime.ndjson.address import TcpAddress
    from gen_worker.runtime.ndjson.claim import ListenError

    if args.tokens:
        raise UsageError(f"serve takes no {args.tokens[0]!r}: name the folder with --dir")
    out, signals = divert_stdout(), StopSignals()
    with signals.watching():
        try:
            address = TcpAddress(args.host, args.port)
            listener = open_listener(address)
            with listener:
                return run(_answer(args, listener, address.is_private, out, signals))
        except ListenError as error:
            raise UsageError(str(error)) from error
        except KeyboardInterrupt:
            return signals.exit_code


async def _answer(
    args: argparse.Namespace,
    listener: socket.socket,
    is_private: bool,
    out: BinaryIO,
    signals: StopSignals,
) -> int:
    from gen_worker.runtime.http import HttpServer, url_of

    with open_hub(args.dir, is_private=is_private) as hub:
        token_file = "" if is_private else _write_token(hub)
        server, stop = HttpServer(hub.app, listener), asyncio.Event()
        signals.stops(asyncio.get_running_loop(), stop)
        url = url_of(listener)

        def ready() -> None:
            collect_rarely()
            _say(f"serving {hub.directory} on {url}")
            if token_file:
                _say(f"other machines reach it: every request needs the token in {token_file}")
            document = {"url": url, "dir": hub.directory, "token_file": token_file or None}
            if args.json or not os.isatty(out.fileno()):
                ResultPrinter(out, envelope=False).print("result", document)
            _say("ready")

        serving = asyncio.ensure_future(server.serve(ready))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.stop()
        stopping.cancel()
        await serving
    _say("stopped")
    return 0


def open_hub(directory: str, *, is_private: bool = True) -> LocalHub:
    """Open the hub of a folder.

    Args:
        directory: As the user named it.
        is_private: Whether only this machine can connect: then no token is asked for.

    Raises:
        UsageError: The folder cannot be used.
    """
    from gen_worker.models.hub import LocalHub
    from gen_worker.models.settings import load_model_settings

    path = os.path.expanduser(directory)
    try:
        return LocalHub(
            path,
            anonymous=("admin",) if is_private else (),
            admin_token=load_model_settings().hub_token,
        )
    except OSError as error:
        if isinstance(error, WorkerError):
            raise
        raise UsageError(f"cannot keep a hub in {path!r}: {error.strerror or error}") from error


def _write_token(hub: LocalHub) -> str:
    """Keep a token that may do everything where only the owner reads it; return the file."""
    path = os.path.join(hub.directory, "token")
    if not os.path.exists(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(hub.issue_token("admin", ttl_s=_YEAR_S))
    return path


def _say(text: str) -> None:
    print(f"gen-worker hub: {text}", file=sys.stderr, flush=True)
