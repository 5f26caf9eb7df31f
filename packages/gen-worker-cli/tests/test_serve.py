"""`gen-worker serve`, driven as a host drives it: a process, its socket, its sidecar."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Busy, Cli, Server, Terminal

    Serve = Callable[..., Server]

SOCKET = ".gen-worker.sock"
SIDECAR = ".gen-worker.sock.json"


def talk(cli: Cli, *frames: dict[str, Any] | bytes, path: str = SOCKET) -> socket.socket:
    """Send frames to the server of the test's folder."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    peer.connect(str(cli.folder / path))
    for frame in frames:
        peer.sendall(frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b"\n")
    return peer


def answers(peer: socket.socket) -> list[dict[str, Any]]:
    """Return every line until the server closes the connection."""
    with peer, peer.makefile("rb") as lines:
        return [json.loads(line) for line in lines]


def ask(cli: Cli, function: str, payload: object = None, **keys: Any) -> dict[str, Any]:
    (answer,) = answers(talk(cli, {"function": function, "payload": payload, **keys}))
    return answer


def sidecar(cli: Cli, name: str = SIDECAR) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((cli.folder / name).read_text())
    return document


def left(cli: Cli) -> list[str]:
    return [name for name in os.listdir(cli.folder) if name.startswith(".g")]


# -- ready -----------------------------------------------------------------------------------------


@pytest.mark.claims("serve.messages", "serve.sidecar", "serve.private", "serve.stop")
def test_from_ready_to_stopped(cli: Cli, serve: Serve) -> None:
    before = time.time()
    server = serve("--function", "echo", "--idle-timeout", "500")
    assert f"listening on {cli.folder / SOCKET} (functions: echo)" in server.transcript
    document = sidecar(cli)
    assert before < document.pop("ready_at") <= time.time()
    assert {"keep_alive", "cancel", "serve_sidecar"} <= set(document.pop("capabilities"))
    assert document.pop("gen_worker_version").count(".") == 2
    assert document == {
        "protocol_version": 1,
        "pid": server.pid,
        "listen": str(cli.folder / SOCKET),
        "idle_timeout": 500.0,
        "functions": ["echo"],
        "endpoint": "shapes",
        "main_module": "shapes.main",
        "root": str(cli.config_of("shapes").parent),
    }
    for name in (SOCKET, SIDECAR):
        assert stat.S_IMODE((cli.folder / name).stat().st_mode) == 0o600
    assert ask(cli, "echo", {"text": "a"})["events"][0]["value"] == {"text": "a"}
    assert server.stop(signal.SIGINT) == 0
    assert server.transcript.endswith("gen-worker serve: stopped\n")
    assert left(cli) == []


@pytest.mark.claims("serve.address")
@pytest.mark.parametrize(
    ("option", "form"),
    [("--socket", "deep/er/s.sock"), ("--listen", "unix://{}/deep/er/s.sock")],
)
def test_a_socket_may_be_anywhere(cli: Cli, serve: Serve, option: str, form: str) -> None:
    serve(option, form.format(cli.folder), "--function", "echo")
    assert sidecar(cli, "deep/er/s.sock.json")["listen"] == str(cli.folder / "deep/er/s.sock")
    done = cli("invoke", "echo", "text=a", "--socket", "deep/er/s.sock")
    assert (done.stdout, done.code) == ('{"text":"a"}\n', 0)


@pytest.mark.claims("serve.tcp", "invoke.addresses")
def test_tcp_on_loopback_needs_no_token(cli: Cli, serve: Serve) -> None:
    serve("--listen", "tcp://:0", "--socket", "ignored.sock")
    document = sidecar(cli, ".gen-worker.serve.json")
    host, _, port = document["listen"].rpartition(":")
    assert (host, "token" in document) == ("tcp://127.0.0.1", False)
    assert cli("invoke", "echo", "text=a", "--socket", f"tcp://localhost:{port}").code == 0
    assert left(cli) == [".gen-worker.serve.json"]


@pytest.mark.claims("serve.token", "invoke.token")
def test_beyond_this_machine_every_frame_needs_a_token(cli: Cli, serve: Serve) -> None:
    server = serve("--listen", "tcp://0.0.0.0:0")
    document = sidecar(cli, ".gen-worker.serve.json")
    assert len(document["token"]) >= 32
    assert document["token"] not in server.transcript
    assert "frames need the token" in server.transcript
    port = document["listen"].rpartition(":")[2]
    address = f"tcp://127.0.0.1:{port}"
    assert cli("invoke", "echo", "text=a", "--socket", address).code == 0
    elsewhere = cli.folder / "elsewhere"
    elsewhere.mkdir()
    done = cli("invoke", "echo", "text=a", "--socket", address, project=elsewhere)
    assert done.code == 1
    assert "auth: the frame's `token` is missing or wrong" in done.stderr
    words = ("invoke", "echo", "text=a", "--socket", address)
    done = cli(*words, project=elsewhere, GEN_WORKER_SERVE_TOKEN=document["token"])
    assert done.code == 0


