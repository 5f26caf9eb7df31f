"""docs/scheduler.md names what there is: variables with their defaults, and all metrics."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from gen_worker.runtime.scheduler import Ledger, Submission
from gen_worker.runtime.scheduler.releases import Releases
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


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_a_copy_of_a_running_scheduler_is_a_data_folder(tmp_path: Path) -> None:
    """Run the lines of the page, while somebody writes."""
    block = re.search(r"^```console\n(\$ mkdir.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert block is not None
    script = re.sub(r"^\$ ", "", block[1], flags=re.MULTILINE)

    async def submit(count: int) -> list[str]:
        ledger = await Ledger.open(tmp_path / "scheduler")
        releases = await Releases.open(tmp_path / "releases", ledger)
        for number in range(count):
            await ledger.submit(Submission(request_id=f"r-{number}", function="f", payload=b"{}"))
        command = ("sh", "-e", "-c", script)
        await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, timeout=60)
        await ledger.submit(Submission(request_id="later", function="f", payload=b"{}"))
        await releases.close()
        await ledger.close()
        return await kept(tmp_path / "backup" / "scheduler")

    async def kept(folder: Path) -> list[str]:
        ledger = await Ledger.open(folder)
        found = [record.request_id for record in await ledger.unfinished()]
        await ledger.close()
        return found

    assert asyncio.run(submit(50)) == [f"r-{number}" for number in range(50)]


def test_metrics() -> None:
    source = (SOURCES / "metrics.py").read_text(encoding="utf-8")
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(\w+)"', source))
    made = set(re.findall(r'"(gen_worker_scheduler_\w+)"', source))
    names = {f"{name}_total" if name in counters else name for name in made}
    assert len(names) > 12
    assert set(re.findall(r"\b(gen_worker_scheduler_\w+)", PAGE)) == names
