"""The way from the first word to a command: help, mistakes, version, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.command import COMMANDS, Command, build_parser

if TYPE_CHECKING:
    from conftest import Cli

ECHOED = '{"event":"result","value":{"text":"a"}}\n'
SLOW_TO_IMPORT = {
    "argparse",
    "asyncio",
    "inspect",
    "dataclasses",
    "logging",
    "importlib.metadata",
    "tomllib",
    "json",
    "concurrent.futures",
    "pathlib",
    "msgspec",
    "rich",
    "prompt_toolkit",
    "shtab",
}


def modules_of(words: list[str], cwd: object = None) -> set[str]:
    """Return every module a command imports, as `-X importtime` lists them."""
    return imported_by("-m", "gen_worker.cli", *words, cwd=cwd)


def imported_by(*words: str, cwd: object = None) -> set[str]:
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=str(cwd or "."))
    lines = done.stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.claims("front.help")
def test_help_lists_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert (done.stderr, done.code) == ("", 0)
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")] == [
        command.name for command in COMMANDS
    ]


@pytest.mark.claims("front.help")
def test_a_command_explains_itself(cli: Cli) -> None:
    done = cli("run", "--help")
    assert (done.stderr, done.code) == ("", 0)
    assert done.stdout.startswith("usage: gen-worker run [options] [ARGUMENT ...]\n")


@pytest.mark.claims("front.help")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_of_every_command_is_explained(command: Command) -> None:
    for action in build_parser(command)._actions:
        assert action.help, action.dest


@pytest.mark.claims("front.no-command")
def test_no_command_is_help_on_stderr(cli: Cli) -> None:
    done = cli()
    assert (done.stdout, done.code) == ("", 2)
    assert done.stderr.startswith("usage: gen-worker")


@pytest.mark.claims("front.unknown", "exit.2")
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["rnu"], "unknown command 'rnu': did you mean 'run'?"),
        (["--frobnicate"], "unknown option '--frobnicate'"),
        (["run", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["describe", "--", "text"], "unrecognized arguments: text"),
        (["run", "--timeout", "soon"], "invalid seconds value: 'soon'"),
        (["run", "--timeout", "-1"], "invalid seconds value: '-1'"),
        (["run", "--raw", "--events"], "not allowed with argument"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_an_unknown_word_is_a_usage_mistake(cli: Cli, words: list[str], part: str) -> None:
    done = cli(*words)
    assert (done.stdout, done.code) == ("", 2)
    assert part in done.stderr
    assert "usage: gen-worker" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.claims("front.version")
def test_version(cli: Cli) -> None:
    done = cli("--version")
    name, version = done.stdout.split()
    assert (name, done.code) == ("gen-worker", 0)
    assert version[0].isdigit()


@pytest.mark.claims("front.script")
def test_the_installed_script_is_the_same_command(cli: Cli) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "gen-worker")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == cli("--help").stdout


@pytest.mark.claims("front.startup")
def test_help_imports_nothing_it_does_not_need() -> None:
    assert not modules_of(["--help"]) & SLOW_TO_IMPORT


@pytest.mark.claims("front.startup")
def test_the_help_of_a_command_needs_argparse_at_most() -> None:
    for command in ("run", "serve", "invoke", "repl"):
        assert not modules_of([command, "--help"]) & (SLOW_TO_IMPORT - {"argparse"})


@pytest.mark.claims("front.startup")
def test_a_run_imports_no_event_loop_and_nothing_that_draws(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference_function\n"
        "def echo(ctx: RequestContext, payload: In) -> In:\n    return payload\n"
    )
    imported = modules_of(["run", "marco"], folder)
    assert "gen_worker.runtime.engine.engine" in imported
    # msgspec imports typing_extensions where that is installed, and with it `inspect`.
    allowed = {"argparse", "tomllib"} | imported_by("-c", "import msgspec")
    assert not imported & (SLOW_TO_IMPORT - allowed)


@pytest.mark.claims("front.startup")
def test_the_garbage_collector_runs_beside_the_authors_code(cli: Cli) -> None:
    folder = cli.write_project(
        "import gc, msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    pass\n"
        "class Out(msgspec.Struct):\n    is_on: bool\n"
        "@inference_function\n"
        "def look(ctx: RequestContext, payload: In) -> Out:\n"
        "    return Out(is_on=gc.isenabled())\n"
    )
    assert cli("run", "--raw", project=folder).values == [{"is_on": True}]


@pytest.mark.claims("front.broken-pipe")
def test_a_reader_that_leaves_is_no_traceback(cli: Cli) -> None:
    process = cli.start("run", "endless", project="shapes")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == '{"event":"yield","value":{"n":1}}\n'
    process.stdout.close()
    assert process.wait(30) == 1
    assert "Traceback" not in process.stderr.read()


@pytest.mark.claims("front.streams")
@pytest.mark.parametrize(
    ("redirection", "code", "stderr"),
    [
        ("2>&-", 0, ""),
        (">&-", 0, ""),
        ("<&-", 0, ""),
        (">/dev/full", 1, "gen-worker run: cannot write to stdout: No space left on device\n"),
    ],
)
def test_streams_that_are_closed_or_full(
    cli: Cli, redirection: str, code: int, stderr: str
) -> None:
    config = cli.config_of("shapes")
    line = f'"{sys.executable}" -m gen_worker.cli run echo a --config "{config}" {redirection}'
    done = subprocess.run(
        ["sh", "-c", line], env=cli.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, stderr)
    assert done.stdout == ("" if ">" in redirection.replace("2>", "") else ECHOED)
