"""Keep an endpoint loaded and answer requests over a socket, or over HTTP.

Listens on ./.gen-worker.sock unless told otherwise; `gen-worker invoke` talks to it. Frames on
standard input are answered on standard output, and the server then ends with its input. With
--http it answers HTTP and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_host_options, add_project_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.project import Endpoint
    from gen_worker.runtime.ndjson.claim import Claim

__all__ = ["DEFAULT_SOCKET", "configure", "main", "open_claim", "seconds"]

DEFAULT_SOCKET = ".gen-worker.sock"


def configure(parser: argparse.ArgumentParser) -> None:
    import argparse

    add_project_options(parser)
    add_host_options(parser)
    parser.add_argument(
        "--socket", metavar="ADDR", help=f"where to listen (default: ./{DEFAULT_SOCKET})"
    )
    parser.add_argument(
        "--listen",
        metavar="ADDR",
        help="the same, and stronger: tcp://host:port, unix:///path or a path; an empty TCP host "
        "means loopback, and beyond it every frame needs a token",
    )
    parser.add_argument(
        "--http",
        metavar="ADDR",
        help="answer HTTP there instead: host:port, :port, or the path of a unix socket; beyond "
        "loopback every request needs a token",
    )
    parser.add_argument("--no-stdin", action="store_true", help="never read frames from stdin")
    parser.add_argument(
        "--function",
        metavar="NAME",
        action="append",
        default=[],
        help="serve only these functions, and those of the same classes (repeatable, commas)",
    )
    parser.add_argument("--eager", action="store_true", help="run every setup before being ready")
    parser.add_argument(
        "--idle-timeout",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="stop after this long without a request (default: 0, never)",
    )
    parser.add_argument(
        "--list-functions", action="store_true", help="list what is served and exit"
    )
    parser.add_argument("--json", action="store_true", help="with --list-functions: as JSON")
    parser.add_argument(
        "--reload", action="store_true", help="start again whenever a file of the project changes"
    )
    # From `--reload` to the server it runs: the socket that outlives it, and a pipe whose end
    # means that nobody supervises any more.
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parent-fd", type=int, help=argparse.SUPPRESS)


def seconds(text: str) -> float:
    """Read a duration; 0 stands for no limit."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.failures import UsageError

    if args.json and not args.list_functions:
        raise UsageError("--json says how --list-functions prints: give both")
    if args.http and (args.socket or args.listen):
        raise UsageError("--http takes the place of --socket and --listen: give one of them")
    if args.list_functions:
        return _list_functions(args)
    if args.reload:
        from gen_worker.cli.reload import supervise

        return supervise(args)
    return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    from gen_worker.cli.failures import UsageError
    from gen_worker.cli.output import divert_stdout
    from gen_worker.runtime.ndjson.claim import ListenError
    from gen_worker.runtime.stopping import StopSignals

    results = divert_stdout()
    signals = StopSignals()
    with signals.watching():
        try:
            claim = open_claim(args)
            signals.before_dying = claim.release
            try:
                # The socket comes first: whoever else wants it is refused before anything is
                # loaded, and clients wait instead of being refused.
                endpoint = _open_endpoint(args)
                from gen_worker.runtime.loop import run

                if args.http:
                    from gen_worker.cli.serving_http import HttpServing

                    return run(HttpServing(args, endpoint, claim, signals).run())
                from gen_worker.cli.serving import Serving

                serving = Serving(args, endpoint, claim, signals, stdout=results.fileno())
                return run(serving.run())
            finally:
                claim.release()
        except KeyboardInterrupt:
            return signals.exit_code
        except ListenError as error:
            raise UsageError(str(error)) from error


def open_claim(args: argparse.Namespace) -> Claim:
    """Take the address the options name.

    Raises:
        ListenError: It is not to be had.
        ValidationError: It is no address.
    """
    if args.http:
        from gen_worker.cli.serving_http import open_http_claim

        return open_http_claim(args.http, args.listen_fd)
    from gen_worker.runtime.ndjson.address import parse_address
    from gen_worker.runtime.ndjson.claim import claim, inherit

    address = parse_address(args.listen or args.socket or DEFAULT_SOCKET)
    return claim(address) if args.listen_fd is None else inherit(address, args.listen_fd)


def _open_endpoint(args: argparse.Namespace) -> Endpoint:
    """Import the project, and keep what `--function` asks for.

    Raises:
        UnknownFunctionError: It names something that is not there.
    """
    from gen_worker.cli.project import find_function, open_endpoint

    endpoint = open_endpoint(args)
    names = [name for word in args.function for name in word.split(",") if name]
    if not names:
        return endpoint
    chosen = [find_function(endpoint, name) for name in names]
    owners = {spec.owner for spec in chosen if spec.owner is not None}
    kept = [spec for spec in endpoint.functions if spec in chosen or spec.owner in owners]
    return endpoint._replace(functions=tuple(kept))


def _list_functions(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout

    results = divert_stdout()
    endpoint = _open_endpoint(args)
    if args.json:
        from gen_worker.cli.describe import function_entries
        from gen_worker.cli.results import ResultPrinter

        document = {"functions": function_entries(endpoint)}
        ResultPrinter(results, envelope=False).print("result", document)
        return 0
    specs = sorted(endpoint.functions, key=lambda spec: spec.registered_name)
    width = max(len(spec.registered_name) for spec in specs)
    with open(results.fileno(), "w", encoding="utf-8", closefd=False) as out:
        for spec in specs:
            owner = f"  ({spec.owner.__name__})" if spec.owner else ""
            print(f"{spec.registered_name:<{width if owner else 0}}{owner}", file=out)
    return 0
