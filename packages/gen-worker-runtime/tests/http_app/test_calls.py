"""Calls over HTTP whose caller waits: names, bodies, answers, statuses, streams."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gen_worker.runtime import Engine, EngineLimits, RunningCall
from gen_worker.runtime.http import HttpApp, HttpOptions, LocalBackend
from gen_worker.runtime.http.calls import StreamedCall, WholeCall
from gen_worker.testing import fake_ports

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Host, RunHost

EVENTS = {"Accept": "text/event-stream"}
KEYS = [
    "request_id",
    "success",
    "output",
    "error_type",
    "safe_message",
    "error_message",
    "events",
    "timing_ms",
]


def call(client: httpx.Client, name: str, body: Any = None, **headers: str) -> dict[str, Any]:
    found = client.post(f"/v1/request/{name}", json={} if body is None else body, headers=headers)
    assert found.status_code == 200, found.text
    answer: dict[str, Any] = found.json()
    return answer


@pytest.mark.parametrize(
    "name",
    [
        "echo-me",
        "echo",
        "echo%20me",
        "demo/echo-me",
        "Demo/echo:prod",
        "somebody/demo/echo-me",
        "somebody/demo/echo:v2",
    ],
)
def test_a_function_has_many_names(client: httpx.Client, name: str) -> None:
    for _ in range(2):  # the second time it is remembered
        assert call(client, name, {"text": "a"})["output"] == {"text": "a", "count": 1}


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "other/echo",
        "a/b/demo/echo",
        "demo/",
        "/echo",
        "echo:",
        "",
        "x" * 2000,
        "a%2Fb/echo",
    ],
)
def test_what_is_not_there_is_404(client: httpx.Client, name: str) -> None:
    found = client.post(f"/v1/request/{name}", json={})
    assert (found.status_code, found.json()["error"]) == (404, "unknown_function")


def test_every_answer_has_the_same_keys(client: httpx.Client) -> None:
    answer = call(client, "whoami")
    assert list(answer) == KEYS
    log, strange = answer["events"]
    assert (log["request_id"], log["event_type"]) == (answer["request_id"], "request.log")
    assert log["payload"] == {"level": "info", "message": "hello"}
    assert strange["payload"] == {"text": "{'file': '\\udcff'}"}
    assert answer["timing_ms"]["total_ms"] >= answer["timing_ms"]["compute_ms"] > 0
    failed = client.post("/v1/request/fail", json={"text": "other"}).json()
    assert list(failed)[: len(KEYS)] == KEYS
    assert failed["safe_message"] == "internal error"


def test_a_payload_is_raw_or_in_an_envelope(client: httpx.Client) -> None:
    envelope = {"payload": {}, "request_id": "mine-1", "owner": "me", "invoker_id": "you"}
    envelope |= {"required_models": ["a/b"], "resolved_cozy_models_by_id": {}}
    answer = call(client, "whoami", envelope)
    assert (answer["request_id"], answer["output"]["text"]) == ("mine-1", "mine-1 me you")
    assert call(client, "echo", {"payload": {"text": "in"}})["output"]["text"] == "in"
    assert (
        call(client, "echo", {"payload": "no envelope", "text": "out"})["output"]["text"] == "out"
    )
    escaped = client.post("/v1/request/echo", content=b'{"\\u0070ayload": {"text": "in"}}')
    assert escaped.json()["output"]["text"] == "in"
    empty = client.post("/v1/request/echo", headers={"content-type": "text/plain"})
    assert empty.json()["output"] == {"text": "", "count": 1}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"text":', "invalid_json"),
        (b"\xff", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"payload":{"text":"a"', "invalid_json"),
        (b'{"text":1}', ""),
        (b"[]", ""),
        (b'"text"', ""),
        (b'{"payload":{},"timeout_ms":-1}', "invalid_envelope"),
        (b'{"payload":{},"request_id":7}', "invalid_envelope"),
        (b'{"payload":{},"request_id":"../up"}', "invalid_request_id"),
        (b'{"payload":{},"request_id":".hidden"}', "invalid_request_id"),
        (b'{"payload":{},"request_id":"%b"}' % (b"x" * 129), "invalid_request_id"),
        (b'{"payload":[]}', ""),
    ],
)
def test_a_wrong_body_is_400(client: httpx.Client, body: bytes, error: str) -> None:
    found = client.post("/v1/request/echo", content=body)
    assert found.status_code == 400, found.text
    assert found.json().get("error", "") == error
    assert call(client, "echo")["success"], "and the server goes on"


@pytest.mark.parametrize(
    ("text", "status", "error_type", "retry_after"),
    [
        ("value", 400, "validation", None),
        ("retryable", 503, "retryable", "1"),
        ("overloaded", 429, "worker_overloaded", "8"),
        ("hardware", 503, "hardware_unmet", None),
        ("resource", 503, "resource", None),
        ("auth", 403, "auth", None),
        ("transfer", 502, "artifact_transfer", None),
        ("fatal", 500, "fatal", None),
        ("other", 500, "internal", None),
    ],
)
def test_statuses_follow_the_error_table(
    client: httpx.Client, host: Host, text: str, status: int, error_type: str, retry_after: str
) -> None:
    for headers in ({}, EVENTS):  # a stream that fails before its first event has a status too
        found = client.post("/v1/request/fail", json={"text": text}, headers=headers)
        assert (found.status_code, found.json()["error_type"]) == (status, error_type)
        assert found.headers.get("retry-after") == retry_after
        assert not found.json()["success"]
    assert host.stage.failures[-1].error_type == error_type


def test_the_dev_runner_knows_four_statuses(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, HttpOptions(is_plain=True)) as host, host.client() as client:
        for text in ("value", "retryable", "overloaded", "other"):
            found = client.post("/v1/request/fail", json={"text": text})
            assert (found.status_code, found.json()["success"]) == (400, False)
        found = client.post("/v1/request/nope")
        assert (found.status_code, found.headers["content-type"]) == (404, "text/plain")
        found = client.post("/v1/request/echo", content=b"{")
        assert (found.status_code, found.json()["error"]) == (400, "invalid_json")


@pytest.mark.parametrize("is_plain", [False, True])
async def test_what_breaks_in_the_host_itself_is_500(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_plain: bool
) -> None:
    class Broken(LocalBackend):
        def status(self) -> dict[str, Any]:
            raise RuntimeError("secret")

    engine = Engine([], fake_ports(tmp_path))
    app = HttpApp(Broken(engine), HttpOptions(is_plain=is_plain))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        found = await client.get("/v1/status")
    assert (found.status_code, found.json()["error"]) == (500, "internal")
    assert "secret" not in found.text
    assert "GET /v1/status failed" in caplog.text
    app.close()
    await engine.close()


def test_a_deadline_is_504(client: httpx.Client, host: Host) -> None:
    found = client.post("/v1/request/hold", json={"payload": {}, "timeout_ms": 300})
    assert (found.status_code, found.json()["error_type"]) == (504, "canceled")
    host.stage.expect("holding", "deadline")


def test_an_id_is_one_request_at_a_time(client: httpx.Client, host: Host) -> None:
    with host.post("/v1/request/hold", b'{"payload":{},"request_id":"twin"}') as first:
        host.stage.expect("holding")
        found = client.post("/v1/request/echo", json={"payload": {}, "request_id": "twin"})
        assert (found.status_code, found.json()["error_type"]) == (409, "duplicate_request_id")
        canceled = client.delete("/v1/requests/twin").json()
        assert canceled == {"request_id": "twin", "canceled": True, "status": "running"}
        assert first.recv(65536).startswith(b"HTTP/1.1 499")
        host.stage.expect("caller")


def test_a_stream_is_a_list_to_who_waits_for_all(client: httpx.Client) -> None:
    answer = call(client, "count", {"text": "a", "count": 3})
    assert answer["output"] == [{"text": "a", "count": index} for index in range(3)]
    assert call(client, "count", {"count": 0})["output"] == []


def test_a_list_has_a_limit(tmp_path: Path, run_host: RunHost) -> None:
    options = HttpOptions(max_answer_bytes=10_000)
    with run_host(tmp_path, options) as host, host.client() as client:
        found = client.post("/v1/request/count", json={"count": 10_000_000})
        assert (found.status_code, found.json()["error_type"]) == (400, "validation")
        assert "Accept: text/event-stream" in found.json()["safe_message"]
        host.settles()


def test_events_come_as_they_are_made(client: httpx.Client, host: Host) -> None:
    with client.stream(
        "POST", "/v1/request/count-slowly", json={"text": "a", "count": 2}, headers=EVENTS
    ) as found:
        assert found.headers["content-type"] == "text/event-stream"
        lines = found.iter_lines()
        assert [next(lines), next(lines)] == ["event: delta", 'data: {"text":"a","count":0}']
        host.stage.expect("yielded 0")
        host.stage.go.set()
        rest = host.events("\n".join(lines))
    host.stage.expect("yielded 1")
    assert [name for _, name, _ in rest] == ["delta", "result"]
    assert rest[-1][2]["output"] == {"yielded": 2}
    assert list(rest[-1][2]) == KEYS


def test_a_call_that_is_no_stream_can_be_followed_too(client: httpx.Client, host: Host) -> None:
    found = client.post("/v1/request/whoami", json={}, headers=EVENTS)
    assert [name for _, name, _ in host.events(found.text)] == ["event", "event", "result"]


def test_a_long_stream_arrives_whole_and_in_order(client: httpx.Client, host: Host) -> None:
    found = client.post("/v1/request/count", json={"text": "é\n", "count": 5000}, headers=EVENTS)
    events = host.events(found.text)
    assert [data["count"] for _, name, data in events if name == "delta"] == list(range(5000))
    assert {data["text"] for _, name, data in events if name == "delta"} == {"é\n"}


def test_a_silent_stream_shows_signs_of_life(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path, HttpOptions(ping_s=0.01)) as host:
        peer = host.post("/v1/request/hold", b"{}", "accept: text/event-stream")
        with peer, peer.makefile("rb") as file:
            while b": still running" not in file.readline():
                pass


def test_a_warmup_sets_up_and_may_call(client: httpx.Client, host: Host) -> None:
    assert client.post("/v1/warmup/use").json()["ok"] is True
    done = client.post("/v1/warmup/demo/echo", json={"text": "a"}).json()
    assert (done["ok"], done["error_message"]) == (True, None)
    assert done["duration_ms"] > 0
    for text, status in (("other", 500), ("value", 400), ("overloaded", 429)):
        found = client.post("/v1/warmup/fail", json={"text": text})
        assert (found.status_code, found.json()["ok"]) == (status, False)
    assert client.post("/v1/warmup/echo", json=None, content=b"null").status_code == 400
    assert client.post("/v1/warmup/nope").status_code == 404


def test_a_setup_that_fails_is_told(tmp_path: Path, run_host: RunHost) -> None:
    with run_host(tmp_path) as host, host.client() as client:
        host.stage.setup_fails = True
        found = client.post("/v1/warmup/use")
        assert (found.status_code, found.json()["ok"]) == (503, False)
        assert client.post("/v1/request/use", json={}).status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["setup of Fragile failed"])
        assert client.get("/healthz").status_code == 200, "a later call may set it up"


def test_too_many_calls_are_429_and_the_rest_are_served(tmp_path: Path, run_host: RunHost) -> None:
    limits = EngineLimits(max_queue=1, max_threads=1)
    with run_host(tmp_path, engine=limits) as host, host.client() as client:
        first = host.post("/v1/request/block")
        host.stage.expect("blocking")
        second = host.post("/v1/request/block")
        while host.engine.statistics().queued < 1:
            pass
        found = client.post("/v1/request/echo", json={})
        assert (found.status_code, found.headers["retry-after"]) == (429, "1")
        assert client.get("/readyz").status_code == 503
        first.close()
        second.close()
        host.settles()
        assert call(client, "echo")["success"]


def test_methods_and_paths_that_are_not_there(client: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/request/echo", 405),
        ("PUT", "/v1/requests", 405),
        ("DELETE", "/v1/functions", 405),
        ("GET", "/", 404),
        ("GET", "/v1/requests/nobody", 404),
        ("DELETE", "/v1/requests/nobody", 404),
        ("GET", "/v1/requests/nobody/events", 404),
    ):
        found = client.request(method, path)
        assert (found.status_code, sorted(found.json())) == (status, ["error", "message"]), path
        assert ("allow" in found.headers) is (status == 405)
    assert client.put("/v1/functions").headers["allow"] == "GET, HEAD"
    assert client.head("/healthz").status_code == 200


def test_facts_about_the_host(client: httpx.Client) -> None:
    listed = {entry["name"]: entry for entry in client.get("/v1/functions").json()["functions"]}
    entry = listed["echo-me"]
    assert (entry["registered_name"], entry["python_name"]) == ("echo me", "echo")
    assert entry["input_schema"]["properties"]["text"] == {"type": "string", "default": ""}
    assert listed["count"]["output_mode"] == "incremental"
    status = client.get("/v1/status").json()
    assert status["ok"] is True
    assert "echo-me" in status["functions"]
    cache = client.get("/v1/models/status").json()["model_cache"]
    assert cache == status["model_cache"]
    assert cache["vram_models"] == []
    places = {"vram_models", "disk_models", "downloading_models"}
    sizes = {"vram_used_gb", "vram_total_gb", "vram_available_gb"}
    counts = {"total_models", "vram_model_count", "disk_model_count"}
    assert set(cache) == places | sizes | counts
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE gen_worker_calls_total counter\n" in metrics.text


def test_models_that_cannot_be_had_are_told(client: httpx.Client) -> None:
    found = client.post("/v1/models/prefetch", json={"models": []})
    assert (found.status_code, found.json()["error"]) == (400, "missing_models")
    body = {"models": ["no ref", {"model_ref": "also/not:a:ref", "dtypes": ["bf16"]}]}
    results = client.post("/v1/models/prefetch", json=body).json()["results"]
    assert [result["ok"] for result in results] == [False, False]
    assert [result["error_type"] for result in results] == ["validation"] * 2
    assert all(result["duration_ms"] >= 0 for result in results)
    for route in ("load", "unload"):
        found = client.post(f"/v1/models/{route}", json={})
        assert (found.status_code, found.json()["error"]) == (400, "missing_model_id")
        done = client.post(f"/v1/models/{route}", json={"model_id": "a/b"}).json()
        assert done["ok"] is False
        assert "'a/b'" in done["error_message"]


def test_a_call_that_is_over_leaves_nothing_behind(client: httpx.Client, host: Host) -> None:
    gc.collect()
    gc.disable()
    try:
        for path in ("echo", "whoami", "count", "fail"):
            for headers in ({}, EVENTS):
                client.post(f"/v1/request/{path}", json={"text": "other"}, headers=headers)
        host.settles()
        kinds = (RunningCall, WholeCall, StreamedCall)
        ends_at = time.monotonic() + 30
        # A thread that has just answered one may stand in it still.
        while left := [repr(one) for one in gc.get_objects() if isinstance(one, kinds)]:
            assert time.monotonic() < ends_at, f"the collector has to find {left}"
            time.sleep(0.01)
    finally:
        gc.enable()
