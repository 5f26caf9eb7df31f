"""Tokens with scopes and owners: who may do what, and who sees what."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from gen_worker.runtime.http import HttpOptions, Principal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from conftest import Host, RunHost

HOLDERS = {
    "caller": Principal(frozenset({"invoke"}), "acme"),
    "other": Principal(frozenset({"invoke"}), "evil"),
    "looker": Principal(frozenset({"read"}), "acme"),
    "watcher": Principal(frozenset({"read"})),
    "deployer": Principal(frozenset({"deploy"})),
    "boss": Principal(frozenset({"admin"}), "boss"),
}


class Holders:
    """Credentials whose tokens are names."""

    def principal(self, token: bytes) -> Principal | None:
        return HOLDERS.get(token.decode("latin-1"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, run_host: RunHost) -> Iterator[Guarded]:
    folder: Path = tmp_path_factory.mktemp("outputs")
    with run_host(folder, HttpOptions(credentials=Holders(), owner="nobody")) as host:
        with host.client() as client:
            yield Guarded(host, client)


class Guarded(NamedTuple):
    """A host that wants tokens, and a client without one."""

    host: Host
    client: httpx.Client


def ask(
    guarded: Guarded, who: str, method: str, path: str, body: object = None, **headers: str
) -> httpx.Response:
    return guarded.client.request(
        method, path, json=body, headers={"authorization": f"Bearer {who}", **headers}
    )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/request/echo", {"caller", "other", "boss"}),
        ("POST", "/v1/warmup/echo", {"caller", "other", "boss"}),
        ("GET", "/v1/functions", set(HOLDERS)),
        ("GET", "/openapi.json", set(HOLDERS)),
        ("GET", "/v1/status", {"looker", "watcher", "boss"}),
        ("GET", "/metrics", {"looker", "watcher", "boss"}),
        ("POST", "/v1/models/unload", {"boss"}),
    ],
)
def test_a_route_wants_a_scope(guarded: Guarded, method: str, path: str, allowed: set[str]) -> None:
    for _ in range(2):  # the second time a call is answered without a task of its own
        for who in HOLDERS:
            found = ask(guarded, who, method, path, {} if method == "POST" else None)
            if who in allowed:
                assert found.status_code < 401, who
            else:
                assert (found.status_code, found.json()["error"]) == (403, "forbidden"), who


def test_submitting_following_and_canceling_want_scopes(guarded: Guarded) -> None:
    body = {"function": "echo", "payload": {}, "request_id": "scoped"}
    assert ask(guarded, "looker", "POST", "/v1/requests", body).status_code == 403
    assert ask(guarded, "caller", "POST", "/v1/requests", body).status_code == 202
    for who, status in (("looker", 200), ("watcher", 200), ("deployer", 403), ("boss", 200)):
        assert ask(guarded, who, "GET", "/v1/requests/scoped/events").status_code == status
        assert ask(guarded, who, "GET", "/v1/requests/scoped").status_code == status
    assert ask(guarded, "looker", "DELETE", "/v1/requests/scoped").status_code == 403


def test_another_owners_requests_are_not_there(guarded: Guarded) -> None:
    body = {"function": "whoami", "payload": {}, "request_id": "mine"}
    assert ask(guarded, "caller", "POST", "/v1/requests", body).status_code == 202
    for method, path in (
        ("GET", "/v1/requests/mine"),
        ("GET", "/v1/requests/mine/events"),
        ("DELETE", "/v1/requests/mine"),
    ):
        found = ask(guarded, "other", method, path)
        assert (found.status_code, found.json()["error"]) == (404, "unknown_request")
    assert ask(guarded, "caller", "GET", "/v1/requests/mine/events").status_code == 200
    answer = ask(guarded, "caller", "GET", "/v1/requests/mine").json()
    assert answer["output"]["text"] == "mine acme None"


def test_a_call_that_somebody_waits_for_is_not_canceled_by_another_owner(guarded: Guarded) -> None:
    body = b'{"payload":{},"request_id":"waited"}'
    with guarded.host.post("/v1/request/hold", body, "authorization: Bearer caller") as peer:
        guarded.host.stage.expect("holding")
        assert ask(guarded, "other", "DELETE", "/v1/requests/waited").status_code == 404
        assert ask(guarded, "caller", "DELETE", "/v1/requests/waited").json()["canceled"]
        assert peer.recv(65536).startswith(b"HTTP/1.1 499")
    guarded.host.stage.expect("caller")


@pytest.mark.parametrize("path", ["/v1/request/whoami", "/v1/requests"])
def test_a_token_speaks_for_its_own_owner_only(guarded: Guarded, path: str) -> None:
    body = {"function": "whoami", "payload": {}, "owner": "evil"}
    found = ask(guarded, "caller", "POST", path, body)
    assert (found.status_code, found.json()["error"]) == (403, "forbidden_owner")
    assert ask(guarded, "other", "POST", path, body).status_code in (200, 202)
    assert ask(guarded, "boss", "POST", path, body).status_code in (200, 202)


def test_a_key_is_its_owners(guarded: Guarded) -> None:
    key = {"Idempotency-Key": "shared"}
    first, second, again = (
        ask(guarded, who, "POST", "/v1/request/whoami", {}, **key).json()
        for who in ("caller", "other", "caller")
    )
    assert first["request_id"] == again["request_id"] != second["request_id"]
    assert "acme" in first["output"]["text"]
    assert "evil" in second["output"]["text"]


def test_a_host_in_memory_sends_no_webhooks(guarded: Guarded) -> None:
    body = {"function": "echo", "payload": {}, "webhook": {"url": "http://127.0.0.1:1"}}
    found = ask(guarded, "caller", "POST", "/v1/requests", body)
    assert (found.status_code, found.json()["error"]) == (400, "no_webhooks")
    found = ask(guarded, "caller", "POST", "/v1/requests", body | {"webhook": {}})
    assert (found.status_code, found.json()["error"]) == (400, "invalid_body")
    found = ask(guarded, "caller", "POST", "/v1/requests", body | {"priority": 10**30})
    assert (found.status_code, found.json()["error"]) == (400, "invalid_body")


def test_a_joined_stream_that_only_fails_has_its_status(guarded: Guarded) -> None:
    headers = {"Idempotency-Key": "stream", "Accept": "text/event-stream"}
    found = ask(guarded, "caller", "POST", "/v1/request/fail", {"text": "fatal"}, **headers)
    assert (found.status_code, found.json()["error_type"]) == (500, "fatal")
