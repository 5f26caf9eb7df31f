"""What is measured inside a request comes with its `metrics.job`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker import RequestContext, inference, inference_function
from gen_worker.context import images
from gen_worker.events import Metric
from gen_worker.io import write_image
from gen_worker.ports import ModelRequest
from gen_worker.runtime.library_models import LibraryModels
from gen_worker.runtime.telemetry import TelemetryPolicy

if TYPE_CHECKING:
    import pytest

ALL = TelemetryPolicy(tells_all=True)


class Text(msgspec.Struct):
    text: str = ""


@inference_function
def draw(ctx: RequestContext, payload: Text) -> Text:
    picture: Any = object()
    ctx.save_image(picture, "a.webp")
    write_image(ctx, "b.webp", picture)
    return payload


@inference_function
def plain(ctx: RequestContext, payload: Text) -> Text:
    return payload


@inference
class Oven:
    def warmup(self) -> None:
        pass

    @inference.function
    def bake(self, ctx: RequestContext, payload: Text) -> Text:
        return payload


async def test_encoding_images_counts_however_they_are_written(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 10.25, 20.0, 20.5])
    monkeypatch.setattr(images, "encode_image", lambda *args, **options: b"encoded")
    for module in ("gen_worker.context.outputs", "gen_worker.io"):
        monkeypatch.setattr(f"{module}.perf_counter", lambda: next(times))
    async with watched(draw, plain) as room:
        await room.run("draw")
        metrics = await room.until("metrics.job")
    assert metrics["png_encode_ms"] == 750


async def test_a_request_that_waited_for_a_warmup_says_how_long_it_took(watched: Any) -> None:
    async with watched(Oven, policy=ALL) as room:
        await room.run("bake", request_id="first")
        await room.run("bake", request_id="second")
        first, second = room.heard.payloads("metrics.job")
    assert first["warmup_ms"] >= 0
    assert "warmup_ms" not in second


class Reports(LibraryModels):
    def _open(self) -> Any:
        raise AssertionError("no model is used")


async def test_tokens_of_a_request_are_told_once_with_their_sum(watched: Any) -> None:
    @inference_function
    def write(ctx: RequestContext, payload: Text) -> Text:
        models, request = Reports(room.telemetry), ModelRequest(request_id=ctx.request_id)
        models.report_tokens(request, 5)
        models.report_tokens(request, 7)
        return payload

    async with watched(write, plain, policy=ALL) as room:
        await room.run("write")
        await room.run("plain", request_id="r2")
        assert room.heard.payload("metrics.tokens") == {
            "timestamp": room.heard.payload("metrics.tokens")["timestamp"],
            "output_tokens": 12,
        }
        names = room.heard.names("r1")
        room.telemetry.emit(Metric(request_id="gone", name="output_tokens", value=1, at=0.0))
    assert names.index("metrics.tokens") < names.index("metrics.job")
    assert "metrics.tokens" not in room.heard.names("r2")
