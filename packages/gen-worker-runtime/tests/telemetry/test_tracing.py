"""Requests are spans below their caller's, and an author's own spans are below the request's."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gen_worker import ImageAsset, Repo, RequestContext, inference_function
from gen_worker.errors import FatalError
from gen_worker.runtime.telemetry import Tracer, load_telemetry_settings, open_tracer, tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Text(msgspec.Struct):
    text: str = ""


class Picture(msgspec.Struct):
    image: ImageAsset


class Spans:
    """Every span that ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def __getitem__(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return found

    def all(self, name: str) -> list[Any]:
        """Return the spans whose names begin like this."""
        found = self._exporter.get_finished_spans()
        return [span for span in found if span.name.startswith(name)]

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Spans:
    return Spans()


def own_span(spans: Spans, name: str) -> None:
    with spans.provider.get_tracer("author").start_as_current_span(name):
        pass


@pytest.mark.parametrize("hint", ["traceparent", "TraceParent"])
async def test_a_request_is_a_span_below_its_callers(watched: Any, spans: Spans, hint: str) -> None:
    @inference_function
    async def echo(ctx: RequestContext, payload: Text) -> Text:
        return payload

    async with watched(echo, tracer=Tracer(spans.provider)) as room:
        await room.run("echo", hints={hint: PARENT})
    request = spans["request echo"]
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1]
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    assert dict(request.attributes or {}) == {
        "gen_worker.request_id": "r1",
        "gen_worker.function": "echo",
        "gen_worker.kind": "inference",
    }
    inference = spans["inference"]
    assert inference.parent is not None
    assert inference.parent.span_id == request.context.span_id
    assert request.start_time is not None
    assert request.end_time is not None
    assert inference.start_time is not None
    assert inference.end_time is not None
    slack_ns = 100_000_000  # two clocks, on a busy machine
    assert request.start_time - slack_ns <= inference.start_time <= inference.end_time
    assert inference.end_time <= request.end_time + slack_ns


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_authors_span_is_part_of_the_request(
    watched: Any, spans: Spans, is_async: bool
) -> None:
    @inference_function
    def think(ctx: RequestContext, payload: Text) -> Text:
        own_span(spans, payload.text)
        return payload

    @inference_function
    async def think_async(ctx: RequestContext, payload: Text) -> Text:
        await asyncio.sleep(0)
        own_span(spans, payload.text)
        return payload

    function = "think-async" if is_async else "think"
    async with watched(think, think_async, tracer=Tracer(spans.provider)) as room:
        await asyncio.gather(
            room.run(function, {"text": "one"}, request_id="r1"),
            room.run(function, {"text": "two"}, request_id="r2"),
        )
    requests = {span.context.span_id for span in spans.all("request")}
    assert {span.parent.span_id for span in (*spans.all("one"), *spans.all("two"))} == requests
    assert len(requests) == 2
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_models_and_uploads_are_spans(watched: Any, spans: Spans) -> None:
    @inference_function(models={"brush": Repo("painter", "acme/painter")})
    def paint(ctx: RequestContext, brush: Any, payload: Text) -> Picture:
        saved = ctx.save_bytes("out.png", b"pixels")
        return Picture(image=ImageAsset(ref=saved.ref))

    tracer = Tracer(spans.provider)
    async with watched(paint, models={"brush": object()}, tracer=tracer) as room:
        await room.run("paint")
        assert room.heard.payload("metrics.job")["upload_ms"] >= 0
    assert spans.names == ["inference", "load", "queue", "request paint", "resolve", "upload"]
    assert dict(spans["load"].attributes or {}) == {"model": "acme/painter", "parameter": "brush"}


async def test_a_failure_is_an_error(watched: Any, spans: Spans) -> None:
    @inference_function
    async def broken(ctx: RequestContext, payload: Text) -> Text:
        raise FatalError("no")

    async with watched(broken, tracer=Tracer(spans.provider)) as room:
        await room.run("broken")
    request = spans["request broken"]
    assert not request.status.is_ok
    assert (request.attributes or {})["error.type"] == "fatal"


def test_a_collector_that_is_silent_holds_nobody_up(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.05)
    never = threading.Event()
    monkeypatch.setattr(spans.provider, "force_flush", never.wait)
    Tracer(spans.provider).close()
    never.set()


def test_nobody_asked() -> None:
    assert open_tracer() is None, "the API alone traces nothing"


@pytest.mark.claims("OTEL_EXPORTER_OTLP_ENDPOINT")
def test_a_collector_needs_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    assert open_tracer(load_telemetry_settings().traces_endpoint) is None
    assert 'install "gen-worker[otel]"' in caplog.text


def test_a_provider_of_the_author_is_used(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    assert open_tracer() is not None
