"""What Prometheus scrapes: counts and times of calls, queues, models and the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.events import Result
from gen_worker.runtime.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gen_worker.events import Failed, Timings
    from gen_worker.runtime.engine import EngineStatistics
    from gen_worker.runtime.worker.outbox import OutboxStatistics

__all__ = ["CONTENT_TYPE", "Metrics", "WorkerFigures"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_HISTOGRAMS = {
    "queue": "Waiting for a thread or a device.",
    "load": "Preparing and loading models.",
    "compute": "Inside the author's function.",
}


class _Function:
    """What one function did."""

    __slots__ = ("compute", "deltas", "load", "outcomes", "queue")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.deltas = 0
        self.queue = Histogram(_BOUNDS_S)
        self.load = Histogram(_BOUNDS_S)
        self.compute = Histogram(_BOUNDS_S)


class WorkerFigures(NamedTuple):
    """What a worker in a pool has besides its engine; what is not known stays out."""

    outbox: OutboxStatistics | None = None
    connections: int | None = None
    """How often it connected."""
    is_connected: bool | None = None
    models: Mapping[str, Sequence[str]] = {}
    """Refs by tier."""
    model_bytes: Mapping[tuple[str, str], int] = {}
    """Memory by device, and whether it is `used` or the `limit`."""


class Metrics:
    """Figures of one process. Counting is for one thread, the loop's; so is reading them.

    The Prometheus library is imported when somebody asks for the figures first.
    """

    def __init__(
        self,
        statistics: Callable[[], EngineStatistics] | None = None,
        *,
        worker: Callable[[], WorkerFigures] | None = None,
    ) -> None:
        """Start at zero.

        Args:
            statistics: Of the engine.
            worker: What only a worker in a pool has.
        """
        self._statistics = statistics
        self._worker = worker
        self._functions: dict[str, _Function] = {}
        self._registry: Any = None

    def gather(
        self,
        statistics: Callable[[], EngineStatistics],
        worker: Callable[[], WorkerFigures] | None = None,
    ) -> None:
        """Read these, too; for whoever has them later than the figures."""
        self._statistics, self._worker = statistics, worker

    def count(self, function: str, outcome: Result | Failed) -> None:
        """Count a call that has ended.

        Args:
            function: Its slug.
            outcome: As the engine delivered it.
        """
        word = "succeeded" if isinstance(outcome, Result) else outcome.failure.error_type
        self.count_timings(function, word, outcome.timings)

    def count_timings(self, function: str, outcome: str, timings: Timings) -> None:
        """Count a call by the word for its outcome: `succeeded` or an error type."""
        figures = self._functions.get(function) or self._function(function)
        figures.outcomes[outcome] = figures.outcomes.get(outcome, 0) + 1
        figures.queue.observe(timings.queue_ms / 1000)
        figures.compute.observe(timings.compute_ms / 1000)
        if timings.load_ms:
            figures.load.observe(timings.load_ms / 1000)

    def count_deltas(self, function: str, count: int) -> None:
        """Count items of a streamed output."""
        self._function(function).deltas += count

    def count_refused(self, function: str, reason: str) -> None:
        """Count a request that was not let in."""
        outcomes = self._function(function).outcomes
        word = f"refused_{reason}"
        outcomes[word] = outcomes.get(word, 0) + 1

    def exposition(self) -> bytes:
        """Return all figures in the text format of Prometheus; the type is `CONTENT_TYPE`."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(_Collector(self))
        return generate_latest(self._registry)

    def _function(self, name: str) -> _Function:
        figures = self._functions.get(name)
        if figures is None:
            figures = self._functions[name] = _Function()
        return figures

    # Collecting.

    def collect(self) -> Iterator[Any]:
        """Yield the metric families; called by the registry."""
        yield from self._collect_calls()
        if self._statistics is not None:
            yield from _collect_engine(self._statistics())
        if self._worker is not None:
            yield from _collect_worker(self._worker())

    def _collect_calls(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "gen_worker_requests", "Calls that have ended.", labels=("function", "outcome")
        )
        deltas = CounterMetricFamily(
            "gen_worker_deltas", "Items of streamed outputs.", labels=("function",)
        )
        for name, figures in self._functions.items():
            for outcome, count in figures.outcomes.items():
                requests.add_metric((name, outcome), count)
            if figures.deltas:
                deltas.add_metric((name,), figures.deltas)
        yield requests
        yield deltas
        for part, text in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"gen_worker_{part}_seconds", text, labels=("function",))
            for name, figures in self._functions.items():
                histogram: Histogram = getattr(figures, part)
                family.add_metric((name,), histogram.buckets(), histogram.sum_s)
            yield family


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self.collect = metrics.collect


