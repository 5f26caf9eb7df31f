"""docs/scheduler.md names what there is: variables with their defaults, and all metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

from gen_worker.runtime.scheduler.settings import SchedulerSettings

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "packages/gen-worker-runtime/src/gen_worker/runtime/scheduler"
PAGE = (ROOT / "docs" / "scheduler.md").read_text(encoding="utf-8")
_VARIABLE = re.compile(r"`(GEN_WORKER_SCHEDULER_\w+)`(?: \(([0-9.,]+) ?(s|MiB|GiB)?\))?")
_UNITS = {"": 1, "s": 1, "MiB": 1 << 20, "GiB": 1 << 30}


def defaults() -> dict[str, Any]:
    hints = get_type_hints(SchedulerSettings, include_extras=True)
    settings = SchedulerSettings()
    return {hint.__metadata__[0].env: getattr(settings, name) for name, hint in hints.items()}


def test_variables_and_their_defaults() -> None:
    known = defaults()
    named = _VARIABLE.findall(PAGE)
    assert len(named) > 15
    for name, number, unit in named:
        assert name in known
        if number:
            shown = float(number.replace(",", "")) * _UNITS[unit]
            assert shown == float(known[name]), name


def test_metrics() -> None:
    source = (SOURCES / "metrics.py").read_text(encoding="utf-8")
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(\w+)"', source))
    made = set(re.findall(r'"(gen_worker_scheduler_\w+)"', source))
    names = {f"{name}_total" if name in counters else name for name in made}
    assert len(names) > 12
    assert set(re.findall(r"\b(gen_worker_scheduler_\w+)", PAGE)) == names
