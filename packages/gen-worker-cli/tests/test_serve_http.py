"""`gen-worker serve --http`, driven as its users drive it: a process and a URL."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Busy, Cli, Server

    Serve = Callable[..., Server]

SIDECAR = ".gen-worker.http.json"
HTTP = ("--http", "127.0.0.1:0")


def sidecar(cli: Cli) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((cli.folder / SIDECAR).read_text())
    return document


@contextmanager
def client_of(cli: Cli, **headers: str) -> Iterator[httpx.Client]:
    url = sidecar(cli)["url"].replace("0.0.0.0", "127.0.0.1")
    with httpx.Client(base_url=url, timeout=30, trust_env=False, headers=headers) as client:
        yield client


def left(cli: Cli) -> list[str]:
    return [name for name in os.listdir(cli.folder) if name.startswith(".gen-worker.")]


@pytest.mark.claims("serve.http", "serve.http-sidecar")
def test_from_ready_to_stopped(cli: Cli, serve: Serve) -> None:
    server = serve(*HTTP, "--function", "echo")
    document = sidecar(cli)
    assert f"listening on {document['url']} (functions: echo)" in server.transcript
    assert document["pid"] == server.pid
    assert stat.S_IMODE((cli.folder / SIDECAR).stat().st_mode) == 0o600
    assert left(cli) == [SIDECAR], "and no socket for frames"
    with client_of(cli) as client:
        answer = client.post("/v1/request/shapes/echo", json={"text": "a"}).json()
        assert (answer["success"], answer["output"]) == (True, {"text": "a"})
        assert client.post("/v1/request/count").status_code == 404
        assert client.get("/v1/status").json()["endpoint"] == "shapes"
    assert server.stop() == 0
    assert server.transcript.endswith("gen-worker serve: stopped\n")
    assert left(cli) == []


@pytest.mark.claims("serve.http-address")
def test_a_unix_socket(cli: Cli, serve: Serve) -> None:
    serve("--http", "here/http.sock", "--function", "echo")
    path = cli.folder / "here/http.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url="http://whatever", timeout=60) as client:
        assert client.post("/v1/request/echo", json={"text": "a"}).json()["success"]


@pytest.mark.claims("serve.http-address")
@pytest.mark.parametrize("form", [":0", "http://localhost:0", "tcp://127.0.0.1:0"])
def test_forms_of_an_address(cli: Cli, serve: Serve, form: str) -> None:
    serve("--http", form, "--function", "echo")
    with client_of(cli) as client:
        assert client.get("/readyz").json()["ready"] is True


@pytest.mark.claims("serve.http-address")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--http", "127.0.0.1:99999"], "port 0 to 65535"),
        (["--http", "203.0.113.7:80"], "cannot listen on"),
        (["--http", "8080"], "write host:port"),
        (["--http", ":0", "--socket", "x.sock"], "give one of them"),
        (["--http", ":0", "--listen", "tcp://:0"], "give one of them"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, words: list[str], text: str) -> None:
    done = cli("serve", *words, project="shapes")
    assert (done.code, done.stdout) == (2, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert left(cli) == []


@pytest.mark.claims("serve.http-address")
def test_a_taken_port(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = cli("serve", "--http", f"127.0.0.1:{other.getsockname()[1]}", project="shapes")
    assert done.code == 2
    assert "Address already in use" in done.stderr


@pytest.mark.claims("serve.http-token")
def test_beyond_this_machine_every_request_needs_a_token(cli: Cli, serve: Serve) -> None:
    server = serve("--http", "0.0.0.0:0", "--function", "echo")
    token = sidecar(cli)["token"]
    assert len(token) >= 32
    assert token not in server.transcript
    assert "requests need the token in .gen-worker.http.json" in server.transcript
    with client_of(cli) as client:
        assert client.post("/v1/request/echo").status_code == 401
    with client_of(cli, authorization=f"Bearer {token}") as client:
        assert client.post("/v1/request/echo", json={"text": "a"}).status_code == 200
    assert server.stop() == 0
    serve("--http", "0.0.0.0:0", "--function", "echo", GEN_WORKER_SERVE_TOKEN="mine")
    with client_of(cli, authorization="Bearer mine") as client:
        assert client.post("/v1/request/echo", json={"text": "a"}).status_code == 200


SLOW_SETUP = """
import pathlib, time
import msgspec
from gen_worker import RequestContext, inference, invocable

class In(msgspec.Struct):
    text: str = ""

@inference
class Slow:
    def setup(self) -> None:
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        if pathlib.Path("go").read_text() == "fail":
            raise ValueError("no weights")

    @invocable
    def use(self, ctx: RequestContext, payload: In) -> In:
        return payload
