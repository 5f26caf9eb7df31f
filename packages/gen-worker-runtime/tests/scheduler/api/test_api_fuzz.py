"""Requests to the scheduler's API that nobody thought of: each is answered, none breaks a thing."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_worker.runtime.loop import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import ApiHost, ServeApi

TIMEOUT_S = 60.0
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
FIELDS = ["function", "payload", "request_id", "timeout_ms", "owner", "priority", "webhook", "url"]
FIELDS += ["action", "endpoint", "tag", "release_id", "reason", "scopes", "name", "deadline_ms"]
FIELDS += ["worker_id", "ttl_s", "events", "_models", "text"]
WORDS = ["draw", "paint/draw", "acme/paint/draw:prod", "acme", "paint", "prod", "promote", "invoke"]
WORDS += ["rollback", "remove", "http://127.0.0.1:1/", "r-0", "w1", "queued", "succeeded"]
QUERY = ["owner", "endpoint", "function", "tag", "release_id", "worker_id", "status", "limit"]
QUERY += ["cursor", "last_event_id", "environment", "name"]

words = st.sampled_from(WORDS)
texts = words | st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1e9, 1e9) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4)
    ),
    max_leaves=8,
)
known = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)
submissions = st.builds(
    lambda function, payload, rest: {"payload": payload} | rest | {"function": function},
    words,
    st.dictionaries(texts, scalars, max_size=3),
    known,
)
bodies = st.one_of(
    known.map(msgspec.json.encode),
    submissions.map(msgspec.json.encode),
    values.map(msgspec.json.encode),
    st.binary(max_size=60),
)
fields = st.tuples(
    st.sampled_from([b"accept", b"last-event-id", b"idempotency-key", b"range", b"expect"]),
    st.sampled_from([b"text/event-stream", b"0", b"2", b"9" * 20, b"-1", b"key", b"bytes=0-", b""])
    | st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte >= 32)),
)


@st.composite
def targets(draw: st.DrawFn, paths: list[str]) -> str:
    path = draw(st.sampled_from(paths))
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + quote(draw(texts), safe="%/:") + rest.partition("}")[2]
    query = draw(st.dictionaries(st.sampled_from(QUERY), texts | st.integers(0, 50).map(str)))
    return path + ("?" + "&".join(f"{k}={quote(v)}" for k, v in query.items()) if query else "")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, serve_api: ServeApi) -> Iterator[ApiHost]:
    """An API in a thread; whatever is called succeeds at once."""
    hosts: list[ApiHost] = []
    is_ready = threading.Event()
    ended: list[asyncio.Event] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        async with serve_api(tmp_path_factory.mktemp("api")) as host:
            host.hands.is_eager = True
            hosts.append(host)
            ended.append(asyncio.Event())
            loops.append(asyncio.get_running_loop())
            is_ready.set()
            await ended[0].wait()

    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    assert is_ready.wait(TIMEOUT_S)
    yield hosts[0]
    loops[0].call_soon_threadsafe(ended[0].set)
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def paths(host: ApiHost) -> list[str]:
    document = httpx.get(f"{host.url}/openapi.json", trust_env=False).json()
    return [*document["paths"], "/v1/request/{function}"]


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def answered(host: ApiHost, data: bytes, method: str) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", host.port), TIMEOUT_S) as peer:
        peer.sendall(data)
        answer = HTTPResponse(peer, method=method)
        answer.begin()
        return answer.status, answer.read()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_request_is_answered(host: ApiHost, paths: list[str], data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    target, body = data.draw(targets(paths)), data.draw(bodies)
    headers = data.draw(st.lists(fields, max_size=3))
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target.encode("ascii", "ignore"))]
    lines += [b"host: localhost", b"content-length: %d" % len(body)]
    lines += [b"%b: %b" % header for header in headers]
    status, answer = answered(host, b"\r\n".join([*lines, b"", body]), method)
    assert status < 500 or status == 504, answer
    if status >= 400 and answer:
        found: Any = msgspec.json.decode(answer)
        assert isinstance(found.get("error") or found.get("error_type"), str), found


def test_the_host_is_as_it_was(host: ApiHost) -> None:
    with httpx.Client(base_url=host.url, trust_env=False, timeout=TIMEOUT_S) as client:
        assert client.get("/readyz").json() == {"ready": True, "reasons": []}
        body = {"function": "acme/paint/count", "payload": {}}
        assert client.post("/v1/requests", json=body).status_code in (202, 404)
        deadline = time.monotonic() + TIMEOUT_S
        while client.get("/v1/status").json()["scheduler"]["unfinished"]:
            assert time.monotonic() < deadline, "something does not end"
            time.sleep(0.01)
