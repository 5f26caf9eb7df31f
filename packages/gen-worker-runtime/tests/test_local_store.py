"""The store of this machine is where the settings say, and costs nothing before its first use."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.models.assembly import open_store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "below"), [("TENSORHUB_CACHE_DIR", "cas"), ("TENSORHUB_CAS_DIR", "")]
)
def test_the_settings_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, below: str
) -> None:
    monkeypatch.delenv("TENSORHUB_CAS_DIR", raising=False)
    monkeypatch.setenv(name, str(tmp_path / "there"))
    assert open_store().root == str(tmp_path / "there" / below).rstrip("/")
    assert open_store(str(tmp_path / "given")).root == str(tmp_path / "given")


def test_ports_of_a_laptop_load_no_store() -> None:
    code = (
        "from gen_worker.runtime.local import local_ports\n"
        "class Events:\n"
        "    def emit(self, event): ...\n"
        "local_ports(events=Events())\n"
        "import sys\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"blake3", "sqlite3", "gen_worker.models.store"} & loaded
