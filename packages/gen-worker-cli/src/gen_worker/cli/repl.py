"""Try functions interactively: set up once, then one request per line.

Type a payload as `gen-worker run` takes it, or a JSON object; `:help` lists the commands. Lines are
also read from a pipe, so a session can be a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_host_options, add_output_options, add_project_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    add_project_options(parser)
    parser.add_argument(
        "--function",
        metavar="NAME",
        action="append",
        default=[],
        help="offer only these functions, and set up only their classes (repeatable, commas)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first request that fails, with its exit code (for scripts)",
    )
    add_host_options(parser)
    add_output_options(parser, envelope=False)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.host import chosen_device, open_engine
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.project import find_function, open_endpoint
    from gen_worker.cli.reports import open_reports
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.cli.session import Session, read_lines

    out = divert_stdout()
    endpoint = open_endpoint(args)
    names = [name for word in args.function for name in word.split(",") if name]
    if names:
        chosen = tuple(find_function(endpoint, name) for name in names)
        endpoint = endpoint._replace(functions=chosen)
    reports = open_reports()
    printer = ResultPrinter(out, envelope=args.envelope, pretty=args.pretty, aside=reports.aside)
    engine = open_engine(endpoint, args, events=reports)
    session = Session(engine, endpoint, printer, reports, device=chosen_device(endpoint, args))
    try:
        if not session.set_up():
            return 1
        for line in read_lines(session):
            code = session.handle(line)
            if session.is_over or (code and args.strict):
                return code if args.strict else session.exit_code
        return 0
    finally:
        engine.close_now()
