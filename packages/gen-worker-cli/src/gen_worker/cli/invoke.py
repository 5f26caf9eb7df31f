"""Send a request to a running `gen-worker serve`, or with --url to a platform.

The payload is one JSON object, @FILE, - for stdin, or arguments as `gen-worker run` takes them:
"a red fox" steps=30 image@cat.png
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gen_worker.cli.options import add_output_options, add_project_options
from gen_worker.cli.serve import DEFAULT_SOCKET, seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from gen_worker.cli.results import ResultPrinter
    from gen_worker.runtime.ndjson.client import ReplyFrame

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument("function", help="name of the function, as `describe` lists it")
    parser.add_argument(
        "tokens",
        nargs="*",
        metavar="ARGUMENT",
        help="the payload: TEXT, FIELD=TEXT, FIELD:=JSON, FIELD@FILE; or as a whole: a JSON "
        "object, @FILE, or - for stdin",
    )
    parser.add_argument(
        "--socket",
        metavar="ADDR",
        default=DEFAULT_SOCKET,
        help=f"tcp://host:port, unix:///path or a path (default: ./{DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        default="",
        help="a platform, such as `gen-worker up` runs, to which files are sent; FUNCTION may be "
        "owner/endpoint/function:tag",
    )
    parser.add_argument("--stream", action="store_true", help="print values as they are produced")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="stop waiting after this long, exit code 2; the request goes on at the server, with "
        "--url it is canceled (default: 0, wait for ever)",
    )
    add_output_options(parser, envelope=False)
    parser.set_defaults(data="")


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.attach import Request, connect
    from gen_worker.cli.failures import UsageError
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.runtime.ndjson.client import NoServerError, RequestTimeoutError

    printer = ResultPrinter(divert_stdout(), envelope=args.envelope, pretty=args.pretty)
    if args.url:
        from gen_worker.cli.platform.invoking import invoke

        return invoke(args, _payload(args), printer)
    try:
        with connect(args.socket) as client:
            request = Request(client, args.function, _payload(args), stream=args.stream)
            return _print(request.replies(args.timeout), printer)
    except (NoServerError, RequestTimeoutError) as error:
        raise UsageError(str(error)) from error


def _print(replies: Iterator[ReplyFrame], printer: ResultPrinter) -> int:
    for reply in replies:
        for event in (reply, *reply.events):
            match event.event:
                case "yield" | "result" as name:
                    printer.print(name, event.value)
                case _:  # the last line, or a kind of event this client did not ask for
                    pass
        if reply.error is not None:
            return _report(reply.error)
    return 0


def _report(error: dict[str, Any]) -> int:
    from gen_worker.cli.attach import exit_code_of

    text = f"{error.get('kind', 'error')}: {error.get('message', '')}"
    print(f"gen-worker invoke: {text}", file=sys.stderr)
    return exit_code_of(error)


def _payload(args: argparse.Namespace) -> dict[str, Any]:
    """Build the payload; the project is imported only when arguments need its field types."""
    words = args.tokens
    if not words:
        return {}
    if len(words) == 1 and (whole := _whole(words[0])) is not None:
        return whole
    return _from_tokens(args, words)


def _whole(word: str) -> dict[str, Any] | None:
    """Return a payload given as a whole; None when `word` is an argument."""
    from gen_worker.cli.payload import parse_object, read_file

    if word == "-":
        return parse_object(sys.stdin.buffer.read(), "the payload on stdin")
    if word.startswith("@"):
        return parse_object(read_file(word[1:]), f"the payload in {word[1:]!r}")
    if word.lstrip().startswith("{"):
        return parse_object(word.encode("utf-8", "surrogateescape"), "the payload")
    return None


def _from_tokens(args: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    from gen_worker.cli.arguments import apply_tokens, payload_fields
    from gen_worker.cli.coercion import by_path
    from gen_worker.cli.project import find_function, open_endpoint
    from gen_worker.errors import WorkerError

    name = args.function
    refer: Callable[[str], Any] = by_path
    if args.url:  # of `owner/endpoint/function:tag`, what the project calls it
        from pathlib import PurePath

        name = name.rpartition("/")[2].partition(":")[0]
        refer = PurePath  # which the client sends there
    try:
        spec = find_function(open_endpoint(args), name)
    except WorkerError as error:
        if args.config or args.module:
            raise
        text = f"values are guessed, their types are not known here: {error}"
        print(f"gen-worker invoke: {text}", file=sys.stderr)
        return apply_tokens(words, {}, None, refer)
    return apply_tokens(words, {}, payload_fields(spec), refer)
