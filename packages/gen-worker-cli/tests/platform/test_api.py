"""How commands read what a platform is called, and what it refuses."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from gen_worker.cli.failures import UsageError
from gen_worker.cli.platform.api import Api, ApiError, NoPlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSALS = {
    "/known": (409, b'{"error": "release_in_use", "message": "it is needed"}'),
    "/token": (401, b'{"error": "unauthorized", "message": "who are you"}'),
    "/proxy": (502, b"<html>"),
}


@pytest.fixture
def url() -> Iterator[str]:
    """Of a host that refuses everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = REFUSALS[self.path]
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:1", "http://h:1"),
        ("h:1", "http://h:1"),
        ("https://h/below/", "https://h/below"),
    ],
)
def test_what_a_platform_is_called(text: str, url: str) -> None:
    assert Api(text).url == url


@pytest.mark.parametrize("text", ["ftp://h", "http://", "http://h:port", "http://me:secret@h"])
def test_what_is_no_url_is_a_mistake_of_the_call(text: str) -> None:
    with pytest.raises(UsageError, match="no URL of a host"):
        Api(text)


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/known", 409, "release_in_use", "it is needed"),
        ("/token", 401, "unauthorized", "who are you: set GEN_WORKER_TOKEN"),
        ("/proxy", 502, "", "status 502"),
    ],
)
def test_a_refusal_is_told_in_the_platforms_words(
    url: str, path: str, status: int, code: str, words: str
) -> None:
    with pytest.raises(ApiError, match=words) as refusal:
        Api(url).get(path)
    assert (refusal.value.status, refusal.value.code) == (status, code)


def test_where_nobody_answers_it_is_said_what_to_do(url: str) -> None:
    api = Api(url.replace("127.0.0.1", "127.0.0.9"), timeout_s=30.0)
    with pytest.raises(NoPlatformError, match="gen-worker up"):
        api.get("/v1/releases")
