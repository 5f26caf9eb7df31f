"""What Prometheus scrapes of the scheduler: queues, ends, times, workers and the disk."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.runtime.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gen_worker.runtime.scheduler.fleet import WorkerView
    from gen_worker.runtime.scheduler.gateway import GatewayStatistics
    from gen_worker.runtime.scheduler.ledger import LedgerStatistics
    from gen_worker.runtime.scheduler.requests import Live, Requests
    from gen_worker.runtime.scheduler.values import RequestRecord, StoredEvent
    from gen_worker.runtime.scheduler.webhooks import WebhookStatistics

__all__ = ["Figures", "SchedulerMetrics"]

_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
_OTHERS = ("", "others")
_MAX_FUNCTIONS = 1000
"""Which have figures of their own; a pool that changes all the time would fill the memory."""

Function = tuple[str, str]
"""Endpoint and function."""


class Figures(NamedTuple):
    """Who is asked, each time that somebody scrapes."""

    ledger: Callable[[], LedgerStatistics]
    gateway: Callable[[], GatewayStatistics]
    webhooks: Callable[[], WebhookStatistics]
    workers: Callable[[], Iterable[WorkerView]]
    clock: Callable[[], float]
    """Unix time, the ledger's own."""


class _Function:
    """What came to requests of one function."""

    __slots__ = ("outcomes", "restarts", "took", "waited")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.restarts = 0
        self.waited = Histogram(_BOUNDS_S)
        self.took = Histogram(_BOUNDS_S)


