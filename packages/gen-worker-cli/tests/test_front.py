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
# What only some calls need: files, models, streams, failures.
UNUSED_BY_A_PLAIN_RUN = {
    "ctypes",
    "difflib",
    "hashlib",
    "shutil",
    "socket",
    "struct",
    "subprocess",
    "tempfile",
    "traceback",
    "urllib.parse",
    "gen_worker.cli.attach",
    "gen_worker.cli.attached",
    "gen_worker.cli.keyspaces",
    "gen_worker.cli.terminal",
    "gen_worker.context.jobs",
    "gen_worker.context.local_stream",
    "gen_worker.context.media",
    "gen_worker.context.producers",
    "gen_worker.context.stream",
    "gen_worker.discovery.failures",
    "gen_worker.endpoint.classes",
    "gen_worker.endpoint.jobs",
    "gen_worker.masking",
    "gen_worker.models",
    "gen_worker.paths",
    "gen_worker.project.diagnosis",
    "gen_worker.project.models",
    "gen_worker.runtime.engine.batching",
    "gen_worker.runtime.engine.lifecycle",
    "gen_worker.runtime.files.described",
    "gen_worker.runtime.files.image_size",
    "gen_worker.runtime.files.input_checks",
    "gen_worker.runtime.ndjson",
    "gen_worker.schema",
    "gen_worker.settings",
}
MOST_MODULES_OF_A_PLAIN_RUN = 94


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


@pytest.fixture
def imported_by_run(cli: Cli) -> set[str]:
    """What `gen-worker run` of a function without files, models or a stream imports."""
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference_function\n"
        "def echo(ctx: RequestContext, payload: In) -> In:\n    return payload\n"
    )
    imported = modules_of(["run", "marco"], folder)
    assert "gen_worker.runtime.engine.engine" in imported
    return imported


@pytest.mark.claims("front.startup")
def test_a_run_imports_no_event_loop_and_nothing_that_draws(imported_by_run: set[str]) -> None:
    assert not imported_by_run & (SLOW_TO_IMPORT - {"argparse", "tomllib", "msgspec"})


@pytest.mark.claims("front.startup")
def test_a_run_imports_nothing_it_does_not_use(imported_by_run: set[str]) -> None:
    assert not imported_by_run & UNUSED_BY_A_PLAIN_RUN


@pytest.mark.claims("front.startup")
def test_a_run_imports_few_of_our_own_modules(imported_by_run: set[str]) -> None:
    """Each takes a third of a millisecond: import a new one where it is used, or raise this."""
    ours = {name for name in imported_by_run if name.partition(".")[0] == "gen_worker"}
    assert len(ours) <= MOST_MODULES_OF_A_PLAIN_RUN, sorted(ours)


@pytest.mark.claims("front.startup")
def test_msgspec_without_typing_extensions_is_the_same(cli: Cli) -> None:
    """An endpoint still gets typing_extensions, and msgspec reads its types."""
    pytest.importorskip("typing_extensions")
    folder = cli.write_project(
        "import typing_extensions, msgspec\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class Size(typing_extensions.TypedDict):\n"
        "    width: typing_extensions.Required[int]\n"
        "    height: typing_extensions.NotRequired[int]\n"
        "class In(msgspec.Struct):\n    size: Size\n"
        "class Out(msgspec.Struct):\n    keys: list[str]\n"
        "@inference_function\n"
        "def look(ctx: RequestContext, payload: In) -> Out:\n"
        "    return Out(keys=sorted(payload.size))\n"
    )
    assert cli("run", "--raw", 'size:={"width":1}', project=folder).values == [{"keys": ["width"]}]
    assert "$.size" in cli("run", 'size:={"height":1}', project=folder).stderr


@pytest.mark.claims("front.startup")
def test_a_server_reads_no_package_metadata_before_it_answers(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec, sys\n"
        "from gen_worker import RequestContext, inference_function\n"
        "class In(msgspec.Struct):\n    pass\n"
        "class Out(msgspec.Struct):\n    loaded: list[str]\n"
        "@inference_function\n"
        "def look(ctx: RequestContext, payload: In) -> Out:\n"
        "    return Out(loaded=[n for n in sys.modules if n in "
        "('importlib.metadata', 'ipaddress', 'hmac', 'zipfile')])\n"
    )
    server = cli.start("serve", project=folder)
    frames = '{"op":"invoke","id":1,"function":"look","payload":{}}\n'
    stdout, _ = server.communicate(frames, timeout=30)
    assert '"loaded":[]' in stdout


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