"""


@pytest.mark.claims("serve.http-eager")
@pytest.mark.parametrize("word", ["go", "fail"])
def test_until_it_is_set_up_it_is_not_ready(cli: Cli, serve: Serve, word: str) -> None:
    server = serve(*HTTP, "--eager", project=cli.write_project(SLOW_SETUP), until="listening")
    with client_of(cli) as client:
        found = client.get("/readyz")
        assert (found.status_code, found.json()["reasons"]) == (503, ["setup is under way"])
        assert client.get("/healthz").status_code == 200
        (cli.folder / "go").write_text(word)
        if word == "go":
            server.expect("gen-worker serve: ready")
            assert client.get("/readyz").status_code == 200
            assert server.stop() == 0
        else:
            server.expect("setup failed: ValueError: no weights")
            assert server.process.wait(30) == 1


@pytest.mark.claims("serve.http-drain")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_what_runs_end(cli: Cli, serve: Serve, number: int) -> None:
    server = serve(*HTTP)
    with client_of(cli) as client:
        body = {"function": "deaf", "payload": {"limit": 4}, "request_id": "r"}
        assert client.post("/v1/requests", json=body).status_code == 202
        server.expect("started")
        with client.stream("GET", "/v1/requests/r/events") as found:
            server.process.send_signal(number)
            events = [line for line in found.iter_lines() if line.startswith("event: ")]
    assert events[-1] == "event: result"
    assert server.process.wait(30) == 0


@pytest.mark.claims("serve.http-drain")
def test_a_second_signal_ends_it_at_once(cli: Cli, serve: Serve) -> None:
    server = serve(*HTTP)
    with client_of(cli) as client:
        body = {"function": "deaf", "payload": {"limit": 600}}
        assert client.post("/v1/requests", json=body).status_code == 202
        server.expect("started")
        server.process.send_signal(signal.SIGTERM)
        while _answers(client):  # until it drains
            pass
        assert server.stop(signal.SIGTERM) == 143


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False


@pytest.mark.claims("serve.http-idle")
def test_idle_time_begins_when_the_last_request_ends(cli: Cli, busy: Busy) -> None:
    def begin(limit: int) -> None:
        body = {"function": "deaf", "payload": {"limit": limit}, "request_id": "r"}
        try:
            with client_of(cli) as client:
                assert client.post("/v1/requests", json=body).status_code == 202
        except httpx.TransportError as error:
            raise ConnectionError("the server has ended") from error

    server, _, limit_s = busy(begin, *HTTP)
    with client_of(cli) as client:
        events = client.get("/v1/requests/r/events").text
        assert "event: result" in events, "a long request was cut"
    server.expect(f"no request for {limit_s:g} s")
    server.expect("stopped")
    assert server.process.wait(30) == 0


READER = """
import msgspec
from gen_worker import Asset, RequestContext, inference_function

class In(msgspec.Struct):
    file: Asset

class Out(msgspec.Struct):
    text: str

@inference_function
def read(ctx: RequestContext, payload: In) -> Out:
    with open(payload.file.local_path) as file:
        return Out(file.read())
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "7")
        self.end_headers()
        self.wfile.write(b"fetched")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.claims("serve.http-files")
def test_inputs_come_from_urls_and_uploads_but_not_from_this_machine(
    cli: Cli, serve: Serve, web: str, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    project = cli.write_project(READER)
    server = serve(*HTTP, project=project, WORKER_TRUSTED_URLS=web, WORKER_JOB_DIR=str(jobs))
    with client_of(cli) as client:

        def read(ref: str) -> httpx.Response:
            return client.post("/v1/request/read", json={"file": {"ref": ref}})

        assert read(f"{web}/a.txt").json()["output"] == {"text": "fetched"}
        uploaded = client.post("/v1/files?name=b.txt", content=b"uploaded").json()["ref"]
        assert read(uploaded).json()["output"] == {"text": "uploaded"}
        for ref in ("/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/a.txt"):
            refused = read(ref)
            assert (refused.status_code, refused.json()["error_type"]) == (400, "validation"), ref
    assert server.stop() == 0
    assert not list(jobs.glob("worker-*")), "nothing is left of any request"


@pytest.mark.claims("serve.http-files")
def test_offline_no_url_is_fetched(cli: Cli, serve: Serve, web: str) -> None:
    serve(*HTTP, "--offline", project=cli.write_project(READER), WORKER_TRUSTED_URLS=web)
    with client_of(cli) as client:
        answer = client.post("/v1/request/read", json={"file": {"ref": f"{web}/a.txt"}})
        assert answer.status_code == 400
        assert "refused" in answer.json()["safe_message"]


@pytest.mark.claims("serve.http")
def test_it_starts_again_when_a_file_changes(cli: Cli, serve: Serve) -> None:
    source = (cli.config_of("shapes").parent / "src/shapes/main.py").read_text()
    folder = cli.write_project(source)
    server = serve(*HTTP, "--reload", project=folder)
    url = sidecar(cli)["url"]
    (folder / "app.py").write_text(source.replace("def echo(", "def echo_again("))
    server.expect("changed, starting again")
    server.expect("gen-worker serve: ready")
    with client_of(cli) as client:
        assert str(client.base_url) == url.rstrip("/")
        assert client.post("/v1/request/echo-again", json={"text": "a"}).json()["success"]
    assert server.stop() == 0
