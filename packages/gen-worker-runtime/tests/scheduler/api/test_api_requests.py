"""Requests over HTTP: submitted, waited for, followed, canceled, listed; each kept on disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import FatalError, RetryableError, classify
from gen_worker.runtime.scheduler import WaitingLimits
from gen_worker.runtime.scheduler.requests import RequestOptions

if TYPE_CHECKING:
    import httpx

    from conftest import ApiHost, RunApi


TIMEOUT_S = 60.0
EVENTS = {"Accept": "text/event-stream"}
WAYS: list[dict[str, str]] = [{}, EVENTS]


async def submit(client: httpx.AsyncClient, request_id: str, **fields: Any) -> httpx.Response:
    body = {"function": "paint/draw", "payload": {"text": "a"}, "request_id": request_id}
    return await client.post("/v1/requests", json=body | fields)


async def ended(host: ApiHost, client: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    async with asyncio.timeout(TIMEOUT_S):
        await client.get(f"/v1/requests/{request_id}/events")
    found: dict[str, Any] = (await client.get(f"/v1/requests/{request_id}")).json()
    return found


# -- submitted -------------------------------------------------------------------------------------


async def test_a_submitted_request_is_kept_and_shown(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        found = await submit(client, "r1", priority=2, owner="ada", timeout_ms=60_000)
        assert (found.status_code, found.headers["location"]) == (202, "/v1/requests/r1")
        shown = found.json()
        assert (shown["request_id"], shown["status"], shown["owner"]) == ("r1", "queued", "ada")
        assert (shown["endpoint"], shown["function"], shown["tag"]) == ("paint", "draw", "prod")
        assert (shown["priority"], shown["attempt"]) == (2, 1)
        shown = (await client.get("/v1/requests/r1")).json()
        assert (shown["position"], shown["waits_for"]) == (0, "no worker is there")
        assert await host.ledger.record("r1") is not None
        live = await host.hands.take()
        assert (await client.get("/v1/requests/r1")).json()["status"] == "running"
        await host.hands.finish(live, {"text": "done"})
        done = (await client.get("/v1/requests/r1")).json()
        assert (done["status"], done["success"], done["output"]) == (
            "succeeded",
            True,
            {"text": "done"},
        )
        assert done["timing_ms"]["compute_ms"] == 2.5
        assert done["worker_id"] == "w1"


async def test_the_same_key_is_the_same_request_of_an_owner(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        body = {"function": "draw", "payload": {}}
        key = {"Idempotency-Key": "k"}
        first = (await client.post("/v1/requests", json=body, headers=key)).json()["request_id"]
        again = (await client.post("/v1/requests", json=body, headers=key)).json()["request_id"]
        other = await client.post("/v1/requests", json=body | {"payload": {"a": 1}}, headers=key)
        assert first == again
        assert (other.status_code, other.json()["error"]) == (409, "idempotency_conflict")
        assert other.json()["request_id"] == first
        body["owner"] = "ada"
        of_ada = (await client.post("/v1/requests", json=body, headers=key)).json()["request_id"]
        assert of_ada != first


@pytest.mark.parametrize(
    ("fields", "status", "error"),
    [
        ({"function": "nope"}, 404, "unknown_function"),
        ({"function": "paint/draw:nope"}, 404, "unknown_function"),
        ({"function": "a/b/c/d"}, 404, "unknown_function"),
        ({"function": ""}, 400, "missing_function"),
        ({"payload": [1]}, 400, "validation"),
        ({"priority": 1001}, 400, "invalid_body"),
        ({"webhook": {"events": []}}, 400, "invalid_body"),
        ({"payload": {"_models": {"x": "a/b"}}}, 400, "unknown_override_param"),
        ({"owner": "\0"}, 400, "validation"),
    ],
)
async def test_a_wrong_submission_is_refused_and_not_kept(
    run_api: RunApi, fields: dict[str, Any], status: int, error: str
) -> None:
    async with run_api() as host:
        client = host.http
        found = await submit(client, "wrong", **fields)
        assert found.status_code == status, found.text
        assert isinstance(found.json()["error"], str)
        if error != "unknown_override_param":
            assert found.json()["error"] == error
        assert await host.ledger.record("wrong") is None


async def test_an_id_is_one_request(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        assert (await submit(client, "twin")).status_code == 202
        found = await submit(client, "twin")
        assert (found.status_code, found.json()["error"]) == (409, "duplicate_request_id")


async def test_too_many_are_429_and_told_when_to_come_back(run_api: RunApi) -> None:
    limits = RequestOptions(waiting=WaitingLimits(max_requests=2, max_per_owner=2))
    async with run_api(options=limits) as host:
        client = host.http
        for name in "ab":
            assert (await submit(client, name)).status_code == 202
        found = await submit(client, "c")
        assert (found.status_code, found.json()["error"]) == (429, "worker_overloaded")
        assert int(found.headers["retry-after"]) >= 1
        assert found.json()["retryable"] is True
        called = await client.post("/v1/request/draw", json={})
        assert called.status_code == 429


# -- waited for ------------------------------------------------------------------------------------


async def test_a_call_is_a_request_too(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        calling = asyncio.create_task(
            client.post("/v1/request/acme/paint/draw:prod", json={"n": 1})
        )
        live = await host.hands.take()
        await host.hands.report(live, "half way")
        await host.hands.finish(live, {"text": "x"})
        found = (await calling).json()
        assert (found["success"], found["output"], found["status"]) == (
            True,
            {"text": "x"},
            "succeeded",
        )
        assert [event["payload"] for event in found["events"]] == [{"text": "half way"}]
        shown = (await client.get(f"/v1/requests/{found['request_id']}")).json()
        clocks = ("started_at", "ended_at")  # the ledger's, and those that are told at once
        assert {key: shown[key] for key in shown if key not in clocks} == {
            key: found[key] for key in found if key not in clocks
        }


async def test_a_failed_call_has_its_status(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        for headers in WAYS:
            calling = asyncio.create_task(client.post("/v1/request/draw", json={}, headers=headers))
            await host.hands.fail(await host.hands.take(), classify(FatalError("it broke")))
            found = await calling
            assert (found.status_code, found.json()["error_type"]) == (500, "fatal")
            assert found.json()["status"] == "failed"


async def test_a_streamed_call_is_collected_or_followed(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        for headers in WAYS:
            calling = asyncio.create_task(
                client.post("/v1/request/count", json={}, headers=headers)
            )
            live = await host.hands.take()
            await host.hands.produce(live, {"n": 1}, {"n": 2})
            await host.hands.finish(live, {"yielded": 2}, is_streamed=True)
            found = await calling
            assert found.status_code == 200
            if not headers:
                assert found.json()["output"] == [{"n": 1}, {"n": 2}]
                continue
            events = host.events(found.text)
            assert [(number, name) for number, name, _ in events] == [
                (1, "delta"),
                (2, "delta"),
                (3, "result"),
            ]
            assert events[-1][2]["output"] == {"yielded": 2}


async def test_a_client_that_leaves_cancels_its_call_unless_it_has_a_key(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        for headers in WAYS:
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            lines = ["POST /v1/request/draw HTTP/1.1", "host: localhost", "content-length: 2"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join([*lines, "", "{}"]).encode())
            live = await host.hands.take()
            writer.close()
            async with asyncio.timeout(TIMEOUT_S):
                assert await host.hands.interrupted.get() == (live.request_id, "disconnect")
            await host.hands.fail(live, classify(RetryableError("stopped")))
            assert (await ended(host, client, live.request_id))["status"] == "canceled"
            lines.append("idempotency-key: comes-back" + headers.get("Accept", ""))
            reader, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write("\r\n".join([*lines, "", "{}"]).encode())
            live = await host.hands.take()
            writer.close()
            assert await reader.read() == b""
            await host.hands.finish(live, {"late": True})
            assert (await ended(host, client, live.request_id))["output"] == {"late": True}
            assert host.hands.interrupted.empty()


async def test_who_waits_when_the_server_stops_may_come_back(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        body = {"payload": {}, "request_id": "kept"}
        calling = asyncio.create_task(client.post("/v1/request/draw", json=body))
        following = asyncio.create_task(
            client.post("/v1/request/draw", json=body | {"request_id": "too"}, headers=EVENTS)
        )
        await host.hands.take()
        await host.hands.take()
        host.stop.set()
        found = await calling
        assert (found.status_code, found.json()["error"]) == (503, "draining")
        assert found.json()["request_id"] == "kept"
        assert found.headers["location"] == "/v1/requests/kept"
        assert (await following).status_code == 503
        assert host.hands.interrupted.empty()
    async with run_api() as host:
        client = host.http
        assert (await client.get("/v1/requests/kept")).json()["status"] == "running"


# -- canceled --------------------------------------------------------------------------------------


async def test_a_request_is_canceled(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        await submit(client, "waits")
        found = await client.delete("/v1/requests/waits")
        assert found.json() == {"request_id": "waits", "canceled": True, "status": "canceled"}
        found = await client.delete("/v1/requests/waits")
        assert found.json() == {"request_id": "waits", "canceled": False, "status": "canceled"}
        await submit(client, "runs")
        live = await host.hands.take()
        found = await client.delete("/v1/requests/runs")
        assert found.json() == {"request_id": "runs", "canceled": True, "status": "running"}
        assert await host.hands.interrupted.get() == ("runs", "caller")
        await host.hands.finish(live, {"too": "late"})
        assert (await client.delete("/v1/requests/nope")).status_code == 404


# -- listed ----------------------------------------------------------------------------------------


async def test_requests_are_listed_in_pages_with_positions(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        for number in range(5):
            await submit(client, f"r{number}", owner="ada" if number % 2 else "bob")
        live = await host.hands.take()
        rows, cursor = [], ""
        while True:
            page = (await client.get("/v1/requests", params={"limit": 2, "cursor": cursor})).json()
            assert len(page["requests"]) <= 2
            rows += page["requests"]
            cursor = page["next"]
            if cursor is None:
                break
        assert [row["request_id"] for row in rows] == ["r4", "r3", "r2", "r1", "r0"]
        positions = {row["request_id"]: row.get("position") for row in rows}
        assert positions.pop(live.request_id) is None
        assert sorted(one for one in positions.values() if one is not None) == [0, 1, 2, 3]
        for filters, expected in (
            ({"owner": "ada"}, {"r1", "r3"}),
            ({"status": "running"}, {live.request_id}),
            ({"function": "draw", "endpoint": "paint"}, {"r0", "r1", "r2", "r3", "r4"}),
            ({"function": "paint/draw:prod"}, {"r0", "r1", "r2", "r3", "r4"}),
            ({"function": "you/paint/draw"}, set()),
            ({"function": "draw:next"}, set()),
            ({"function": "erase"}, set()),
            ({"worker_id": "w1"}, {live.request_id}),
        ):
            await host.ledger.flush()
            found = (await client.get("/v1/requests", params=filters)).json()["requests"]
            assert {row["request_id"] for row in found} == expected, filters


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "-1"},
        {"limit": "9" * 30},
        {"limit": "²"},
        {"cursor": "x"},
        {"cursor": "9" * 30},
        {"status": "done"},
        {"function": "paint/draw", "endpoint": "other"},
        {"function": "draw:a", "tag": "b"},
    ],
)
async def test_a_listing_that_makes_no_sense_is_400(run_api: RunApi, query: dict[str, str]) -> None:
    async with run_api() as host:
        client = host.http
        found = await client.get("/v1/requests", params=query)
        assert found.status_code == 400
        assert found.json()["error"].startswith("invalid_")


async def test_what_was_kept_is_there_after_a_restart(run_api: RunApi) -> None:
    async with run_api() as host:
        client = host.http
        await submit(client, "waits")
        await submit(client, "done")
        await host.hands.finish(await host.hands.take(), {"n": 1})
    async with run_api() as host:
        client = host.http
        rows = (await client.get("/v1/requests")).json()["requests"]
        assert {row["request_id"]: row["status"] for row in rows} == {
            "waits": "succeeded",
            "done": "queued",
        }
        live = await host.hands.take()
        await host.hands.finish(live, {"n": 2})
        assert (await client.get("/v1/requests/waits")).json()["output"] == {"n": 1}
        assert (await client.get("/v1/requests/done")).json()["output"] == {"n": 2}
