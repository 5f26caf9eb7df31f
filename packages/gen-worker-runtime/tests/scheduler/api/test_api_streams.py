"""Following a request: everything once and in order, from anywhere, however slow the reader."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import RetryableError, classify
from gen_worker.runtime.scheduler.api import LedgerReader

if TYPE_CHECKING:
    from conftest import ApiHost, RunApi
    from gen_worker.runtime.scheduler.requests import Live

TIMEOUT_S = 60.0


async def begin(host: ApiHost, request_id: str = "r") -> Live:
    """Submit a request that streams, and give it to a worker."""
    body = {"function": "count", "payload": {}, "request_id": request_id}
    assert (await host.http.post("/v1/requests", json=body)).status_code == 202
    return await host.hands.take()


async def follow(
    host: ApiHost, after: int = 0, request_id: str = "r"
) -> list[tuple[int, str, Any]]:
    headers = {"Last-Event-ID": str(after)} if after else {}
    found = await host.http.get(f"/v1/requests/{request_id}/events", headers=headers)
    assert found.status_code == 200
    return host.events(found.text)


def numbers(events: list[tuple[int, str, Any]]) -> list[int]:
    return [number for number, _, _ in events]


async def test_a_reader_gets_what_was_and_what_comes(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        await host.hands.produce(live, 1, 2)
        async with host.http.stream("GET", "/v1/requests/r/events") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == "id: 1"
            await host.hands.produce(live, 3, first=3)
            await host.hands.finish(live, {"yielded": 3}, is_streamed=True)
            rest = [line async for line in lines]
        ids = [line for line in rest if line.startswith("id: ")]
        assert ids == ["id: 2", "id: 3", "id: 4"]
        assert numbers(await follow(host)) == [1, 2, 3, 4], "it has ended"


@pytest.mark.parametrize(("after", "expected"), [(1, [2, 3, 4]), (3, [4]), (4, []), (99, [])])
async def test_a_reader_that_comes_back_gets_the_rest(
    run_api: RunApi, after: int, expected: list[int]
) -> None:
    async with run_api() as host:
        live = await begin(host)
        await host.hands.produce(live, 1, 2, 3)
        await host.hands.finish(live, {"yielded": 3}, is_streamed=True)
        assert numbers(await follow(host, after)) == expected
        found = await host.http.get("/v1/requests/r/events", params={"last_event_id": after})
        assert numbers(host.events(found.text)) == expected


async def test_a_stream_of_nothing_is_an_empty_list(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        await host.hands.finish(live, {"yielded": 0}, is_streamed=True)
        assert (await host.http.get("/v1/requests/r")).json()["output"] == []
        assert [name for _, name, _ in await follow(host)] == ["result"]


async def test_what_is_taken_back_is_told(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        await host.hands.produce(live, "a", "b")
        following = asyncio.create_task(follow(host))
        await host.hands.fail(live, classify(RetryableError("the worker stumbled")))
        live = await host.hands.take()
        await host.hands.produce(live, "A")
        await host.hands.finish(live, {"yielded": 1}, is_streamed=True)
        events = await following
        assert [(number, name) for number, name, _ in events] == [
            (1, "delta"),
            (2, "delta"),
            (3, "restarted"),
            (4, "delta"),
            (5, "result"),
        ]
        assert events[2][2] == {"attempt": 2}
        shown = (await host.http.get("/v1/requests/r")).json()
        assert (shown["output"], shown["attempt"]) == (["A"], 2)


async def test_signs_of_life_while_nothing_comes(run_api: RunApi) -> None:
    async with run_api(ping_s=0.01) as host:
        live = await begin(host)
        async with host.http.stream("GET", "/v1/requests/r/events") as stream:
            lines = stream.aiter_lines()
            assert await anext(lines) == ": still running"
            await host.hands.finish(live, {"yielded": 0}, is_streamed=True)
            rest = [line async for line in lines if not line.startswith(":")]
        assert rest[:3] == ["", "id: 1", "event: result"] or "id: 1" in rest


@pytest.mark.chaos
async def test_many_readers_in_any_order_get_everything_once(run_api: RunApi, seed: int) -> None:
    """Readers that come, go, come back and pause, while items are made in bursts of any size."""
    chance = random.Random(seed)
    total = 300
    async with run_api() as host:
        live = await begin(host)
        is_over = asyncio.Event()

        async def read() -> list[int]:
            got: list[int] = []
            while not got or got[-1] <= total:
                headers = {"Last-Event-ID": str(got[-1] if got else 0)}
                leave_at = chance.randrange(1, total + 2)
                async with host.http.stream(
                    "GET", "/v1/requests/r/events", headers=headers
                ) as stream:
                    async for line in stream.aiter_lines():
                        if line.startswith("id: "):
                            got.append(int(line[4:]))
                            if len(got) == leave_at:
                                break
                        if chance.random() < 0.02:
                            await asyncio.sleep(0)
            return got

        async def make() -> None:
            made = 0
            while made < total:
                count = min(chance.choice([1, 1, 2, 20, 100]), total - made)
                items = ["x" * chance.choice([1, 10, 20_000]) for _ in range(count)]
                await host.hands.produce(live, *items, first=made + 1)
                made += count
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
            await host.hands.finish(live, {"yielded": total}, is_streamed=True)
            is_over.set()

        async with asyncio.timeout(TIMEOUT_S):
            *found, _ = await asyncio.gather(*(read() for _ in range(6)), make())
        for got in found:
            assert got == list(range(1, total + 2))
        assert is_over.is_set()


async def test_a_slow_reader_holds_little_in_memory(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        record = live.record
        reader = LedgerReader(host.ledger, host.requests, record, 0)
        for index in range(100):
            await host.hands.produce(live, "x" * 50_000, first=index + 1)
            assert reader.held_bytes <= 512 * 1024
        await host.hands.finish(live, {"yielded": 100}, is_streamed=True)
        read = b""
        pieces = 0
        while data := await reader.read():
            assert len(data) < 1024 * 1024
            read += data
            pieces += 1
        reader.close()
        assert read.count(b"event: delta") == 100
        assert read.count(b"id: ") == 101
        assert pieces > 5, "it was read from the disk in pieces"


async def test_a_stream_begins_before_there_is_anything_in_it(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        async with host.http.stream("GET", "/v1/requests/r/events") as stream:
            assert stream.status_code == 200
            await host.hands.finish(live, {"yielded": 0}, is_streamed=True)
            assert "event: result" in (await stream.aread()).decode()
        headers = {"accept": "text/event-stream"}
        async with host.http.stream("POST", "/v1/request/count", headers=headers) as stream:
            assert stream.status_code == 200
            await host.hands.finish(await host.hands.take(), {"yielded": 0}, is_streamed=True)
            assert "event: result" in (await stream.aread()).decode()


async def test_readers_that_vanish_leave_nothing(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", host.port)
            writer.write(b"GET /v1/requests/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await writer.drain()
            writer.close()
        async with host.client() as client, client.stream("GET", "/v1/requests/r/events"):
            pass
        async with asyncio.timeout(TIMEOUT_S):
            while live.watchers:
                await asyncio.sleep(0.005)
        await host.hands.finish(live, {"yielded": 0}, is_streamed=True)


async def test_a_client_that_reads_nothing_holds_up_nobody(run_api: RunApi) -> None:
    async with run_api() as host:
        live = await begin(host)
        reader, writer = await asyncio.open_connection("127.0.0.1", host.port, limit=1024)
        writer.write(b"GET /v1/requests/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        for index in range(60):
            await host.hands.produce(live, "x" * 200_000, first=index + 1)
        await host.hands.finish(live, {"yielded": 60}, is_streamed=True)
        assert len(await follow(host)) == 61
        got = b""
        async with asyncio.timeout(TIMEOUT_S):
            while not got.endswith(b"0\r\n\r\n"):
                got = (got + await reader.read(1 << 20))[-8:]
        writer.close()


async def test_a_huge_output_is_read_as_events(
    run_api: RunApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_worker.runtime.scheduler.api.bodies.MAX_OUTPUT_BYTES", 1000)
    async with run_api() as host:
        live = await begin(host)
        await host.hands.produce(live, *("x" * 300 for _ in range(5)))
        await host.hands.finish(live, {"yielded": 5}, is_streamed=True)
        shown = (await host.http.get("/v1/requests/r")).json()
        assert (shown["success"], shown["output"], shown["output_too_large"]) == (True, None, True)
        assert numbers(await follow(host)) == [1, 2, 3, 4, 5, 6]


async def test_unknown_requests_and_ids_are_refused(run_api: RunApi) -> None:
    async with run_api() as host:
        assert (await host.http.get("/v1/requests/nope/events")).status_code == 404
        await begin(host)
        for last in ("-1", "x", "9" * 20):
            found = await host.http.get("/v1/requests/r/events", params={"last_event_id": last})
            assert found.status_code == 400
