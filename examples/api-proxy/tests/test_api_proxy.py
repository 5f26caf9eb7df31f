"""The endpoint is discovered with its own dependencies alone, and run against a local upstream."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gen_worker.discovery import discover

PROJECT = Path(__file__).parents[1]
WORDS = ["Hello", ", ", "world", "!"]

runs_here = pytest.mark.skipif(
    importlib.util.find_spec("gen_worker.cli") is None, reason="running it takes gen-worker[dev]"
)


class Upstream(BaseHTTPRequestHandler):
    """Streams four words to whoever knows the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_known = self.headers["Authorization"] == "Bearer right"
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in WORDS if is_known else []:
            chunk = {"choices": [{"delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_is_discovered() -> None:
    found = discover(str(PROJECT), "api_proxy.main")
    assert [(f.name, f.shape) for f in found.functions] == [("chat", "async_generator")]
    assert found.problems == ()


def run(upstream: str, key: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"UPSTREAM_URL": upstream, "UPSTREAM_API_KEY": key}
    command = [sys.executable, "-m", "gen_worker.cli", "run", "say hello"]
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@runs_here
def test_streams_what_the_upstream_says(upstream: str) -> None:
    answer = run(upstream, "right")
    assert answer.returncode == 0, answer.stderr
    *pieces, result = map(json.loads, answer.stdout.splitlines())
    assert [piece["value"]["text"] for piece in pieces] == WORDS
    assert result == {"event": "result", "value": {"yielded": 4}}


@runs_here
def test_a_refused_key_is_an_error_of_its_own(upstream: str) -> None:
    answer = run(upstream, "wrong")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "set UPSTREAM_API_KEY" in answer.stderr