@pytest.mark.claims("serve.token")
def test_the_token_may_be_chosen(cli: Cli, serve: Serve) -> None:
    server = serve("--listen", "tcp://0.0.0.0:0", GEN_WORKER_SERVE_TOKEN="mine")
    assert sidecar(cli, ".gen-worker.serve.json")["token"] == "mine"
    assert "frames need the token" not in server.transcript


@pytest.mark.claims("serve.local-files")
def test_only_the_owners_socket_lets_payloads_name_files(cli: Cli, serve: Serve) -> None:
    picture = cli.folder / "a.png"
    picture.write_bytes(bytes.fromhex("89504e470d0a1a0a") + b"rest")
    words = ("invoke", "looking", json.dumps({"image": {"ref": str(picture)}}))
    serve()
    assert cli(*words).stdout == '{"text":"image/png 12"}\n'
    serve("--listen", "tcp://127.0.0.1:0")
    done = cli(*words, "--socket", sidecar(cli, ".gen-worker.serve.json")["listen"])
    assert done.code != 0
    assert "usage: " in done.stderr


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.claims("serve.taken")
def test_a_second_server_is_refused(cli: Cli, serve: Serve) -> None:
    first = serve("--function", "echo")
    second = cli("serve", project="shapes")
    assert (second.code, second.stdout) == (2, "")
    assert "another server is listening on" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert sidecar(cli)["pid"] == first.pid
    assert ask(cli, "echo", {"text": "a"})["ok"]


@pytest.mark.claims("serve.taken")
def test_of_two_that_start_at_once_one_serves(cli: Cli) -> None:
    for _ in range(2):
        both = [cli.start("serve", "--no-stdin", project="shapes") for _ in range(2)]
        deadline = time.monotonic() + 30
        while not (cli.folder / SIDECAR).exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        winner = sidecar(cli)["pid"]
        (loser,) = [process for process in both if process.pid != winner]
        assert loser.wait(30) == 2
        assert ask(cli, "echo", {"text": "a"})["ok"]
        (served,) = [process for process in both if process.pid == winner]
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
        assert left(cli) == []


@pytest.mark.claims("serve.leftovers")
def test_what_a_killed_server_left_is_replaced(cli: Cli, serve: Serve) -> None:
    first = serve("--function", "echo")
    first.process.kill()
    first.process.wait()
    assert sorted(left(cli)) == [SOCKET, SIDECAR]
    second = serve("--function", "echo")
    assert sidecar(cli)["pid"] == second.pid
    assert ask(cli, "echo", {"text": "a"})["ok"]
    assert second.stop() == 0
    assert left(cli) == []


@pytest.mark.claims("serve.leftovers")
def test_a_file_that_is_no_socket_stays(cli: Cli) -> None:
    (cli.folder / SOCKET).write_text("precious")
    done = cli("serve", "--no-stdin", project="shapes")
    assert done.code == 2
    assert "is no socket" in done.stderr
    assert (cli.folder / SOCKET).read_text() == "precious"


