"""`gen-worker invoke`, against a server that is warm for the whole module."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.attach import Request
from gen_worker.runtime.ndjson.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Cli, Server

    Serve = Callable[..., Server]

NAME_PROJECT = """
print("a print")
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    text: str

@inference_function
def echo(ctx: RequestContext, payload: In) -> In:
    return payload
"""


@pytest.mark.claims("invoke.values")
def test_values_are_bare(warm: Cli) -> None:
    assert warm("invoke", "echo", '{"text": "a"}').stdout == '{"text":"a"}\n'
    done = warm("invoke", "count", '{"limit": 2}')
    assert (done.stdout, done.stderr, done.code) == ('{"n":1}\n{"n":2}\n{"yielded":2}\n', "", 0)


@pytest.mark.claims("invoke.form")
def test_event_lines_and_indentation(warm: Cli) -> None:
    assert warm("invoke", "count", '{"limit": 1}', "--events").values == [
        {"event": "yield", "value": {"n": 1}},
        {"event": "result", "value": {"yielded": 1}},
    ]
    assert warm("invoke", "paint", '{"prompt": "a"}', "--raw", "--pretty").stdout.startswith(
        '{\n  "caption": '
    )


@pytest.mark.claims("invoke.stream")
def test_stream_prints_values_as_they_come(warm: Cli) -> None:
    process = warm.start("invoke", "endless", "--stream")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ['{"n":1}\n', '{"n":2}\n']
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(30) == 130


@pytest.mark.claims("invoke.payload")
@pytest.mark.parametrize(
    ("words", "stdin", "stdout"),
    [
        (["count"], "", '{"n":1}\n{"n":2}\n{"yielded":2}\n'),
        (["echo", ' {"text": "a"}'], "", '{"text":"a"}\n'),
        (["echo", "-"], '{"text": "b"}', '{"text":"b"}\n'),
        (["echo", "@payload.json"], "", '{"text":"c"}\n'),
    ],
)
def test_a_payload_as_a_whole(warm: Cli, words: list[str], stdin: str, stdout: str) -> None:
    (warm.folder / "payload.json").write_text('{"text": "c"}')
    done = warm("invoke", *words, stdin=stdin)
    assert (done.stdout, done.stderr, done.code) == (stdout, "", 0)


@pytest.mark.claims("invoke.payload")
@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("{", "the payload is not JSON"),
        ("@nowhere.json", "cannot read the payload file 'nowhere.json'"),
        ("@list.json", "is not a JSON object, but a list"),
    ],
)
def test_a_payload_that_is_none(warm: Cli, word: str, text: str) -> None:
    (warm.folder / "list.json").write_text("[1]")
    done = warm("invoke", "echo", word)
    assert (done.stdout, done.code) == ("", 2)
    assert text in done.stderr


@pytest.mark.claims("invoke.arguments")
def test_arguments_are_read_as_the_projects_types_say(warm: Cli) -> None:
    config = ["--config", str(warm.config_of("shapes"))]
    done = warm("invoke", "echo", "2", "times=2", "mood=loud", *config)
    assert (done.stdout, done.stderr, done.code) == ('{"text":"2 2"}\n', "", 0)
    done = warm("invoke", "echo", "a", "moot=loud", *config)
    assert (done.stdout, done.code) == ("", 2)
    assert "mood" in done.stderr


@pytest.mark.claims("invoke.author-prints")
def test_what_the_project_prints_while_it_is_read_goes_to_stderr(cli: Cli, serve: Serve) -> None:
    folder = cli.write_project(NAME_PROJECT)
    serve(project=folder)
    done = cli("invoke", "echo", "42", project=folder)
    assert (done.stdout, done.stderr) == ('{"text":"42"}\n', "a print\n")


@pytest.mark.claims("invoke.guessed", "args.no-schema")
def test_without_a_project_values_are_guessed(warm: Cli) -> None:
    done = warm("invoke", "echo", "text=a", "times=2")
    assert done.stdout == '{"text":"a a"}\n'
    assert "values are guessed, their types are not known here: no ./endpoint.toml" in done.stderr
    done = warm("invoke", "echo", "text=42")
    assert done.code == 2
    assert "Expected `str`, got `int`" in done.stderr
    done = warm("invoke", "echo", "a")
    assert done.code == 2
    assert "write field=" in done.stderr


@pytest.mark.claims("invoke.failures")
@pytest.mark.parametrize(
    ("function", "payload", "code", "text"),
    [
        ("crashing", "{}", 1, "user_exception: internal error"),
        ("refusing", "{}", 1, "user_exception: this text is not accepted"),
        ("echo", '{"text": 1}', 2, "usage: Expected `str`"),
        ("nope", "{}", 2, "not_found: there is no function 'nope'"),
    ],
)
def test_failures(warm: Cli, function: str, payload: str, code: int, text: str) -> None:
    done = warm("invoke", function, payload)
    assert (done.stdout, done.code) == ("", code)
    assert done.stderr.startswith(f"gen-worker invoke: {text}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.claims("invoke.no-server")
def test_nobody_there(cli: Cli) -> None:
    done = cli("invoke", "echo", "{}")
    assert (done.stdout, done.code) == ("", 2)
    assert "start one with `gen-worker serve`" in done.stderr
    assert cli("invoke", "echo", "{}", "--socket", "tcp://x").code == 2


@pytest.mark.claims("invoke.no-server")
def test_a_server_that_leaves_without_an_answer(cli: Cli) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cli.folder / ".gen-worker.sock"))
        listener.listen()
        process = cli.start("invoke", "echo", "{}")
        listener.accept()[0].close()
    assert process.wait(30) == 2


HOLDING_PROJECT = """
import os, sys, time
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    pass

