"""The conversation behind `gen-worker repl`: what each line does."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.cli.arguments import apply_tokens, payload_fields
from gen_worker.cli.failures import UsageError, report_failure
from gen_worker.cli.host import new_invocation
from gen_worker.cli.payload import parse_object
from gen_worker.cli.project import Endpoint, find_function
from gen_worker.cli.signals import TERMINATED, Signals
from gen_worker.cli.sink import PrintingSink
from gen_worker.errors import WorkerError, classify
from gen_worker.events import Failed
from gen_worker.runtime.ndjson.frames import error_kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.cli.reports import Reports
    from gen_worker.cli.results import ResultPrinter
    from gen_worker.runtime import Engine
    from gen_worker.spec import FunctionSpec

__all__ = ["HELP", "Session", "read_lines"]

HELP = """\
VALUE FIELD=TEXT …   call the active function, as `gen-worker run` takes it
{"field": …}         call it with a JSON object
:use NAME            make another function the active one
:functions, :fns     list the functions
:schema              print the input schema of the active function
:help, :h            this text
:quit, :q, :exit     leave, as does the end of input"""


class Session:
    """One repl: an engine, an active function, and the lines that came so far."""

    def __init__(
        self,
        engine: Engine,
        endpoint: Endpoint,
        printer: ResultPrinter,
        reports: Reports,
        *,
        device: str | None = None,
    ) -> None:
        self._engine = engine
        self._printer = printer
        self._reports = reports
        self._device = device
        self._signals = Signals(engine.interrupt_from_signal)
        self.endpoint = endpoint
        self.active: FunctionSpec | None = None
        self.is_over = False
        self.exit_code = 0
        if len(endpoint.functions) == 1:
            self.active = endpoint.functions[0]

    @property
    def prompt(self) -> str:
        return f"{self.active.registered_name if self.active else ''}> "

    def set_up(self) -> bool:
        """Run every `setup` now; a failure is told on stderr."""
        try:
            self._engine.setup_now()
        except Exception as error:
            import traceback

            traceback.print_exc()
            _say(f"gen-worker repl: setup failed: {type(error).__name__}: {error}")
            return False
        return True

    def handle(self, line: str) -> int:
        """Do what one line says; return the exit code it would have as a command of its own."""
        text = line.strip()
        if not text:
            return 0
        try:
            return self._command(text) if text.startswith(":") else self._call(text)
        except WorkerError as error:
            failure = classify(error, origin="input")
            _say(f"{error_kind(failure)}: {error}")
            return failure.exit_code

    def _command(self, text: str) -> int:
        word, _, rest = text.partition(" ")
        match word:
            case ":use":
                self.active = find_function(self.endpoint, rest.strip())
            case ":functions" | ":fns":
                self._list_functions()
            case ":schema":
                self._print_schema()
            case ":help" | ":h":
                _say(HELP)
            case ":quit" | ":q" | ":exit":
                self.is_over = True
            case _:
                raise UsageError(f"unknown command {word!r}: :help lists them")
        return 0

    def _list_functions(self) -> None:
        for spec in sorted(self.endpoint.functions, key=lambda spec: spec.registered_name):
            mark = "*" if spec is self.active else " "
            _say(f"{mark} {spec.registered_name}")

    def _print_schema(self) -> None:
        from gen_worker.cli.describe import input_schema

        schema = msgspec.json.encode(input_schema(self._require_active()))
        _say(msgspec.json.format(schema, indent=2).decode())

    def _require_active(self) -> FunctionSpec:
        if self.active is None:
            names = ", ".join(sorted(spec.registered_name for spec in self.endpoint.functions))
            raise UsageError(f"no function is active: choose with :use NAME ({names})")
        return self.active

    def _call(self, text: str) -> int:
        spec = self._require_active()
        invocation = new_invocation(spec, self._payload(text, spec), device=self._device)
        token = CancelToken()
        sink = PrintingSink(self._printer, token)
        with self._signals.watching(token), self._reports.showing(spec.registered_name):
            outcome = self._engine.run(invocation, sink, token=token)
        sink.raise_if_broken()
        if self._signals.is_terminated:
            self.is_over, self.exit_code = True, TERMINATED
        if isinstance(outcome, Failed):
            return report_failure(error_kind(outcome.failure), outcome.failure)
        return 0

    def _payload(self, text: str, spec: FunctionSpec) -> dict[str, Any]:
        if text[0] in "{[":
            return parse_object(text.encode("utf-8", "surrogateescape"), "the payload")
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"cannot split {text!r} into arguments: {error}") from error
        return apply_tokens(words, {}, payload_fields(spec))


def read_lines(session: Session) -> Iterator[str]:
    """Yield lines until the end of input: edited at a terminal, as they are otherwise."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        from gen_worker.cli.editor import edited_lines

        yield from edited_lines(session)
        return
    while True:
        if sys.stdin.isatty():
            print(session.prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
