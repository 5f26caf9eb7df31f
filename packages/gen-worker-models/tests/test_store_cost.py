"""Finding and leasing a snapshot costs the same whatever its size: it is not looked into."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gen_worker.models.store import ContentStore
from gen_worker.models.store.owners import this_process

if TYPE_CHECKING:
    from pathlib import Path

HEX = "ab" * 32


def test_a_present_snapshot_is_leased_without_a_look_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContentStore(tmp_path)
    tree = os.path.join(store.root, "snapshots", HEX)
    os.makedirs(tree)
    this_process()  # asks the kernel once
    listed: list[str] = []
    listdir = os.listdir

    def watched(path: str) -> list[str]:
        listed.append(path)
        return listdir(path)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a file was read or a directory walked")

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", watched)
        for module, name in ((os, "scandir"), (os, "walk"), (builtins, "open")):
            patch.setattr(module, name, refuse)
        assert store.snapshot(HEX) == tree
        with store.lease(HEX) as path, store.lease(HEX):
            assert path == tree
        for _ in range(10):
            store.snapshot(HEX)
    assert set(listed) == {os.path.join(store.root, "state", "leases", HEX)}
    assert len(listed) == 1  # the second lease of a process asks nobody


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import gen_worker.models.store", {"blake3", "gen_worker.models.store.content_store"}),
        ("from gen_worker.models.store import ContentStore", {"blake3", "sqlite3", "asyncio"}),
    ],
)
def test_a_store_is_opened_cheaply(statement: str, absent: set[str]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())
