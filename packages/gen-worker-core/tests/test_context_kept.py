"""Directories of jobs stay while an attempt may come, and go afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from gen_worker.context import ConversionContext
from gen_worker.context.kept import KeptDirectories, remove_ended
from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.ports import Ports

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files cannot be locked")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


class Silent:
    def emit(self, event: object) -> None: ...


def attempt(job: str = "j", repeats_within_s: float | None = 0.0) -> ConversionContext:
    ports = Ports(
        files=cast("Any", LocalOutputs()),
        events=Silent(),
        models=cast("Any", None),
        run=run_blocking,
        repeats_within_s=repeats_within_s,
    )
    return ConversionContext("r", ports=ports, job_id=job)


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())


def test_they_go_with_a_job_that_is_over(place: Path) -> None:
    ctx = attempt()
    assert not ctx.needs_release
    (ctx.checkpoint_dir(key="optimizer") / "state").write_text("x")
    assert ctx.needs_release
    run_blocking(ctx.release(is_over=True))
    assert names(place) == []


def test_they_stay_for_the_next_attempt(place: Path) -> None:
    ctx = attempt()
    (ctx.checkpoint_dir(key="optimizer") / "state").write_text("x")
    run_blocking(ctx.release())
    remove_ended()

    again = attempt().checkpoint_dir(key="optimizer")

    assert (again / "state").read_text() == "x"


def test_they_stay_for_as_long_as_the_host_says(place: Path) -> None:
    ctx = attempt(repeats_within_s=3600)
    state = ctx.checkpoint_dir(key="optimizer") / "state"
    state.write_text("x")
    run_blocking(ctx.release(is_over=True))
    remove_ended()
    assert state.exists()

    note = place / "txform-persistent-in-use" / "j"
    note.write_text(f"{time.time() - 1}")
    attempt("other").checkpoint_dir(key="k")  # whoever comes along
    assert not state.parent.parent.exists()


def test_an_attempt_that_comes_again_keeps_them(place: Path) -> None:
    first = attempt(repeats_within_s=3600)
    state = first.checkpoint_dir(key="k") / "state"
    state.write_text("x")
    run_blocking(first.release(is_over=True))
    second = attempt()
    second.checkpoint_dir(key="k")
    assert (place / "txform-persistent-in-use" / "j").read_text() == ""  # forgotten again
    run_blocking(second.release())
    assert state.exists()


def test_nothing_is_taken_away_under_another_attempt(place: Path) -> None:
    """One that was given up by its orchestrator may end after the one that took its place began."""
    late, live = attempt(), attempt()
    state = late.checkpoint_dir(key="k") / "state"
    state.write_text("x")
    live.checkpoint_dir(key="k")

    run_blocking(late.release(is_over=True))
    assert state.exists()
    run_blocking(live.release(is_over=True))
    assert names(place) == []


def test_a_killed_attempt_leaves_them_to_the_next(place: Path) -> None:
    text = (
        "import os, tempfile; tempfile.tempdir = os.environ['PLACE']\n"
        "from gen_worker.context import ConversionContext\n"
        "ctx = ConversionContext('r', job_id='j')\n"
        "(ctx.checkpoint_dir(key='k') / 'state').write_text('x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PLACE": str(place)}, check=False
    )
    remove_ended()
    state = place / "txform-persistent" / "j" / "k" / "state"
    assert state.read_text() == "x"

    weeks_ago = time.time() - 30 * 86_400
    os.utime(place / "txform-persistent-in-use" / "j", (weeks_ago, weeks_ago))
    remove_ended()
    assert not state.exists()


def test_where_no_call_is_made_again_they_go_however_it_ends(place: Path) -> None:
    ctx = attempt(repeats_within_s=None)
    state = ctx.checkpoint_dir(key="k") / "state"
    state.write_text("x")
    attempt("other").checkpoint_dir(key="k")
    assert state.exists()  # it runs
    run_blocking(ctx.release())
    assert names(place) == ["txform-persistent-in-use/other"]


_KILLED = (
    "import os, tempfile; tempfile.tempdir = os.environ['PLACE']\n"
    "from gen_worker.context import ConversionContext\n"
    "from gen_worker.ports import Ports\n"
    "ports = Ports(files=None, events=None, models=None, repeats_within_s=None)\n"
    "ctx = ConversionContext('r', ports=ports)\n"
    "(ctx.mktemp() / 'weights').write_text('x')\n"
    "(ctx.checkpoint_dir(key='k') / 'state').write_text('x')\n"
    "os.kill(os.getpid(), 9)\n"
)


def test_what_a_killed_call_leaves_goes_with_the_next_one(place: Path) -> None:
    live = attempt()
    mine = live.mktemp() / "weights"
    mine.write_text("x")
    environment = {**os.environ, "PLACE": str(place)}
    subprocess.run([sys.executable, "-c", _KILLED], env=environment, check=False)
    assert len([name for name in names(place) if name.endswith(("weights", "state"))]) == 3
    attempt("next").mktemp()
    left = [name for name in names(place) if name.endswith(("weights", "state"))]
    assert left == [str(mine.relative_to(place))]
    run_blocking(live.release())
    assert not mine.exists()


def test_where_files_cannot_be_locked_nothing_of_others_is_removed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_worker.context.kept._lock", lambda *_, is_shared: None)
    live = attempt(repeats_within_s=None)
    mine = live.mktemp()
    attempt("next").mktemp()
    assert mine.is_dir()
    run_blocking(live.release())
    assert not mine.exists()


def test_a_note_of_something_else_is_no_word_to_remove(place: Path) -> None:
    kept = KeptDirectories("j")
    kept.leave(None)
    (place / "txform-persistent-in-use" / "j").write_text("soon")
    remove_ended()
    assert Path(kept.path).is_dir()
