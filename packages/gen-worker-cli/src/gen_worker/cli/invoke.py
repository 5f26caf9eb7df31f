"""Send a request to a running `gen-worker serve`.

The payload is one JSON object, @FILE, - for stdin, or arguments as `gen-worker run` takes them:
"a red fox" steps=30 image@cat.png
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from gen_worker.cli.options import add_project_options
from gen_worker.cli.serve import DEFAULT_SOCKET

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gen_worker.runtime.ndjson.client import ReplyFrame

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument("function", help="name of the function, as `describe` lists it")
    parser.add_argument("tokens", nargs="*", metavar="PAYLOAD", help="the payload; nothing is {}")
    parser.add_argument(
        "--socket",
        metavar="ADDR",
        default=DEFAULT_SOCKET,
        help=f"tcp://host:port, unix:///path or a path (default: ./{DEFAULT_SOCKET})",
    )
    parser.add_argument("--stream", action="store_true", help="print values as they are produced")
    parser.add_argument(
        "--events", action="store_true", help="print whole event lines instead of bare values"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="give up waiting after this long (exit code 2); the request goes on at the server",
    )
    parser.add_argument("--pretty", action="store_true", help="indent the values")


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.attach import Request, connect
    from gen_worker.cli.failures import UsageError
    from gen_worker.runtime.ndjson.client import NoServerError, RequestTimeoutError

    try:
        with connect(args.socket) as client:
            request = Request(client, args.function, _payload(args), stream=args.stream)
            return _print(request.replies(args.timeout or None), args, sys.stdout.buffer)
    except (NoServerError, RequestTimeoutError) as error:
        raise UsageError(str(error)) from error


def _print(replies: Iterator[ReplyFrame], args: argparse.Namespace, out: BinaryIO) -> int:
    for reply in replies:
        for event in (reply, *reply.events):
            if event.event is not None:
                out.write(_line(event, args))
        out.flush()
        if reply.error is not None:
            return _report(reply.error)
    return 0


def _line(event: ReplyFrame, args: argparse.Namespace) -> bytes:
    import msgspec

    value = bytes(event.value)
    if args.events:
        value = msgspec.json.encode({"event": event.event, "value": event.value})
    return (msgspec.json.format(value, indent=2) if args.pretty else value) + b"\n"


def _report(error: dict[str, Any]) -> int:
    from gen_worker.cli.attach import exit_code_of

    print(f"{error.get('kind', 'error')}: {error.get('message', '')}", file=sys.stderr)
    return exit_code_of(error)


def _payload(args: argparse.Namespace) -> object:
    """Build the payload; the project is imported only when arguments need its field types."""
    import msgspec

    from gen_worker.cli.failures import UsageError

    words = args.tokens
    if not words:
        return {}
    if len(words) == 1 and (text := _whole(words[0])) is not None:
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise UsageError(f"the payload is not a JSON object: {error}") from error
    return _from_tokens(args, words)


def _whole(word: str) -> bytes | None:
    """Return the text of a payload given as a whole; None when `word` is an argument."""
    from gen_worker.cli.failures import UsageError

    if word == "-":
        return sys.stdin.buffer.read()
    if word.startswith("{"):
        return word.encode()
    if not word.startswith("@"):
        return None
    try:
        with open(word[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read {word[1:]!r}: {error.strerror}") from error


def _from_tokens(args: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    from gen_worker.cli.arguments import apply_tokens, payload_fields
    from gen_worker.cli.project import find_function, open_endpoint
    from gen_worker.errors import WorkerError

    try:
        spec = find_function(open_endpoint(args), args.function)
    except WorkerError as error:
        if args.config or args.module:
            raise
        note = f"no project here to read field types from ({error}): values are guessed"
        print(f"gen-worker invoke: {note}", file=sys.stderr)
        return apply_tokens(words, {}, None)
    return apply_tokens(words, {}, payload_fields(spec))
