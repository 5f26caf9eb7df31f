"""`gen-worker repl`: a session, from a pipe and at a terminal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli, Finished, Terminal


@pytest.mark.claims("repl.session", "repl.commands", "repl.life")
def test_a_script_of_lines(shapes: Callable[..., Finished]) -> None:
    done = shapes(
        "repl",
        "--function",
        "echo,count",
        "--function=paint-it",
        stdin='hello\n:use echo\nhello times=2\n{"text": "raw"}\n\n:use count\nlimit=1\n'
        ":use paint\nfox\nfox\n:quit\nnever read\n",
    )
    assert done.values == [
        {"text": "hello hello"},
        {"text": "raw"},
        {"n": 1},
        {"yielded": 1},
        {"caption": "fox 1"},
        {"caption": "fox 2"},
    ]
    assert done.code == 0
    assert done.stderr.splitlines() == [
        "painter: setup",
        "painter: warmup",
        "usage: no function is active: choose with :use NAME (count, echo, paint-it)",
        "painter: shutdown",
    ]


@pytest.mark.claims("repl.errors", "repl.exit-code")
def test_errors_are_told_and_the_session_goes_on(shapes: Callable[..., Finished]) -> None:
    lines = [
        ":use nobody",
        ":use echo",
        "{broken",
        "[1]",
        "'unbalanced",
        "a times=x",
        '{"text": 1}',
        ":frobnicate",
        ":use crashing",
        "{}",
        ":use refusing",
        "{}",
        ":use echo",
        "fine",
    ]
    done = shapes("repl", stdin="\n".join(lines))
    assert (done.values, done.code) == ([{"text": "fine"}], 0)
    for part in (
        "not_found: no function 'nobody' here; there are: busy",
        "usage: the payload is not JSON",
        "usage: the payload is not a JSON object, but a list",
        'usage: cannot split "\'unbalanced" into arguments',
        "usage: argument 'times=x': expected an integer",
        "usage: Expected `str`, got `int` - at `$.text`",
        "usage: unknown command ':frobnicate'",
        "RuntimeError: boom",
        "ValidationError: this text is not accepted",
    ):
        assert part in done.stderr, part


@pytest.mark.claims("repl.strict")
@pytest.mark.parametrize(("line", "code"), [("x times=y", 2), (":use nobody", 2)])
def test_strict_stops_at_the_first_failure(
    shapes: Callable[..., Finished], line: str, code: int
) -> None:
    done = shapes("repl", "--strict", "--function", "echo", stdin=f"a\n{line}\nb\n")
    assert (done.values, done.code) == ([{"text": "a"}], code)


@pytest.mark.claims("repl.strict")
def test_strict_takes_the_exit_code_of_the_call(shapes: Callable[..., Finished]) -> None:
    done = shapes("repl", "--strict", "--function", "crashing", stdin="{}\n{}\n")
    assert done.code == 1
    assert done.stderr.count("RuntimeError: boom") == 1


@pytest.mark.claims("repl.commands")
def test_listing_and_schema_go_to_stderr(shapes: Callable[..., Finished]) -> None:
    done = shapes(
        "repl", "--function", "echo,count", stdin=":fns\n:use count\n:schema\n:h\n:exit\n"
    )
    assert done.stdout == ""
    assert done.stderr.startswith("  count\n  echo\n")
    assert '"title": "Count"' in done.stderr
    assert ":quit, :q, :exit" in done.stderr


@pytest.mark.claims("repl.form")
def test_events_and_pretty(shapes: Callable[..., Finished]) -> None:
    done = shapes("repl", "--events", "--function", "echo", stdin="a\n")
    assert done.stdout == '{"event":"result","value":{"text":"a"}}\n'
    done = shapes("repl", "--pretty", "--function", "echo", stdin="a\n")
    assert done.stdout == '{\n  "text": "a"\n}\n'


@pytest.mark.claims("repl.setup-fails")
def test_a_setup_that_fails_ends_the_session(cli: Cli) -> None:
    folder = cli.write_project(
        "import msgspec\n"
        "from gen_worker import RequestContext, inference, invocable\n"
        "class In(msgspec.Struct):\n    text: str\n"
        "@inference\n"
        "class Broken:\n"
        "    def setup(self):\n        raise RuntimeError('no weights')\n"
        "    @invocable\n"
        "    def go(self, ctx: RequestContext, payload: In) -> In:\n        return payload\n"
    )
    done = cli("repl", project=folder, stdin="x\n")
    assert (done.stdout, done.code) == ("", 1)
    assert "gen-worker repl: setup failed: RuntimeError: no weights" in done.stderr


@pytest.mark.claims("repl.ctrl-c")
def test_ctrl_c_cancels_the_request_and_keeps_the_session(cli: Cli) -> None:
    process = cli.start("repl", "--function", "busy,echo", project="shapes")
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(":use busy\n{}\n")
    process.stdin.flush()
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "canceled: canceled\n"
    stdout, _ = process.communicate(":use echo\nsurvived\n", timeout=30)
    assert (stdout, process.returncode) == ('{"text":"survived"}\n', 0)


@pytest.mark.claims("repl.ctrl-c")
def test_sigterm_ends_the_session(cli: Cli) -> None:
    process = cli.start("repl", "--function", "busy,paint-it", project="shapes")
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(":use busy\n{}\n")
    process.stdin.flush()
    for line in process.stderr:
        if line == "started\n":
            break
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "painter: shutdown" in stderr


@pytest.mark.claims("repl.editing")
def test_history_and_completion_at_a_terminal(terminal: Terminal) -> None:
    quiet = {"PROMPT_TOOLKIT_NO_CPR": "1"}  # no questions that only a real terminal answers
    terminal.start("repl", "--function", "echo,count", project="shapes", environment=quiet)
    terminal.expect(">")
    terminal.send(":use ec\t")
    terminal.expect(":use echo")
    terminal.send("\r")
    terminal.expect("echo>")
    terminal.send("hi mo\t")
    terminal.expect("mood=")
    terminal.send("lo\t")
    terminal.expect("loud")
    terminal.send("\r")
    terminal.expect('{"text":"HI"}')
    terminal.expect("echo>")
    terminal.send("\x03")
    terminal.expect("(:quit or Ctrl-D leaves)")
    terminal.expect("echo>")
    terminal.send("\x1b[A")
    terminal.expect("hi mood=loud")
    terminal.send("\r")
    terminal.expect('{"text":"HI"}')
    terminal.expect("echo>")
    terminal.send("\x04")
    assert terminal.wait() == 0
    history = (terminal.folder / ".gen-worker-run" / "repl-history").read_text()
    assert "+:use echo" in history
    assert "+hi mood=loud" in history
