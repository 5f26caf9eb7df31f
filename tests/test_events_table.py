"""The documented events are those of the catalog."""

import re

from ci.events_table import DOCUMENT, with_events
from ci.workspace import ROOT
from gen_worker.runtime import EngineStatistics, Latency
from gen_worker.runtime.telemetry import Metrics, WorkerFigures
from gen_worker.runtime.worker.outbox import OutboxStatistics


def test_the_document_is_the_catalog() -> None:
    text = (ROOT / DOCUMENT).read_text()
    assert with_events(text) == text
    assert "| `metrics.job` | request |" in text


def test_only_the_first_table_of_the_section_is_replaced() -> None:
    section = "## Observability\n\nWords.\n\n| old |\n|---|\n\n| kept |\n\n## After\n"
    text = f"## Before\n\n| a |\n\n{section}"
    fresh = with_events(text)
    assert "| old |" not in fresh
    assert "| `request.started` | request |" in fresh
    assert "Words." in fresh
    assert "| kept |" in fresh
    assert fresh.startswith("## Before\n\n| a |\n")
    assert with_events(fresh) == fresh


def test_every_metric_is_documented() -> None:
    statistics = EngineStatistics(
        running=0,
        queued=0,
        completed=0,
        failed=0,
        canceled=0,
        stuck_threads=0,
        threads=0,
        refused=0,
        shed_events=0,
        cancel_latency=Latency(),
    )
    outbox = OutboxStatistics(control=0, results=0, deltas=0, telemetry=0, in_doubt=0, shed=0)
    figures = WorkerFigures(outbox=outbox, connections=0, is_connected=False)
    metrics = Metrics(lambda: statistics, worker=lambda: figures)
    types = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.exposition().decode(), re.MULTILINE)
    document = (ROOT / "docs/operations.md").read_text()
    section = document.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == {name for name, kind in types if kind != "unknown"}
