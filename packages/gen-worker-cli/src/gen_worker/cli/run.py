"""Call one function of this project once and print what it answers.

The function comes first where the project has several; then its payload: a bare value goes to the
primary field, the others are named.

  gen-worker run generate "a red fox" steps=30 hires=yes tags=a tags=b image@cat.png
  gen-worker run --payload-file request.json seed=7
  echo '{"text": "marco"}' | gen-worker run -

stdout gets one line of JSON per value, {"event": "yield" | "result", "value": ...}; everything else
goes to stderr. Exit codes: 0 done, 1 the function failed, 2 usage, 3 a model is not to be had,
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.cli.options import add_host_options, add_output_options, add_project_options

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.project import Endpoint
    from gen_worker.cli.reports import Reports
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.spec import FunctionSpec

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument(
        "tokens",
        nargs="*",
        metavar="ARGUMENT",
        help="[FUNCTION] and its payload: TEXT, FIELD=TEXT, FIELD:=JSON, FIELD@FILE, or - for a "
        "JSON object on stdin; arguments that begin with a dash come after --",
    )
    add_project_options(parser)
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class of the function")
    parser.add_argument("--method", metavar="NAME", help="method or function to call")
    parser.add_argument("--payload", metavar="JSON", help="payload to start from (default: {})")
    parser.add_argument("--payload-file", metavar="PATH", help="the same, from a file")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, help="cancel the call after this long"
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="where files go (default: ./.gen-worker-run/outputs)"
    )
    parser.add_argument(
        "--attach",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="send the call to the server of ./.gen-worker.sock; by default that happens when it "
        "serves this project and no option needs a process of its own",
    )
    add_host_options(parser)
    add_output_options(parser, envelope=True)


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.output import divert_stdout
    from gen_worker.cli.reports import open_reports
    from gen_worker.cli.results import ResultPrinter

    out = divert_stdout()
    endpoint, spec, payload = _read_call(args)
    reports = open_reports()
    printer = ResultPrinter(out, envelope=args.envelope, pretty=args.pretty, aside=reports.aside)
    if args.attach is not False and (args.attach or os.path.exists(".gen-worker.sock")):
        from gen_worker.cli.attached import open_server, run_attached

        client = open_server(args, endpoint)
        if client is not None:
            return run_attached(client, args, endpoint, spec, payload, printer, reports)
    return _run_here(args, endpoint, spec, payload, printer, reports)


def _read_call(args: argparse.Namespace) -> tuple[Endpoint, FunctionSpec, dict[str, Any]]:
    """Return what to call, and with which payload."""
    from gen_worker.cli.payload import read_payload
    from gen_worker.cli.project import open_endpoint
    from gen_worker.cli.selection import select

    payload = read_payload(args)
    endpoint = open_endpoint(args)
    chosen = select(
        endpoint.functions, args.tokens, payload, class_name=args.class_name, method=args.method
    )
    if chosen.words:
        from gen_worker.cli.arguments import apply_tokens, payload_fields

        payload = apply_tokens(chosen.words, payload, payload_fields(chosen.spec))
    return endpoint, chosen.spec, payload


def _run_here(
    args: argparse.Namespace,
    endpoint: Endpoint,
    spec: FunctionSpec,
    payload: dict[str, Any],
    printer: ResultPrinter,
    reports: Reports,
) -> int:
    from gen_worker.cancel import CancelToken
    from gen_worker.cli.failures import report_failure
    from gen_worker.cli.host import chosen_device, new_invocation, open_engine, tell_gaps
    from gen_worker.cli.signals import TERMINATED, Signals
    from gen_worker.cli.sink import PrintingSink
    from gen_worker.events import Failed

    tell_gaps(spec)
    engine = open_engine(endpoint, args, events=reports)
    device = chosen_device(endpoint, args)
    invocation = new_invocation(spec, payload, device=device, timeout_s=args.timeout)
    token = CancelToken()
    sink = PrintingSink(printer, token)
    signals = Signals(engine.interrupt_from_signal)
    with signals.watching(token):
        try:
            with reports.showing(spec.registered_name):
                outcome = engine.run(invocation, sink, token=token)
        finally:
            engine.close_now()
    sink.raise_if_broken()
    code = report_failure("gen-worker run", outcome.failure) if isinstance(outcome, Failed) else 0
    return TERMINATED if signals.is_terminated else code