def _collect_engine(statistics: EngineStatistics) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    calls = CounterMetricFamily(
        "gen_worker_calls", "Calls that have ended, of all functions.", labels=("outcome",)
    )
    for outcome in ("completed", "failed", "canceled"):
        calls.add_metric((outcome,), getattr(statistics, outcome))
    yield calls
    yield GaugeMetricFamily(
        "gen_worker_running", "Calls inside their function.", statistics.running
    )
    yield GaugeMetricFamily(
        "gen_worker_queued", "Calls that wait for files, models or a device.", statistics.queued
    )
    yield GaugeMetricFamily(
        "gen_worker_stuck_threads",
        "Functions that went on though they were canceled.",
        statistics.stuck_threads,
    )
    yield GaugeMetricFamily("gen_worker_threads", "Threads for functions.", statistics.threads)
    yield CounterMetricFamily(
        "gen_worker_overloads", "Calls refused because too many waited.", statistics.refused
    )
    latency = statistics.cancel_latency
    yield GaugeMetricFamily(
        "gen_worker_cancel_latency_p50_seconds",
        "From a cancel to the end of its function, of the last 1,000.",
        latency.p50_ms / 1000,
    )
    yield GaugeMetricFamily(
        "gen_worker_cancel_latency_p99_seconds",
        "From a cancel to the end of its function, of the last 1,000.",
        latency.p99_ms / 1000,
    )
    yield CounterMetricFamily(
        "gen_worker_canceled", "Functions that were canceled while they ran.", latency.count
    )
    yield CounterMetricFamily(
        "gen_worker_shed_call_events",
        "Events of calls that were dropped because their reader was behind.",
        statistics.shed_events,
    )


def _collect_worker(figures: WorkerFigures) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    outbox = figures.outbox
    if outbox is not None:
        waiting = GaugeMetricFamily(
            "gen_worker_outbox", "Messages that wait to be written.", labels=("kind",)
        )
        for kind in ("control", "results", "deltas", "telemetry", "in_doubt"):
            waiting.add_metric((kind,), getattr(outbox, kind))
        yield waiting
        yield CounterMetricFamily(
            "gen_worker_shed_events", "Events dropped for want of room.", outbox.shed
        )
        yield CounterMetricFamily(
            "gen_worker_replaced_signals", "Signals that a newer one replaced.", outbox.replaced
        )
        yield CounterMetricFamily(
            "gen_worker_dropped_signals", "Signals dropped for want of room.", outbox.dropped
        )
    if figures.connections is not None:
        yield CounterMetricFamily(
            "gen_worker_connections", "Connections to an orchestrator.", figures.connections
        )
    if figures.is_connected is not None:
        yield GaugeMetricFamily(
            "gen_worker_connected", "Whether there is one now.", int(figures.is_connected)
        )
    tiers = GaugeMetricFamily("gen_worker_models", "Models by tier.", labels=("tier",))
    for tier, models in figures.models.items():
        tiers.add_metric((tier,), len(models))
    yield tiers
    memory = GaugeMetricFamily(
        "gen_worker_model_bytes",
        "Memory of a device that models take, and may take.",
        labels=("device", "what"),
    )
    for (device, what), size_bytes in figures.model_bytes.items():
        memory.add_metric((device, what), size_bytes)
    yield memory
