"""Outputs that cannot be written: the error names the place, and nothing is left anywhere."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

SCRIPT = Path(__file__).with_name("writing_places.py")
WRITERS = (
    *("run", "run of several", "run of a pipeline", "run of gguf", "cast", "loop", "incremental"),
    *("gguf", "shard", "join", "merge", "adapter", "copy"),
)


@pytest.fixture(scope="module")
def sources(writing_places: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    writing_places.make_sources(root)
    return root


def test_all_writers_are_tried(writing_places: Any) -> None:
    assert tuple(writing_places.WRITERS) == WRITERS


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_works_where_it_may(writer: str, sources: Path, writing_places: Any) -> None:
    out = sources.parent / f"out of {writer}"
    writing_places.WRITERS[writer](sources, out)
    assert any(path.suffix in (".safetensors", ".gguf") for path in out.rglob("*"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_below_a_file_is_refused(
    writer: str, sources: Path, writing_places: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    found = writing_places.left_after(writer, sources, tmp_path / "file" / "out")
    assert "ConversionError" in found["kinds"], found
    assert str(tmp_path / "file") in found["text"]
    assert found["left"] == []
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_may_not_grow_leaves_nothing(
    writer: str, sources: Path, writing_places: Any, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        found = writing_places.left_after(writer, sources, tmp_path / "new" / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ConversionError" in found["kinds"], found
    assert found["file"].startswith(str(tmp_path))
    assert found["left"] == []
    assert_nothing_in(tmp_path, writer)


def assert_nothing_in(place: Path, writer: str) -> None:
    """Allow for what the caller of a loop made before its first tensor: an empty folder."""
    left = {"new", "new/out"} if writer == "loop" else set()
    assert {str(path.relative_to(place)) for path in place.rglob("*")} <= left


@pytest.fixture(scope="module")
def on_a_small_disk(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what came of every writer on a disk that fills up, and on one that is read-only."""
    disk = tmp_path_factory.mktemp("disk")
    mount = f"mount -t tmpfs -o size=24m tmpfs '{disk}'"
    tried = [shutil.which("unshare") or "false", "--mount", "sh", "-c", mount]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("nobody here may mount a small disk")
    work = f"{mount} && exec '{sys.executable}' '{SCRIPT}' '{sources}' '{disk}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", work],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fills_up_is_named_and_left_as_it_was(
    writer: str, on_a_small_disk: dict[str, Any]
) -> None:
    found = on_a_small_disk["full"][writer]
    assert "OutputSpaceError" in found["kinds"], found
    assert found["file"]
    assert [name for name in found["left"] if writer != "loop" or name != "new/out"] in (
        [],
        ["new"],
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_read_only_is_named(writer: str, on_a_small_disk: dict[str, Any]) -> None:
    found = on_a_small_disk["read-only"][writer]
    assert "ConversionError" in found["kinds"], found
    told = "may not be written to" if writer.startswith("run") else "Read-only"  # a plan tells it
    assert told in found["text"]
    assert found["left"] == []
