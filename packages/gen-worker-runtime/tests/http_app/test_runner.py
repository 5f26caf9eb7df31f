"""`python -m gen_worker.testing.http_runner` as the product documents start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., "Runner"]

TIMEOUT_S = 30.0
TOML = 'schema_version = 1\nname = "dev"\nmain = "app.main"\n'
SOURCE = """
import time
import msgspec
from collections.abc import Iterator
from gen_worker import Asset, RequestContext, inference_function

class In(msgspec.Struct):
    text: str = ""

@inference_function
def upper(ctx: RequestContext, payload: In) -> In:
    ctx.save_bytes("out.txt", payload.text.encode())
    return In(payload.text.upper())

class Named(msgspec.Struct):
    file: Asset

class Saved(msgspec.Struct):
    files: list[Asset]

@inference_function
def read(ctx: RequestContext, payload: Named) -> In:
    with open(payload.file.local_path) as file:
        return In(file.read())

@inference_function
def save(ctx: RequestContext, payload: In) -> Saved:
    refs = ["out", "a/b.txt", f"jobs/{ctx.request_id}/outputs/c.txt"]
    return Saved([ctx.save_bytes(ref, payload.text.encode()) for ref in refs])

@inference_function
def crash(ctx: RequestContext, payload: In) -> In:
    raise RuntimeError("boom")

@inference_function
def slowly(ctx: RequestContext, payload: In) -> Iterator[In]:
    for _ in range(3):
        time.sleep(0.05)
        yield payload
"""


class Runner:
    """A runner that is ready."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gen_worker.testing.http_runner", *words],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self.url = ""
        assert self.process.stderr is not None
        guard = threading.Timer(TIMEOUT_S, self.process.kill)
        guard.start()
        for line in self.process.stderr:
            self.said += line
            if "listening on " in line:
                self.url = line.partition("listening on ")[2].split(" ")[0]
                break
        guard.cancel()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.said += self.process.communicate(timeout=TIMEOUT_S)[1]
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "src/app").mkdir(parents=True)
    (tmp_path / "src/app/__init__.py").touch()
    (tmp_path / "src/app/main.py").write_text(SOURCE)
    (tmp_path / "endpoint.toml").write_text(TOML)
    runners: list[Runner] = []

    def begin(*words: str, listen: str = "127.0.0.1:0", **environment: str) -> Runner:
        settings = {
            "GEN_WORKER_HTTP_LISTEN": listen,
            "GEN_WORKER_ENDPOINT_ROOT": str(tmp_path),
            "GEN_WORKER_OUTPUT_DIR": str(tmp_path / "outputs"),
        }
        runners.append(Runner([*words], tmp_path, {**settings, **environment}))
        return runners[-1]

    yield begin
    for runner in runners:
        runner.process.kill()
        runner.process.communicate()


@pytest.mark.claims("GEN_WORKER_HTTP_LISTEN", "GEN_WORKER_ENDPOINT_ROOT", "GEN_WORKER_OUTPUT_DIR")
def test_a_project_answers(start: Start, tmp_path: Path) -> None:
    runner = start()
    assert "(functions: crash, read, save, slowly, upper)" in runner.said
    with runner.client() as client:
        body: dict[str, Any] = {"payload": {"text": "a"}, "request_id": "r1"}
        answer = client.post("/v1/request/upper", json=body)
        assert (answer.status_code, answer.json()["output"]) == (200, {"text": "A"})
        assert (tmp_path / "outputs/jobs/r1/outputs/out.txt").read_bytes() == b"a"
        assert client.get("/v1/files/jobs/r1/outputs/out.txt").text == "a"
        failed = client.post("/v1/request/dev/crash", json={})
        assert (failed.status_code, failed.json()["success"]) == (400, False)
        missing = client.post("/v1/request/nope", json={})
        assert (missing.status_code, missing.headers["content-type"]) == (404, "text/plain")
        assert client.post("/v1/request/upper", content=b"{").json()["error"] == "invalid_json"
        functions = ["crash", "read", "save", "slowly", "upper"]
        assert client.get("/v1/status").json()["functions"] == functions
        found = client.post("/v1/models/prefetch", json={})
        assert (found.status_code, found.json()["error"]) == (400, "missing_models")
    assert runner.end() == 0
    assert "RuntimeError: boom" in runner.said
    assert "reachable from other machines" not in runner.said


