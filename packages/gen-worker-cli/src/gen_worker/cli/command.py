"""How the first word of the command line becomes a command.

Start-up time is part of this command's contract, so nothing is imported before it is known to be
needed: the list of commands and its help text are plain data, and argparse, msgspec and the
author's project are loaded by the one command that was asked for.

A command is a module `gen_worker.cli.<name>` with two functions:

- `configure(parser: argparse.ArgumentParser) -> None` adds its options. A positional called
  `tokens` (`nargs="*"`) may be mixed with options and also receives everything behind `--`.
- `main(args: argparse.Namespace) -> int` runs it and returns the exit code. It raises
  `gen_worker.cli.failures.UsageError` (exit 2) or any other `WorkerError` (its own exit code);
  the message is printed as `gen-worker <name>: <message>`, without a traceback.

Its module level imports only what `--help` needs: argparse types under `TYPE_CHECKING`, nothing of
msgspec, asyncio or rich.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["COMMANDS", "Command", "build_parser", "dispatch", "find_command"]


class Command:
    """One command. A plain class: making a record type takes longer than all of this module."""

    __slots__ = ("help", "name")

    def __init__(self, name: str, help: str) -> None:
        """Name the module, and say what it does in a few words."""
        self.name = name
        self.help = help

    def load(self) -> ModuleType:
        import importlib

        return importlib.import_module(f"gen_worker.cli.{self.name}")


COMMANDS: tuple[Command, ...] = (
    Command("run", "call one function once and print what it answers"),
    Command("serve", "keep an endpoint loaded and answer requests"),
    Command("invoke", "send a request to a running serve"),
    Command("train", "run the job of a job spec: train a model, and go on with it"),
    Command("repl", "try functions interactively"),
    Command("describe", "print what the endpoint offers, as JSON"),
    Command("prefetch", "download the declared models"),
    Command("models", "list, remove and verify the models on this machine"),
    Command("convert", "convert a model to other precisions, to GGUF, to or from one file"),
    Command("merge", "merge models of one architecture into one"),
    Command("inspect", "say what a model is: layout, precisions, sizes by component"),
    Command("hub", "serve a model hub of your own; push, pull, list and tag models"),
    Command("build", "generate what an image build needs"),
    Command("init", "start a new endpoint project"),
    Command("up", "run hub, scheduler and workers on this machine, for projects and their changes"),
    Command("deploy", "publish a release of a project to a platform"),
    Command("promote", "point a tag to a release"),
    Command("rollback", "point a tag to where it pointed before"),
    Command("releases", "list releases and the tags that point to them"),
    Command("ps", "list a platform's processes, and its workers and what they run"),
    Command("logs", "show what a platform's processes have written"),
    Command("requests", "list, show and cancel a platform's requests"),
    Command("client", "write a typed Python client for what a host serves"),
    Command("scheduler", "serve the scheduler by itself; make, list and remove tokens for it"),
    Command("worker", "start one worker of an endpoint for a platform"),
    Command("doctor", "find what would stop this endpoint from running here"),
    Command("env", "list every setting with its value and meaning"),
    Command("completion", "print a shell completion script"),
)

_USAGE = "usage: gen-worker [--help] [--version] COMMAND ..."
_INTERRUPTED = 130
_USAGE_EXIT = 2


def find_command(name: str) -> Command | None:
    return next((command for command in COMMANDS if command.name == name), None)


def build_parser(command: Command) -> argparse.ArgumentParser:
    """Return the parser of one command, as `gen-worker <name>` uses it."""
    import argparse

    module = command.load()
    width = _terminal_columns() - 2

    def formatter(prog: str) -> argparse.HelpFormatter:
        # Without a width argparse imports shutil, and with it every compression library.
        return argparse.RawDescriptionHelpFormatter(prog, width=width)

    parser = argparse.ArgumentParser(
        prog=f"gen-worker {command.name}",
        description=module.__doc__,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    # Left to itself, argparse lays out every option in the usage line, for each command again.
    words = [_placeholder(action) for action in parser._actions if not action.option_strings]
    asked = [action for action in parser._actions if action.option_strings and action.required]
    words += [f"{action.option_strings[0]} {_placeholder(action)}" for action in asked]
    parser.usage = " ".join([parser.prog, "[options]", *words])
    return parser


def _placeholder(action: argparse.Action) -> str:
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
    name = str(action.metavar or choices or action.dest.upper())
    if action.nargs == "+":
        return f"{name} ..."
    return f"[{name} ...]" if action.nargs == "*" else name


def _terminal_columns() -> int:
    try:
        return max(os.get_terminal_size(1).columns, 40)
    except OSError:
        return 80


def dispatch(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(_help_text(), file=sys.stderr)
        return _USAGE_EXIT
    first, *rest = words
    if first in ("-h", "--help"):
        print(_help_text())
        return 0
    if first == "--version":
        return _print_version()
    command = find_command(first)
    if command is None:
        print(_unknown(first), file=sys.stderr)
        return _USAGE_EXIT
    return _run(command, rest)


def _run(command: Command, words: list[str]) -> int:
    try:
        args = parse(command, words)
        _import_msgspec()
        return int(command.load().main(args))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); a second failure at exit would be noise.
        from gen_worker.cli.output import abandon_stdout

        abandon_stdout()
        return 1
    except Exception as error:
        from gen_worker.cli.failures import report

        return report(command.name, error)


def _import_msgspec() -> None:
    """Import msgspec without typing_extensions, which takes as long as msgspec itself.

    Where that is installed, msgspec takes `get_type_hints`, `Required` and `NotRequired` from it;
    since Python 3.11 they are those of `typing`. Who imports typing_extensions later gets it.
    """
    name = "typing_extensions"
    if name in sys.modules or "msgspec" in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's word for "absent"
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[name]


def parse(command: Command, words: list[str]) -> argparse.Namespace:
    """Parse a command's words; `tokens` may stand between options, and anywhere after `--`."""
    parser = build_parser(command)
    if "--" not in words:
        return parser.parse_intermixed_args(words)
    end = words.index("--")
    args = parser.parse_intermixed_args(words[:end])
    literal = words[end + 1 :]
    if literal and not hasattr(args, "tokens"):
        parser.error(f"unrecognized arguments: {' '.join(literal)}")
    if literal:
        args.tokens = [*args.tokens, *literal]
    return args


def _help_text() -> str:
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.help}" for command in COMMANDS]
    return "\n".join(
        [
            _USAGE,
            "",
            "Write a function, run it, serve it as an AI endpoint.",
            "",
            "commands:",
            *lines,
            "",
            "`gen-worker COMMAND --help` explains one command.",
        ]
    )


def _unknown(word: str) -> str:
    import difflib

    kind = "option" if word.startswith("-") else "command"
    close = difflib.get_close_matches(word, [command.name for command in COMMANDS], n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see gen-worker --help"
    return f"{_USAGE}\ngen-worker: unknown {kind} {word!r}: {hint}"


def _print_version() -> int:
    from gen_worker.version import sdk_version

    print(f"gen-worker {sdk_version()}")
    return 0