class SchedulerMetrics:
    """Counts what requests come to, and shows it with what there is. A `Watcher`; on the loop.

    The Prometheus library is imported when somebody asks for the figures first.
    """

    def __init__(self, requests: Requests, figures: Figures) -> None:
        """Count from now on; made before requests are started.

        Args:
            requests: Tells of all that it has.
            figures: What else is shown.
        """
        self._requests = requests
        self._figures = figures
        self._functions: dict[Function, _Function] = {}
        self._registry: Any = None
        requests.watch_all(self)

    def told(self, events: Sequence[StoredEvent], record: RequestRecord) -> None:
        """Count; see `gen_worker.runtime.scheduler.requests.Watcher`."""
        if record.ending is None and not any(event.name == b"restarted" for event in events):
            return
        figures = self._figures_of((record.endpoint, record.function))
        if record.ending is None:
            figures.restarts += 1
            return
        failure = record.ending.failure
        figures.outcomes[record.ending.status if failure is None else failure.error_type] += 1
        ended_at = record.ended_at or self._figures.clock()
        began, came = record.started_at or ended_at, record.created_at
        figures.took.observe(max(ended_at - came, 0.0))  # by the clocks of two processes
        figures.waited.observe(max(began - came, 0.0))

    def exposition(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import generate_latest

        if self._registry is None:
            from prometheus_client.process_collector import ProcessCollector

            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(_Collector(self))
            ProcessCollector(registry=self._registry)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """Yield the metric families; called by the registry."""
        yield from self._collect_ends()
        yield from self._collect_present()
        yield from _collect_workers(self._figures.workers(), self._figures.gateway())
        yield from _collect_webhooks(self._figures.webhooks())
        yield from _collect_ledger(self._figures.ledger())

    def _figures_of(self, function: Function) -> _Function:
        found = self._functions.get(function)
        if found is None:
            if len(self._functions) >= _MAX_FUNCTIONS:
                function = _OTHERS
            found = self._functions.setdefault(function, _Function())
        return found

    def _collect_ends(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        labels = ("endpoint", "function")
        ends = CounterMetricFamily(
            "gen_worker_scheduler_requests",
            "Requests that have ended.",
            labels=(*labels, "outcome"),
        )
        restarts = CounterMetricFamily(
            "gen_worker_scheduler_restarts",
            "Requests whose output was taken back for another attempt.",
            labels=labels,
        )
        waited = HistogramMetricFamily(
            "gen_worker_scheduler_wait_seconds",
            "From submission to the attempt that ended a request.",
            labels=labels,
        )
        took = HistogramMetricFamily(
            "gen_worker_scheduler_request_seconds", "From submission to the end.", labels=labels
        )
        for name, figures in self._functions.items():
            for outcome, count in figures.outcomes.items():
                ends.add_metric((*name, outcome), count)
            restarts.add_metric(name, figures.restarts)
            waited.add_metric(name, figures.waited.buckets(), figures.waited.sum_s)
            took.add_metric(name, figures.took.buckets(), figures.took.sum_s)
        yield from (ends, restarts, waited, took)

    def _collect_present(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        labels = ("endpoint", "function", "release")
        waiting = GaugeMetricFamily(
            "gen_worker_scheduler_waiting", "Requests that wait for their turn.", labels=labels
        )
        oldest = GaugeMetricFamily(
            "gen_worker_scheduler_oldest_wait_seconds",
            "How long the one waits that came first.",
            labels=labels,
        )
        running = GaugeMetricFamily(
            "gen_worker_scheduler_running", "Requests that a worker has.", labels=labels
        )
        counts: Counter[tuple[str, str, str]] = Counter()
        ages: dict[tuple[str, str, str], float] = {}
        now = self._figures.clock()
        for queue, count in self._requests.queues().items():
            live, since = self._requests.first(queue), self._requests.oldest(queue)
            if live is not None and since is not None:
                name = _name(live)
                counts[name] += count
                ages[name] = max(ages.get(name, 0.0), now - since)
        for name, count in counts.items():
            waiting.add_metric(name, count)
            oldest.add_metric(name, ages[name])
        for name, count in Counter(map(_name, self._requests.running())).items():
            running.add_metric(name, count)
        yield from (waiting, oldest, running)
        yield GaugeMetricFamily(
            "gen_worker_scheduler_unfinished",
            "Requests that have not ended.",
            len(self._requests),
        )
        yield GaugeMetricFamily(
            "gen_worker_scheduler_behind",
            "Whether workers are not read from until the disk has caught up.",
            int(self._requests.is_behind),
        )


class _Collector:
    def __init__(self, metrics: SchedulerMetrics) -> None:
        self.collect = metrics.collect


def _name(live: Live) -> tuple[str, str, str]:
    return live.record.endpoint, live.record.function, live.record.release_id[:12]


def _collect_workers(workers: Iterable[WorkerView], gateway: GatewayStatistics) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    states = GaugeMetricFamily("gen_worker_scheduler_workers", "Workers.", labels=("state",))
    for state, count in Counter(worker.state for worker in workers).items():
        states.add_metric((state,), count)
    yield states
    yield GaugeMetricFamily(
        "gen_worker_scheduler_streams", "Open streams of workers.", gateway.streams
    )
    refused = CounterMetricFamily(
        "gen_worker_scheduler_refused_streams",
        "Streams that were refused or broken off.",
        labels=("reason",),
    )
    for reason, count in gateway.refused.items():
        refused.add_metric((reason,), count)
    yield refused


def _collect_webhooks(webhooks: WebhookStatistics) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    ends = CounterMetricFamily(
        "gen_worker_scheduler_webhooks",
        "Events that receivers have, or that were given up.",
        labels=("outcome",),
    )
    ends.add_metric(("delivered",), webhooks.delivered)
    ends.add_metric(("failed",), webhooks.failed)
    yield ends
    yield CounterMetricFamily(
        "gen_worker_scheduler_webhook_attempts", "Attempts to deliver one.", webhooks.attempts
    )
    yield GaugeMetricFamily(
        "gen_worker_scheduler_webhooks_in_flight", "Those under way.", webhooks.in_flight
    )


def _collect_ledger(ledger: LedgerStatistics) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield GaugeMetricFamily(
        "gen_worker_scheduler_ledger_requests", "Requests that are kept.", ledger.requests
    )
    yield GaugeMetricFamily(
        "gen_worker_scheduler_ledger_ended_bytes",
        "Payloads and events of those that have ended.",
        ledger.ended_bytes,
    )
    yield GaugeMetricFamily(
        "gen_worker_scheduler_ledger_pending",
        "Operations that wait to be written.",
        ledger.pending,
    )
    yield CounterMetricFamily(
        "gen_worker_scheduler_commits", "Transactions that were written.", ledger.batches
    )
    yield CounterMetricFamily(
        "gen_worker_scheduler_failed_commits",
        "Transactions that were not, such as for want of room.",
        ledger.failed_batches,
    )
