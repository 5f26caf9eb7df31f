"""Requests that outlive their client: submitted, followed, resumed, joined, canceled."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.errors import OverloadedError, classify
from gen_worker.events import Delta, Failed, Result, Timings
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime import Invocation
from gen_worker.runtime.http import JobLimits, MemoryJobs

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from conftest import Host, RunHost
    from gen_worker.events import Event
    from gen_worker.runtime import Sink

EVENTS = {"Accept": "text/event-stream"}


def submit(client: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    return client.post("/v1/requests", json={"payload": {}, **body}, headers=headers)


def test_a_request_is_submitted_followed_and_asked_for(client: httpx.Client, host: Host) -> None:
    body = {"function": "demo/count:prod", "payload": {"text": "a", "count": 3}, "request_id": "r1"}
    started = submit(client, body)
    assert (started.status_code, started.headers["location"]) == (202, "/v1/requests/r1")
    assert started.json()["status"] in ("queued", "running")
    followed = host.events(client.get("/v1/requests/r1/events").text)
    assert [number for number, _, _ in followed] == [1, 2, 3, 4]
    assert [name for _, name, _ in followed] == ["delta", "delta", "delta", "result"]
    done = client.get("/v1/requests/r1").json()
    assert (done["status"], done["success"], done["last_event_id"]) == ("succeeded", True, 4)
    assert done["output"] == [{"text": "a", "count": index} for index in range(3)]
    assert submit(client, body).status_code == 409


@pytest.mark.parametrize(
    ("last", "ids"), [("0", [1, 2, 3, 4]), ("2", [3, 4]), ("4", []), ("99", [])]
)
def test_a_reader_that_comes_back_gets_what_it_missed(
    client: httpx.Client, host: Host, last: str, ids: list[int]
) -> None:
    submit(client, {"function": "count", "payload": {"count": 3}, "request_id": f"back-{last}"})
    url = f"/v1/requests/back-{last}/events"
    client.get(url)
    by_header = client.get(url, headers={"Last-Event-ID": last})
    assert [number for number, _, _ in host.events(by_header.text)] == ids
    by_query = client.get(url, params={"last_event_id": last})
    assert by_query.text == by_header.text


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 20, "²"])
def test_an_id_that_is_none_is_refused(client: httpx.Client, last: str) -> None:
    submit(client, {"function": "echo", "request_id": "plain"})
    found = client.get("/v1/requests/plain/events", params={"last_event_id": last})
    assert (found.status_code, found.json()["error"]) == (400, "invalid_last_event_id")


def test_a_request_goes_on_without_its_reader(client: httpx.Client, host: Host) -> None:
    submit(client, {"function": "count-slowly", "payload": {"count": 3}, "request_id": "left"})
    host.stage.expect("yielded 0")
    with client.stream("GET", "/v1/requests/left/events") as found:
        assert next(found.iter_lines()) == "id: 1"
    assert client.get("/v1/requests/left").json()["status"] == "running"
    host.stage.go.set()
    rest = client.get("/v1/requests/left/events", headers={"Last-Event-ID": "1"})
    assert [number for number, _, _ in host.events(rest.text)] == [2, 3, 4]
    host.stage.expect("yielded 1", "yielded 2")


def test_a_request_can_be_canceled(client: httpx.Client, host: Host) -> None:
    submit(client, {"function": "hold", "request_id": "held"})
    host.stage.expect("holding")
    assert client.delete("/v1/requests/held").json()["canceled"] is True
    host.stage.expect("caller")
    ((_, name, data),) = host.events(client.get("/v1/requests/held/events").text)
    assert (name, data["error_type"]) == ("error", "canceled")
    done = client.delete("/v1/requests/held").json()
    assert done == {"request_id": "held", "canceled": False, "status": "canceled"}


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_body"),
        (b'{"payload":{}}', 400, "missing_function"),
        (b'{"function":"echo"}', 400, "invalid_body"),
        (b'{"function":"nope","payload":{}}', 404, "unknown_function"),
        (b'{"function":"a/b/c/d","payload":{}}', 404, "unknown_function"),
        (b'{"function":"echo","payload":{},"request_id":"a/b"}', 400, "invalid_request_id"),
    ],
)
def test_a_wrong_submission_is_refused(
    client: httpx.Client, content: bytes, status: int, error: str
) -> None:
    found = client.post("/v1/requests", content=content)
    assert (found.status_code, found.json()["error"]) == (status, error)


def test_a_wrong_payload_is_the_requests_failure(client: httpx.Client, host: Host) -> None:
    submit(client, {"function": "echo", "payload": {"text": 1}, "request_id": "wrong"})
    client.get("/v1/requests/wrong/events")
    done = client.get("/v1/requests/wrong").json()
    assert (done["status"], done["error_type"], done["path"]) == ("failed", "validation", "$.text")
    assert host.stage.failures[-1].path == "$.text", "the operator is told"


# -- keys ------------------------------------------------------------------------------------------


def test_the_same_key_and_body_is_the_same_request(client: httpx.Client, host: Host) -> None:
    body = {"function": "whoami"}
    first = submit(client, body, **{"Idempotency-Key": "k1"}).json()["request_id"]
    again = submit(client, body, **{"Idempotency-Key": "k1"}).json()["request_id"]
    other = submit(client, body, **{"Idempotency-Key": "k2"}).json()["request_id"]
    assert first == again != other
    found = submit(client, {"function": "echo"}, **{"Idempotency-Key": "k1"})
    assert (found.status_code, found.json()["error"]) == (409, "idempotency_conflict")
    assert found.json()["request_id"] == first
    assert submit(client, body, **{"Idempotency-Key": "k" * 257}).status_code == 400


def test_a_call_with_a_key_outlives_its_client_and_is_joined(
    client: httpx.Client, host: Host
) -> None:
    key = {"Idempotency-Key": "call"}
    first = host.post("/v1/request/gate", b"{}", "Idempotency-Key: call")
    host.stage.expect("at the gate")
    first.close()
    conflict = client.post("/v1/request/gate", json={"text": "other"}, headers=key)
    assert conflict.status_code == 409
    host.stage.gate.set()
    answer = client.post("/v1/request/gate", content=b"{}", headers=key)
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    streamed = client.post("/v1/request/gate", content=b"{}", headers={**key, **EVENTS})
    ((number, name, data),) = host.events(streamed.text)
    assert (number, name) == (1, "result")
    assert data["request_id"] == answer.json()["request_id"]
    assert host.stage.said.empty(), "it ran once"


def test_a_failed_call_with_a_key_has_its_status(client: httpx.Client) -> None:
    for _ in range(2):
        found = client.post(
            "/v1/request/fail", json={"text": "fatal"}, headers={"Idempotency-Key": "failed"}
        )
        assert (found.status_code, found.json()["error_type"]) == (500, "fatal")


def test_what_may_be_tried_again_is_tried_again(client: httpx.Client) -> None:
    ids = set()
    for _ in range(2):
        found = client.post(
            "/v1/request/fail", json={"text": "retryable"}, headers={"Idempotency-Key": "again"}
        )
        ids.add(found.json()["request_id"])
    assert len(ids) == 2


# -- room ------------------------------------------------------------------------------------------


class Call:
    """A call that does what the test says, behind `MemoryJobs`."""

    has_begun = True

    def __init__(self, invocation: Invocation, sink: Sink) -> None:
        self.request_id = invocation.request_id
        self.sink = sink
        self.is_paused = False
        self.canceled = ""

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def cancel(self, reason: str) -> None:
        self.canceled = reason
        self.deliver(Failed(request_id=self.request_id, failure=CANCELED, timings=Timings()))

    def deliver(self, *events: Event) -> None:
        self.sink.deliver(events)

    def yield_bytes(self, size_bytes: int) -> None:
        value = msgspec.Raw(b'"%b"' % (b"x" * (size_bytes - 2)))
        self.deliver(Delta(request_id=self.request_id, value=value, sequence=1))

    def succeed(self) -> None:
        value = msgspec.Raw(b'{"yielded":0}')
        result = Result(
            request_id=self.request_id, value=value, timings=Timings(), is_streamed=True
        )
        self.deliver(result)


CANCELED = classify(OverloadedError("canceled"))


class Kept:
    """Jobs in memory, their calls and their clock."""

    def __init__(self, **limits: Any) -> None:
        self.calls: list[Call] = []
        self.now = 0.0
        self.jobs = MemoryJobs(self._submit, JobLimits(**limits), clock=lambda: self.now)

    def _submit(self, invocation: Invocation, sink: Sink) -> Call:
        self.calls.append(Call(invocation, sink))
        return self.calls[-1]

    async def start(self, request_id: str, **options: Any) -> Any:
        invocation = Invocation(function="f", request_id=request_id, result_format="json")
        return await self.jobs.submit(invocation, **options)


async def test_what_has_ended_is_kept_for_a_while() -> None:
    kept = Kept(keep_s=10.0)
    await kept.start("a")
    kept.calls[0].succeed()
    await kept.start("b")
    kept.now = 9.0
    assert await kept.jobs.find("a") is not None
    kept.now = 10.0
    assert await kept.jobs.find("a") is None
    assert await kept.jobs.find("b") is not None, "it has not ended"
    assert (await kept.start("a")).status == "running"


async def test_idle_time_begins_when_the_last_one_ends() -> None:
    kept = Kept(keep_s=1.0)
    assert kept.jobs.idle_s == math.inf
    await kept.start("a")
    kept.now = 5.0
    assert kept.jobs.idle_s == 0.0
    kept.calls[0].succeed()
    kept.now = 9.0
    assert await kept.jobs.find("a") is None
    assert kept.jobs.idle_s == 4.0


def test_a_server_is_idle_since_its_last_submitted_request(
    client: httpx.Client, host: Host
) -> None:
    began = time.monotonic()
    submit(client, {"function": "echo", "payload": {"text": "a"}, "request_id": "last"})
    client.get("/v1/requests/last/events")
    assert host.app.idle_s <= time.monotonic() - began


async def test_the_oldest_that_has_ended_makes_room() -> None:
    kept = Kept(max_jobs=2)
    await kept.start("a", key="ka")
    await kept.start("b")
    with pytest.raises(OverloadedError):
        await kept.start("c")
    kept.calls[0].succeed()
    await kept.start("c")
    assert (await kept.jobs.find("a"), len(kept.jobs), kept.jobs.running) == (None, 2, 2)
    with pytest.raises(Refusal, match="'b' already"):
        await kept.start("b")


async def test_all_that_have_ended_share_the_memory() -> None:
    kept = Kept(max_bytes=1000)
    for name in "abc":
        await kept.start(name)
        kept.calls[-1].yield_bytes(300)
        kept.calls[-1].succeed()
    assert [await kept.jobs.find(name) is not None for name in "abc"] == [False, False, True]


async def test_a_reader_holds_its_request_and_slows_it_down() -> None:
    kept = Kept(max_job_bytes=1000, patience_s=3600.0, keep_s=0.0)
    job = await kept.start("a")
    call = kept.calls[-1]
    reader = job.read(0)
    for _ in range(4):
        call.yield_bytes(300)
    assert call.is_paused
    assert (await reader.read()).count(b"event: delta") == 4
    assert not call.is_paused
    call.succeed()
    assert await kept.jobs.find("a") is job, "somebody reads it"
    assert (await reader.read()).startswith(b"id: 5\nevent: result\n")
    assert await reader.read() == b""
    late = job.read(0)
    lines = (await late.read()).split(b"\n")
    assert lines[:2] == [b"event: gap", b'data: {"from":1,"to":3}']
    assert b'"output":null' in await job.answer(), "half an output is none"
    late.close()
    reader.close()
    assert await kept.jobs.find("a") is None


async def test_what_nobody_reads_ends_when_there_is_no_room() -> None:
    kept = Kept(max_job_bytes=1000, patience_s=0.01)
    job = await kept.start("a")
    call = kept.calls[-1]
    for _ in range(4):
        call.yield_bytes(300)
    assert call.is_paused
    await job.wait()
    assert call.canceled == "interrupt"
    assert b"follow its events" in await job.answer()
    assert job.status == "failed"


async def test_a_slow_client_holds_a_real_stream_back(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, jobs=JobLimits(max_job_bytes=50_000)) as host, host.client() as client:
        body = {"function": "count", "payload": {"text": "x" * 500, "count": 5000}}
        submit(client, {**body, "request_id": "slow"})
        text = client.get("/v1/requests/slow/events").text
        events = host.events(text)
        assert [number for number, _, _ in events] == list(range(1, 5002))
        done = client.get("/v1/requests/slow").json()
        assert (done["success"], done["output"]) == (True, None)