def tell(what: str) -> None:
    print("holding:", what, file=sys.stderr, flush=True)

@inference_function
def hold(ctx: RequestContext, payload: In) -> In:
    tell("started")
    try:
        while not os.path.exists("go"):
            time.sleep(0.01)
    except BaseException:
        tell("canceled")
        raise
    tell("let go")
    return payload
"""


@pytest.mark.claims("invoke.timeout")
def test_a_timeout_stops_waiting_and_not_the_request(cli: Cli, serve: Serve) -> None:
    folder = cli.write_project(HOLDING_PROJECT)
    server = serve(project=folder)
    done = cli("invoke", "hold", "{}", "--timeout", "0.2")
    assert (done.stdout, done.code) == ("", 2)
    assert "within 0.2 s; the request goes on there" in done.stderr
    (folder / "go").touch()
    server.expect("holding: let go")
    assert "canceled" not in server.transcript
    (folder / "go").unlink()
    assert cli("invoke", "hold", "{}", "--timeout", "0.2").code == 2
    server.expect("holding: started")
    assert server.stop() == 0
    assert "holding: canceled" in server.transcript


@pytest.mark.claims("invoke.sigint")
@pytest.mark.parametrize("function", ["waiting", "busy"])
def test_ctrl_c_cancels_at_the_server(cli: Cli, serve: Serve, function: str) -> None:
    server = serve()
    process = cli.start("invoke", function)
    server.expect("started")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, process.returncode) == ("", 130)
    assert stderr == "gen-worker invoke: canceled: canceled\n"


def press_until_it_ends(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C once; a machine that was too busy to take it for a second time gets a pair."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        else:
            return


@pytest.mark.claims("invoke.sigint-twice")
def test_a_second_ctrl_c_leaves(cli: Cli, serve: Serve) -> None:
    server = serve()
    process = cli.start("invoke", "deaf", '{"limit": 600}')
    server.expect("started")
    process.send_signal(signal.SIGINT)
    server.expect("swallowed")
    press_until_it_ends(process)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, stderr, process.returncode) == ("", "", 130)
    assert cli("invoke", "echo", '{"text": "a"}').code == 0, "the server carries on"


@pytest.mark.claims("invoke.broken-pipe")
def test_a_reader_that_leaves(cli: Cli, serve: Serve) -> None:
    server = serve()
    process = cli.start("invoke", "endless", "--stream")
    server.expect("started")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    assert server.stop() == 0


@pytest.mark.claims("invoke.form")
def test_a_large_value_is_written_whole(warm: Cli) -> None:
    text = "x" * 3_000_000
    done = warm("invoke", "echo", "-", stdin=json.dumps({"text": text}))
    assert done.stdout == json.dumps({"text": text}, separators=(",", ":")) + "\n"


@pytest.mark.claims("invoke.form")
def test_a_pipe_that_does_not_block_will_do(warm: Cli) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = ["invoke", "count", '{"limit": 20000}', "--stream"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gen_worker.cli", *command],
        cwd=warm.folder,
        env=warm.environment,
        stdout=writer,
    )
    os.close(writer)
    with open(reader, "rb") as out:
        assert len(out.readlines()) == 20_001
    assert process.wait(30) == 0


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        yield listener


class Notices(io.StringIO):
    """A standard error that tells when something was said."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Event()

    def write(self, text: str) -> int:
        self.came.set()
        return super().write(text)


@pytest.mark.claims("invoke.patience")
def test_who_waits_long_is_told_once(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices = Notices()
    monkeypatch.setattr(sys, "stderr", notices)

    def answer() -> None:
        peer, _ = silent.accept()
        with peer:
            assert notices.came.wait(30)
            time.sleep(0.1)  # a second notice would come meanwhile
            peer.sendall(b'{"ok":true,"events":[]}\n')

    thread = threading.Thread(target=answer)
    thread.start()
    with Client(silent.getsockname()) as client:
        request = Request(client, "f", {}, patience_s=0.01)
        assert [reply.ok for reply in request.replies()] == [True]
    thread.join()
    assert notices.getvalue().count("no answer from") == 1
