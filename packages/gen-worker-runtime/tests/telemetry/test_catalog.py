"""What the other rooms tell is in the catalog, key by key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gen_worker import Repo, RequestContext, inference_function
from gen_worker.models.choice import ModelChoice
from gen_worker.models.fetch.values import FetchProgress
from gen_worker.models.low_vram.steps import blank_result
from gen_worker.models.sources.telling import DownloadReport
from gen_worker.runtime.telemetry.catalog import CATALOG, REPLACED, find, problems_of


class Text(msgspec.Struct):
    text: str = ""


def test_each_name_is_there_once() -> None:
    names = [name for event in CATALOG for name in event.names]
    assert sorted(names) == sorted(set(names))
    assert not set(names) & REPLACED.keys()


def test_what_differs_is_named() -> None:
    assert problems_of("mine", {}) == ["mine is in no catalog"]
    assert problems_of("request.completed", {"extra": 1}, request_id="r") == [
        "request.completed lacks duration_ms",
        "request.completed lacks function_name",
        "request.completed has extra besides",
    ]
    done = {"function_name": "f", "duration_ms": 1, "timestamp": 1.0}
    assert problems_of("request.completed", done, request_id="r") == []
    (wrong,) = problems_of("request.completed", done)
    assert wrong == "request.completed is about a request, and its request id is ''"


@pytest.mark.parametrize("request_id", ["", "r1"])
def test_downloads(request_id: str) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    now = iter(range(0, 1000, 10))
    choice = ModelChoice.from_record(Repo("acme/painter").choose("m", {}, None))
    report = DownloadReport(
        choice, lambda *event: told.append(event), request_id=request_id, clock=lambda: next(now)
    )
    with report.running(1000):
        for done in range(0, 1001, 250):
            report.progress(FetchProgress(done, 1000, 0, 1))
    with pytest.raises(OSError, match="gone"), report.running(1000):
        raise OSError("gone")
    report.event("model.url_refresh")
    prefix = "model.download" if request_id else "worker.model.download"
    kinds = {name for name, _ in told}
    ends = {f"{prefix}.{end}" for end in ("started", "progress", "completed", "failed")}
    assert kinds == {*ends, "model.url_refresh"}
    for name, payload in told:
        about = payload.get("request_id", "")
        assert problems_of(name, payload, request_id=about) == []


def test_steps_down_the_memory_ladder() -> None:
    result = {**blank_result("fp8_layerwise"), "fp8_layerwise": True, "disk_offload_path": "d"}
    about = {"model_id": "m", "stage": "oom_escalation", "requested_mode": "auto", "attempt": 1}
    assert problems_of("low_vram_mode_applied", {**about, **result}) == []


async def test_streams_and_retries(watched: Any) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    attempts = iter(range(3))

    @inference_function(models={"brush": Repo("painter", "acme/painter")})
    def paint(ctx: RequestContext, brush: Any, payload: Text) -> Text:
        if next(attempts) == 0:
            raise OutOfMemoryError
        with ctx.open_output_stream("out.bin") as stream:
            stream.write(b"pixels")
            stream.flush()
        with pytest.raises(ValueError, match="no"), ctx.open_output_stream("other.bin") as stream:
            raise ValueError("no")
        return payload

    async with watched(paint, models={"brush": object()}) as room:
        await room.run("paint")
        assert room.heard.payload("inference.oom_retry")["attempt"] == 1
        stages = {payload["stage"] for payload in room.heard.payloads("request.upload_progress")}
        assert {"stream_write", "stream_finalized", "stream_aborted"} <= stages
        assert all(find(name) for name in room.heard.names())