@pytest.mark.claims("serve.cannot-listen", "serve.address")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--listen", "tcp://nonsense"], "write tcp://host:port"),
        (["--listen", "tcp://203.0.113.7:0"], "cannot listen on"),
        (["--socket", "endpoint.toml/s.sock"], "cannot listen on"),
        (["--socket", "x" * 200], "too long for a socket"),
        (["--idle-timeout", "-1"], "invalid seconds value"),
        (["--function", "nope"], "no function 'nope' here"),
        (["--json"], "--list-functions"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, words: list[str], text: str) -> None:
    folder = cli.write_project((cli.config_of("shapes").parent / "src/shapes/main.py").read_text())
    done = cli("serve", "--no-stdin", *words, project=folder)
    assert (done.code, done.stdout) == (2, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert left(cli) == []


@pytest.mark.claims("serve.cannot-listen")
def test_a_sidecar_that_cannot_be_written(cli: Cli) -> None:
    (cli.folder / SIDECAR).mkdir()
    done = cli("serve", "--no-stdin", project="shapes")
    assert done.code == 2
    assert "cannot announce the server" in done.stderr
    assert "ready" not in done.stderr


@pytest.mark.claims("serve.cannot-listen")
def test_a_taken_port(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = cli("serve", "--no-stdin", "--listen", f"tcp://127.0.0.1:{port}", project="shapes")
    assert done.code == 2
    assert "Address already in use" in done.stderr


# -- what is served --------------------------------------------------------------------------------


@pytest.mark.claims("serve.function")
def test_function_narrows_to_the_classes_of_what_is_named(cli: Cli, serve: Serve) -> None:
    server = serve("--function", "echo,paint-it", "--function", "count", "--eager")
    assert sidecar(cli)["functions"] == ["count", "echo", "paint-it", "ponder", "spoil"]
    assert "painter: setup" in server.transcript
    assert ask(cli, "later", {"text": "a"})["error"]["kind"] == "not_found"
    assert ask(cli, "paint-it", {"prompt": "a"})["ok"]


@pytest.mark.claims("serve.list-functions")
def test_list_functions(cli: Cli) -> None:
    words = ("serve", "--list-functions", "--function", "echo", "--function", "spoil")
    done = cli(*words, project="shapes")
    assert done.stdout == "echo\npaint-it  (Painter)\nponder    (Painter)\nspoil     (Painter)\n"
    assert done.code == 0
    (document,) = cli(*words, "--json", project="shapes").values
    described = cli("describe", project="shapes").values[0]
    assert isinstance(document, dict)
    assert isinstance(described, dict)
    assert document["functions"][0]["name"] == "echo"
    assert all(entry in described["functions"] for entry in document["functions"])
    assert left(cli) == []


@pytest.mark.claims("serve.lazy", "serve.stop")
def test_a_class_is_set_up_by_its_first_request_and_shut_down_once(cli: Cli, serve: Serve) -> None:
    server = serve()
    assert "painter" not in server.transcript
    for count in (1, 2):
        answer = ask(cli, "paint-it", {"prompt": "fox"})
        assert answer["events"][0]["value"] == {"caption": f"fox {count}"}
    assert server.stop() == 0
    assert [line for line in server.transcript.splitlines() if "painter" in line] == [
        "painter: setup",
        "painter: warmup",
        "painter: shutdown",
    ]


@pytest.mark.claims("serve.eager")
def test_eager_sets_everything_up_before_it_is_ready(cli: Cli, serve: Serve) -> None:
    server = serve("--eager")
    before_ready = server.transcript.partition("gen-worker serve: listening")[0]
    assert before_ready == "painter: setup\npainter: warmup\n"


BROKEN = """
import msgspec
from gen_worker import RequestContext, inference, invocable

class In(msgspec.Struct):
    text: str = ""

@inference
class Broken:
    def setup(self) -> None:
        raise ValueError("no weights")

    def shutdown(self) -> None:
        print("shut down")

    @invocable
    def use(self, ctx: RequestContext, payload: In) -> In:
        return payload
"""


@pytest.mark.claims("serve.setup-fails")
def test_a_setup_that_fails(cli: Cli, serve: Serve) -> None:
    folder = cli.write_project(BROKEN)
    done = cli("serve", "--no-stdin", "--eager", project=folder)
    assert done.code == 1
    assert "ValueError: no weights" in done.stderr
    assert "gen-worker serve: setup failed: ValueError: no weights" in done.stderr
    assert "ready" not in done.stderr
    assert left(cli) == []
    server = serve(project=folder)
    assert ask(cli, "use")["error"]["exit_code"] == 1
    assert ask(cli, "use")["ok"] is False, "and the server goes on"
    assert server.stop() == 0


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.claims("serve.reports", "output.author-prints")
def test_what_the_code_says_is_on_stderr(cli: Cli, serve: Serve) -> None:
    server = serve()
    assert ask(cli, "reporting", request_id="mine")["events"][0]["value"] == {"text": "mine"}
    assert ask(cli, "crashing")["error"]["message"] == "internal error"
    assert ask(cli, "noisy")["ok"]
    assert server.stop() == 0
    lines = server.transcript.splitlines()
    reports = [json.loads(line) for line in lines if line.startswith("{")]
    assert [report["type"] for report in reports] == [
        "request.progress",
        "request.log",
        "shapes.custom",
    ]
    assert {report["request_id"] for report in reports} == {"mine"}
    assert "RuntimeError: boom /tmp/some/private/path" in lines
    assert {"a print", "a raw write", "a child"} <= set(lines)


BLOCKING = """
import time
import msgspec
from gen_worker import RequestContext, inference_function

class In(msgspec.Struct):
    seconds: float

@inference_function
async def stall(ctx: RequestContext, payload: In) -> In:
    time.sleep(payload.seconds)
    return payload
"""


@pytest.mark.claims("serve.blocked-loop")
@pytest.mark.parametrize("words", [(), ("--http", "127.0.0.1:0")])
def test_what_blocks_the_event_loop_is_told_with_its_line(
    cli: Cli, serve: Serve, words: tuple[str, ...]
) -> None:
    server = serve(
        *words,
        project=cli.write_project(BLOCKING),
        until="listening",
        WORKER_WARN_LOOP_BLOCKED_S="0.2",
    )
    server.expect("gen-worker serve: ready")
    if words:
        url = sidecar(cli, ".gen-worker.http.json")["url"]
        urlopen(f"{url}/v1/request/stall", b'{"seconds": 2}', timeout=30).close()
    else:
        assert ask(cli, "stall", {"seconds": 2})["ok"]
    line = server.expect("the event loop has not turned")
    assert ":11 stall: `time.sleep(payload.seconds)`; write it as `def`" in line
    server.expect("the event loop turns again")
    assert server.stop() == 0


@pytest.mark.claims("serve.frames")
def test_bad_frames_are_typed_errors(cli: Cli, serve: Serve) -> None:
    serve()
    for frame, kind in (
        (b"nonsense\n", "usage"),
        (b'{"function":"\xff"}\n', "usage"),
        (b'{"function":"echo","payload":' + b"[" * 100_000 + b"\n", "usage"),
        (b'{"function":"echo","payload":{"text":1}}\n', "usage"),
        (b'{"function":"nope"}\n', "not_found"),
        (b'{"function":"crashing"}\n', "user_exception"),
    ):
        (answer,) = answers(talk(cli, frame))
        assert (answer["ok"], answer["error"]["kind"]) == (False, kind)
    peer = talk(cli)
    chunk = b"x" * 1_000_000
    for _ in range(100):
        peer.sendall(chunk)
    peer.sendall(b"\n")
    (answer,) = answers(peer)
    assert "more than 67108864 bytes" in answer["error"]["message"]
    assert ask(cli, "echo", {"text": "still here"})["ok"]


@pytest.mark.claims("serve.concurrency")
@pytest.mark.parametrize("function", ["polite", "waiting"])
def test_a_long_request_does_not_hold_others_up(cli: Cli, serve: Serve, function: str) -> None:
    server = serve()
    long = talk(cli, {"function": function, "request_id": "long"})
    server.expect("started")
    assert ask(cli, "echo", {"text": "a"})["ok"]
    (ack,) = answers(talk(cli, {"cancel": {"request_id": "long"}}))
    assert ack["canceled"] is True
    (answer,) = answers(long)
    assert answer["error"]["kind"] == "canceled"


@pytest.mark.claims("serve.disconnect")
def test_a_client_that_leaves_cancels_its_request(cli: Cli, serve: Serve) -> None:
    server = serve()
    peer = talk(cli, {"function": "ponder", "payload": {"prompt": "a"}, "request_id": "r"})
    server.expect("painter: pondering")
    peer.close()
    deadline = time.monotonic() + 30
    while "already running" in json.dumps(
        answer := ask(cli, "echo", {"text": "a"}, request_id="r")
    ):
        assert time.monotonic() < deadline
    assert answer["ok"]


# -- standard input --------------------------------------------------------------------------------

FRAMES = '{"function":"echo","payload":{"text":"a"},"request_id":"1"}\n{"function":"noisy"}\n'


@pytest.mark.claims("serve.stdin", "serve.stdout")
def test_frames_on_a_pipe_are_answered_and_the_server_ends(cli: Cli) -> None:
    done = cli("serve", project="shapes", stdin=FRAMES)
    assert [value["ok"] for value in done.values] == [True, True]  # type: ignore[index]
    assert done.code == 0
    assert "a child" in done.stderr
    assert left(cli) == []


@pytest.mark.claims("serve.stdin")
def test_a_file_is_read_too(cli: Cli) -> None:
    (cli.folder / "frames").write_text(FRAMES)
    with open(cli.folder / "frames") as stdin, open(cli.folder / "out", "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "gen_worker.cli", "serve", *config(cli)],
            cwd=cli.folder, env=cli.environment, stdin=stdin, stdout=stdout, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0
    assert len((cli.folder / "out").read_text().splitlines()) == 2


@pytest.mark.claims("serve.stdin")
def test_a_terminal_is_read_too(terminal: Terminal) -> None:
    terminal.start("serve", project="shapes")
    terminal.expect("gen-worker serve: ready")
    terminal.send('{"function":"echo","payload":{"text":"a"}}\r')
    terminal.expect('{"ok":true,"events":[{"event":"result","value":{"text":"a"}}]}')
    terminal.send("\x04")
    terminal.expect("gen-worker serve: stopped")
    assert terminal.wait() == 0


def config(cli: Cli) -> list[str]:
    return ["--config", str(cli.config_of("shapes"))]


@pytest.mark.claims("serve.no-stdin")
@pytest.mark.parametrize("kind", ["null", "closed", "--no-stdin"])
def test_a_service_only_listens(cli: Cli, kind: str) -> None:
    words = [sys.executable, "-m", "gen_worker.cli", "serve", *config(cli)]
    words += ["--no-stdin"] if kind == "--no-stdin" else []
    if kind == "closed":
        words = ["sh", "-c", 'exec "$@" <&-', "sh", *words]
    process = subprocess.Popen(
        words,
        cwd=cli.folder,
        env=cli.environment,
        stdin=subprocess.PIPE if kind == "--no-stdin" else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert any("ready" in line for line in process.stderr)
        if process.stdin is not None:
            process.stdin.close()
        assert ask(cli, "echo", {"text": "a"})["ok"]
        process.terminate()
        assert process.wait(30) == 0


# -- endings ---------------------------------------------------------------------------------------


@pytest.mark.claims("serve.stop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_cancels_and_answers_what_runs(cli: Cli, serve: Serve, number: int) -> None:
    server = serve()
    running = talk(cli, {"function": "ponder", "payload": {"prompt": "a"}})
    server.expect("painter: pondering")
    assert server.stop(number) == 0
    (answer,) = answers(running)
    assert answer["error"]["kind"] == "canceled"
    assert server.transcript.endswith("painter: shutdown\ngen-worker serve: stopped\n")


@pytest.mark.claims("serve.stop-twice")
def test_a_second_signal_ends_it_at_once(cli: Cli, serve: Serve) -> None:
    server = serve()
    running = talk(cli, {"function": "deaf", "payload": {"limit": 600}})
    server.expect("started")
    server.process.send_signal(signal.SIGTERM)
    server.expect("swallowed")
    assert server.stop(signal.SIGTERM) == 143
    assert "stopped" not in server.transcript
    assert left(cli) == []
    running.close()


SLOW_START = """
import sys, time
print("importing", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.claims("serve.stop-starting")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_before_it_serves(cli: Cli, number: int, code: int) -> None:
    process = cli.start("serve", "--no-stdin", project=cli.write_project(SLOW_START))
    assert process.stderr is not None
    assert any("importing" in line for line in process.stderr)
    assert (cli.folder / SOCKET).is_socket(), "clients wait meanwhile"
    process.send_signal(number)
    assert process.wait(30) == code
    assert "Traceback" not in process.stderr.read()
    assert left(cli) == []


@pytest.mark.claims("serve.idle")
def test_idle_time_begins_when_the_last_request_ends(cli: Cli, busy: Busy) -> None:
    def begin(limit: int) -> socket.socket:
        return talk(cli, {"function": "deaf", "payload": {"limit": limit}})

    server, running, limit_s = busy(begin)
    (answer,) = answers(running)
    assert answer["ok"], "a long request was cut"
    server.expect(f"no request for {limit_s:g} s")
    server.expect("stopped")
    assert server.process.wait(30) == 0
    assert left(cli) == []


SLOW_SETUP = """
import time
import msgspec
from gen_worker import RequestContext, inference, invocable

class In(msgspec.Struct):
    text: str = ""

@inference
class Slow:
    def setup(self) -> None:
        import sys
        print("setting up", file=sys.stderr, flush=True)
        while True:
            time.sleep(0.01)

    @invocable
    def use(self, ctx: RequestContext, payload: In) -> In:
        return payload
"""


@pytest.mark.claims("serve.stop-starting")
def test_a_stop_during_an_eager_setup(cli: Cli) -> None:
    folder = cli.write_project(SLOW_SETUP)
    process = cli.start("serve", "--no-stdin", "--eager", project=folder)
    assert process.stderr is not None
    assert any("setting up" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    said = process.stderr.read()
    assert "Traceback" not in said
    assert "gen-worker serve: stopped\n" in said
    assert left(cli) == []