def test_options_are_stronger_and_a_lock_names_the_modules(start: Start, tmp_path: Path) -> None:
    lock = tmp_path / "lock/endpoint.lock"
    lock.parent.mkdir()
    discover = [sys.executable, "-m", "gen_worker.discover"]
    table = subprocess.run(discover, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    lock.write_bytes(table)
    words = ["--listen", "0.0.0.0:0", "--manifest", str(lock), "--outputs", str(tmp_path / "mine")]
    runner = start(*words, "--endpoint-root", str(tmp_path), listen="127.0.0.1:1")
    warning = "tcp://0.0.0.0:0 is reachable from other machines, and no token is asked for"
    assert runner.said.count(warning) == 1
    port = runner.url.rpartition(":")[2]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.post("/v1/request/upper", json={"text": "b"}).json()["success"]
    assert list((tmp_path / "mine/jobs").iterdir())
    assert runner.end(signal.SIGINT) == 0


@pytest.mark.parametrize("word", ["nonsense", "8081", "localhost", "nonsense://"])
def test_an_address_without_a_port_is_refused(start: Start, tmp_path: Path, word: str) -> None:
    runner = start("--listen", word)
    assert runner.end() == 2
    assert f"argument --listen: {word!r} is no address: " in runner.said
    assert "host:port" in runner.said
    assert not (tmp_path / word).exists()


def test_what_was_looked_for_is_named(start: Start, tmp_path: Path) -> None:
    runner = start("--endpoint-root", "/nowhere", "--manifest", "no.lock")
    assert runner.end() == 1
    assert "no lock, --manifest 'no.lock', and no endpoint.toml in --endpoint-root" in runner.said
    lock = tmp_path / "other.lock"
    lock.write_text('lock_version = 1\n[[functions]]\nname = "f"\nmodule = "marco_polo"\n')
    runner = start("--manifest", str(lock))
    assert runner.end() == 1
    assert "there is no module 'marco_polo'" in runner.said
    assert f"from {str(tmp_path)!r} or from its src/" in runner.said


def test_outputs_must_be_writable(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runner = start("--outputs", str(tmp_path / "file/x"))
    assert runner.end() == 1
    assert f"--outputs {str(tmp_path / 'file/x')!r} cannot be written, Not a dir" in runner.said


KEYED = """
from typing import Annotated
import msgspec
from gen_worker import ModelRef, ModelRefSource, RequestContext, worker_function

class In(msgspec.Struct):
    text: str = ""

@worker_function()
def hear(
    ctx: RequestContext, asr: Annotated[str, ModelRef(ModelRefSource.FIXED, "ears")], payload: In
) -> In:
    return payload
"""


@pytest.mark.parametrize("is_locked", [True, False], ids=["locked", "unlocked"])
def test_models_are_found_by_the_keys_of_the_project(
    start: Start, tmp_path: Path, is_locked: bool
) -> None:
    (tmp_path / "src/app/main.py").write_text(KEYED)
    (tmp_path / "endpoint.toml").write_text(TOML + '[models]\nears = { ref = "acme/ears" }\n')
    lock = tmp_path / "endpoint.lock"
    if is_locked:
        discover = [sys.executable, "-m", "gen_worker.discover", "-o", str(lock)]
        subprocess.run(discover, cwd=tmp_path, check=True)
    runner = start("--manifest", str(lock))
    with runner.client() as client:
        answer = client.post("/v1/request/hear", json={}).json()
    assert "model 'acme/ears:prod' is not on this machine" in answer["error_message"]


class Web:
    """A server with one file, and a page that says nothing until its client has gone."""

    def __init__(self) -> None:
        asked, left = self.asked, self.left = threading.Event(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/stalls":
                    asked.set()
                    if not self.connection.recv(1):
                        left.set()
                    return
                self.send_response(200)
                self.send_header("content-length", "7")
                self.end_headers()
                self.wfile.write(b"fetched")

            def log_message(self, *_facts: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.close()


def test_inputs_come_from_urls_uploads_and_outputs(start: Start, tmp_path: Path, web: Web) -> None:
    jobs = tmp_path / "jobs"
    runner = start(WORKER_TRUSTED_URLS=web.url, WORKER_JOB_DIR=str(jobs))
    with runner.client() as client:

        def read(ref: str) -> httpx.Response:
            return client.post("/v1/request/read", json={"file": {"ref": ref}})

        for _ in range(2):  # the second time from the cache, or not
            assert read(f"{web.url}/a.txt").json()["output"] == {"text": "fetched"}
        uploaded = client.post("/v1/files?name=b.txt", content=b"uploaded").json()["ref"]
        assert read(uploaded).json()["output"] == {"text": "uploaded"}
        client.post("/v1/request/upper", json={"payload": {"text": "kept"}, "request_id": "r"})
        assert read("jobs/r/outputs/out.txt").json()["output"] == {"text": "kept"}
        # Not what the operator trusts, no URL of the web, and what is the host's own.
        for ref in (
            "http://127.0.0.1:1/a.txt",
            "http://[::ffff:169.254.169.254]/latest/meta-data",
            "file:///etc/hostname",
            "/etc/hostname",
            "jobs/../../../etc/hostname",
        ):
            refused = read(ref)
            assert (refused.status_code, refused.json()["success"]) == (400, False), ref
            assert refused.json()["error_type"] in ("validation", "auth"), refused.text
    assert runner.end() == 0
    assert not list(jobs.glob("worker-*")), "nothing is left of any request"


def test_a_client_that_leaves_ends_its_download(start: Start, tmp_path: Path, web: Web) -> None:
    runner = start(WORKER_TRUSTED_URLS=web.url, WORKER_JOB_DIR=str(tmp_path / "jobs"))
    host, _, port = runner.url.removeprefix("http://").partition(":")
    body = f'{{"file":{{"ref":"{web.url}/stalls"}}}}'.encode()
    with socket.create_connection((host, int(port)), TIMEOUT_S) as peer:
        peer.sendall(
            b"POST /v1/request/read HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        assert web.asked.wait(TIMEOUT_S)
    assert web.left.wait(TIMEOUT_S)
    assert runner.end() == 0


def test_outputs_are_below_their_request(start: Start, tmp_path: Path) -> None:
    runner = start()
    with runner.client() as client:
        for name in ("r1", "r2"):
            body = {"payload": {"text": name}, "request_id": name}
            answer = client.post("/v1/request/save", json=body).json()
            refs = [file["ref"] for file in answer["output"]["files"]]
            root = f"jobs/{name}/outputs"
            assert refs == [f"{root}/out", f"{root}/a/b.txt", f"{root}/c.txt"]
            for ref in refs:
                assert (tmp_path / "outputs" / ref).read_text() == name
                assert client.get(f"/v1/files/{ref}").text == name
    assert runner.end() == 0


def test_a_stop_lets_a_stream_end(start: Start) -> None:
    runner = start()
    with (
        runner.client() as client,
        client.stream(
            "POST", "/v1/request/slowly", json={}, headers={"Accept": "text/event-stream"}
        ) as found,
    ):
        lines = found.iter_lines()
        assert next(lines) == "event: delta"
        runner.process.send_signal(signal.SIGTERM)
        assert list(lines).count("event: delta") == 2
    assert runner.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--listen", "203.0.113.7:80"], "cannot listen on"),
        (["--endpoint-root", "/nowhere"], "endpoint.lock"),
    ],
)
def test_mistakes_are_one_line(start: Start, words: list[str], text: str) -> None:
    runner = start(*words)
    assert runner.end() == 1
    assert text in runner.said
    assert "Traceback" not in runner.said
