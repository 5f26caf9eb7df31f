"""Requests that nobody thought of: every one is answered, none breaks anything."""

from __future__ import annotations

import logging
import socket
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Host

TIMEOUT_S = 30.0
FUNCTIONS = ["echo-me", "echo", "whoami", "count", "look", "use", "demo/echo:prod"]
"""What ends by itself, and fails for nobody's sake but its caller's."""
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
FIELDS = ["text", "count", "image", "payload", "request_id", "timeout_ms", "owner", "function"]
FIELDS += ["models", "model_id", "ref", "_models", "required_models", "invoker_id"]

# No slash, so that no text is the name of a model that somebody would go and look for.
texts = st.text(max_size=20).map(lambda text: text.replace("/", "-"))
scalars = st.none() | st.booleans() | st.integers(-5, 500) | st.floats(-1e3, 1e3) | texts
values = st.recursive(
    scalars | st.sampled_from([{"text": "a"}, {"ref": "jobs/x"}, {"inline_bytes": "eA=="}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4)
    ),
    max_leaves=8,
)
functions = st.sampled_from(FUNCTIONS)
known = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
submissions = st.builds(lambda function, rest: rest | {"function": function}, functions, known)
bodies = st.one_of(
    values.map(msgspec.json.encode),
    known.map(msgspec.json.encode),
    submissions.map(msgspec.json.encode),
    st.binary(max_size=60).map(lambda data: data.replace(b"/", b"-")),
)
fields = st.tuples(
    st.sampled_from(
        [
            b"accept",
            b"content-type",
            b"last-event-id",
            b"idempotency-key",
            b"range",
            b"if-none-match",
            b"expect",
            b"transfer-encoding",
            b"connection",
            b"upgrade",
            b"x-anything",
        ]
    ),
    st.sampled_from(
        [
            b"text/event-stream",
            b"application/json",
            b"bytes=0-",
            b"bytes=-5",
            b"bytes=9999999999999999999-",
            b"0",
            b"1",
            b"99999999999999999999",
            b"-1",
            b"key",
            b"100-continue",
            b"chunked",
            b"close",
            b"keep-alive, Upgrade",
            b"websocket",
            b"",
        ]
    )
    | st.binary(max_size=20).map(lambda value: bytes(byte for byte in value if byte >= 32)),
)
segments = st.one_of(functions, st.sampled_from(["jobs", "..", "%2e%2e", "%00", "x"]), texts)


@st.composite
def targets(draw: st.DrawFn, paths: list[str]) -> str:
    """A path of the document with anything for its parameters, and a query."""
    path = draw(st.sampled_from(paths))
    while "{" in path:
        before, _, rest = path.partition("{")
        value = draw(segments)
        path = before + quote(value, safe="%/:") + rest.partition("}")[2]
    query = draw(st.dictionaries(st.sampled_from(["name", "last_event_id", "x"]), texts))
    return path + ("?" + "&".join(f"{k}={quote(v)}" for k, v in query.items()) if query else "")


@pytest.fixture(scope="module")
def paths(host: Host) -> list[str]:
    """The paths of the host's own document, but for functions that do not end by themselves."""
    with host.client() as client:
        found = client.get("/openapi.json").json()["paths"]
    call = "/v1/request/"
    return [
        path for path in found if not path.startswith(call) or path.removeprefix(call) in FUNCTIONS
    ] + [call + "{function}"]


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged as an error of the server's own."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def answered(host: Host, data: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Send a request and return its answer: status, headers, body."""
    with host.talk(data) as peer:
        answer = HTTPResponse(peer, method=method)
        answer.begin()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def check(status: int, headers: dict[str, str], body: bytes) -> None:
    """An answer is no failure of the server's, and says what it is."""
    assert status < 500 or status in (501, 504), body  # what the caller's deadline ended is 504
    if status >= 400 and headers.get("content-type") == "application/json" and body:
        found: dict[str, Any] = msgspec.json.decode(body)
        assert isinstance(found.get("error") or found.get("error_type"), str), found


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_request_is_answered(host: Host, paths: list[str], data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    target, body = data.draw(targets(paths)), data.draw(bodies)
    headers = data.draw(st.lists(fields, max_size=4))
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target.encode("ascii", "ignore"))]
    lines += [b"host: localhost", b"content-length: %d" % len(body)]
    lines += [b"%b: %b" % header for header in headers]
    request = b"\r\n".join([*lines, b"", body])
    if any(name == b"transfer-encoding" for name, _ in headers):
        with host.talk(request) as peer:  # what comes then may be no whole request
            peer.shutdown(socket.SHUT_WR)
            answer = read_to_end(peer)
        assert not answer.startswith(b"HTTP/1.1 500"), answer
    else:
        check(*answered(host, request, method))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_that_are_nearly_requests(host: Host, data: st.DataObject) -> None:
    whole = b""
    for _ in range(data.draw(st.integers(1, 3))):  # some of them sent ahead
        body = data.draw(bodies)
        path = data.draw(functions)
        whole += (
            b"POST /v1/request/%b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "insert"]))
        if kind == "flip":
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 20))]
        elif kind == "double":
            damaged[at:at] = damaged[at : at + 30]
        else:
            damaged[at:at] = data.draw(st.binary(max_size=8))
        if not damaged:
            break
    with host.talk(bytes(damaged)) as peer:
        peer.shutdown(socket.SHUT_WR)
        answers = read_to_end(peer)
    assert b"HTTP/1.1 500" not in answers, answers
    assert answered(host, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")[0] == 200


def read_to_end(peer: socket.socket) -> bytes:
    """Read until the server closes; a reset ends it, too."""
    found = b""
    try:
        while data := peer.recv(65536):
            found += data
    except ConnectionError:  # it closed with something of ours unread
        pass
    return found


def test_the_host_is_as_it_was(host: Host) -> None:
    """Whatever came before, in this module: nothing runs, nothing waits, all is well."""
    host.settles()
    with host.client() as client:
        assert client.post("/v1/request/echo", json={"text": "a"}).json()["success"]
        assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    assert not host.app.active_calls
