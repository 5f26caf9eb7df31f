"""Spans of requests for OpenTelemetry, where its SDK is installed and told where they go."""

from __future__ import annotations

import sys
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.events import Failed, Result
    from gen_worker.runtime.telemetry.tracks import Track

__all__ = ["Trace", "Tracer", "open_tracer"]

_NAME = "gen_worker"
_FLUSH_S = 2.0
_CARRIED = ("traceparent", "tracestate")


class Trace:
    """The span of one request, and the parts of its time that were noted."""

    __slots__ = ("_offset_s", "context", "spans")

    def __init__(self, context: Any, offset_s: float) -> None:
        self.context = context
        """In which the request's span is the current one."""
        self.spans: list[tuple[str, float, float, Mapping[str, str]]] = []
        """Name, beginning and end in seconds of `time.perf_counter`, and attributes."""
        self._offset_s = offset_s

    def unix_ns(self, moment: float) -> int:
        """Return a moment of `time.perf_counter` in Unix time."""
        return int((self._offset_s + moment) * 1e9)


class Tracer:
    """Makes the spans: one for a request, and children for where its time went."""

    def __init__(self, provider: Any) -> None:
        """Trace with a provider of the SDK.

        Args:
            provider: An `opentelemetry.trace.TracerProvider`.
        """
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._attach = context.attach
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME)

    def begin(self, track: Track, unix_time: float) -> None:
        """Open the span of a request, below the one its caller names in the job's hints."""
        offset_s = unix_time - perf_counter()
        request, spec = track.job.request, track.job.served.spec
        hints = {name.lower(): value for name, value in request.hints.items()}
        carrier = {name: hints[name] for name in _CARRIED if name in hints}
        parent = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(
            f"request {spec.name}",
            context=parent,
            kind=self._api.SpanKind.SERVER,
            start_time=int(unix_time * 1e9),
            attributes={
                "gen_worker.request_id": request.request_id,
                "gen_worker.function": spec.name,
                "gen_worker.kind": spec.kind,
            },
        )
        track.trace = Trace(self._api.set_span_in_context(span, parent), offset_s)

    def called(self, track: Track) -> None:
        """Make the request's span the current one for the author's function.

        Called in the function's own context, which ends with the call: nothing is to be put back.
        """
        if track.trace is not None:
            self._attach(track.trace.context)

    def end(self, track: Track, outcome: Result | Failed, error_type: str) -> None:
        """Close the spans of a request."""
        found = track.trace
        if found is None:
            return
        call, timings = track.job.call, outcome.timings
        queue_s, compute_s = timings.queue_ms / 1000, timings.compute_ms / 1000
        submitted = call.submitted_at
        if queue_s:
            found.spans.append(("queue", submitted, submitted + queue_s, {}))
        if compute_s:
            before_s = queue_s + (timings.input_ms + timings.load_ms) / 1000
            called = submitted + before_s
            found.spans.append((track.phase, called, called + compute_s, {}))
        for name, since, until, attributes in found.spans:
            child = self._tracer.start_span(
                name, context=found.context, start_time=found.unix_ns(since), attributes=attributes
            )
            child.end(found.unix_ns(until))
        span = self._api.get_current_span(found.context)
        if error_type:
            span.set_attribute("error.type", error_type)
            span.set_status(self._api.StatusCode.ERROR, error_type)
        span.end(found.unix_ns(perf_counter()))

    def close(self) -> None:
        """Send what waits, if the collector takes it soon."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            # The exporter tries again and again, whatever time it is given.
            flushing = threading.Thread(target=flush, daemon=True, name="gen-worker-spans")
            flushing.start()
            flushing.join(_FLUSH_S)


def open_tracer(endpoint: str = "") -> Tracer | None:
    """Return what makes spans; None when nobody asked for them, or the SDK is not installed.

    A provider that the author's code has set is used as it is.

    Args:
        endpoint: Base URL of the collector that spans go to, if no provider is set.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is not None and (provider := _configured(api)) is not None:
        return Tracer(provider)
    if not endpoint:
        return None
    from importlib import import_module

    try:
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        import logging

        logging.getLogger("gen_worker.telemetry").warning(
            'no spans are sent to %s: %s; install "gen-worker[otel]"', endpoint, error
        )
        return None
    # The variables of the SDK name the service. Flushed when the worker ends, not by `atexit`.
    made = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
    exporter = otlp.OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    made.add_span_processor(BatchSpanProcessor(exporter))
    return Tracer(made)


def _configured(api: Any) -> Any:
    """Return the provider that was set, unless it is the one that does nothing."""
    provider = api.get_tracer_provider()
    return provider if hasattr(provider, "add_span_processor") else None
