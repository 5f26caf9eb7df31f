"""The laptop's ports as a whole."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from gen_worker.runtime.local import local_ports

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.events import Telemetry
    from gen_worker.ports import Files, Models, Publisher


class Silent:
    def emit(self, event: Telemetry) -> None: ...


def test_making_the_ports_touches_nothing(tmp_path: Path) -> None:
    local_ports(events=Silent(), output_dir=str(tmp_path / "out"), cas_dir=str(tmp_path / "cas"))

    assert list(tmp_path.iterdir()) == []


def test_the_ports_are_what_the_contract_asks_for() -> None:
    ports = local_ports(events=Silent())
    files: Files = ports.files
    models: Models = ports.models
    publisher: Publisher | None = ports.publisher

    assert all((files, models, publisher))


def test_a_run_without_files_or_models_loads_little() -> None:
    """These modules cost a `gen-worker run` tens of milliseconds together."""
    heavy = ("asyncio", "logging", "hashlib", "tempfile", "shutil", "pathlib", "dataclasses")
    code = (
        "import sys, msgspec\n"
        "before = set(sys.modules)\n"
        "from gen_worker.context import RequestContext\n"
        "from gen_worker.runtime.local.host import local_ports\n"
        "from gen_worker.runtime.local.events import JsonLineEvents\n"
        "ctx = RequestContext('r', ports=local_ports(events=JsonLineEvents(sys.stderr)))\n"
        "ctx.log('x')\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert "gen_worker.runtime.local.host" in loaded
    assert loaded.isdisjoint(heavy)
    assert not any(name.startswith("gen_worker.models.") for name in loaded)
