"""A run in a directory that has the checkpoints of an earlier one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.checkpoints import CheckpointStore, Keeping
from gen_worker.trainer.earlier import set_aside
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.resume import finished_at, resume_point

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def keep(store: CheckpointStore, step: int, *, text: str = "old", is_final: bool = False) -> None:
    with store.building(step, is_final=is_final) as draft:
        with open(f"{draft.directory}/w", "w") as file:
            file.write(text)
        draft.commit("r", {"of": text})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    with CheckpointStore(str(tmp_path / "checkpoints"), Keeping(last=1)) as opened:
        keep(opened, 15)
        keep(opened, 20)
        keep(opened, 20, is_final=True)
        yield opened


def job(**fields: Any) -> Any:
    return parse_job({"request_id": "r", "max_steps": 20, "resume_from_latest": True, **fields})


def test_what_a_run_that_begins_anew_keeps_stays(store: CheckpointStore) -> None:
    folder = set_aside(store, None)
    keep(store, 5, text="new")
    keep(store, 10, text="new")
    removed = store.retire()

    assert removed == ["step-00000005"]
    assert finished_at(job(), store) is None
    point = resume_point(job(), store)
    assert point is not None
    assert (point.step, point.state) == (10, {"of": "new"})
    assert folder == f"{store.root}/earlier-1"
    assert sorted(os.listdir(folder)) == [
        "final",
        "final.json",
        "step-00000015",
        "step-00000015.json",
        "step-00000020",
        "step-00000020.json",
    ]


def test_one_that_was_moved_can_be_gone_on_with(store: CheckpointStore) -> None:
    folder = set_aside(store, None)

    point = resume_point(job(resume_checkpoint_path=f"{folder}/step-00000015.json"), store)

    assert point is not None
    assert (point.step, point.directory) == (15, f"{folder}/step-00000015")


def test_a_run_that_goes_on_has_what_is_behind_it(store: CheckpointStore) -> None:
    point = resume_point(job(resume_checkpoint_path=f"{store.root}/step-00000015.json"), store)

    assert set_aside(store, point) is not None
    assert [one.name for one in store.checkpoints()] == ["step-00000015"]
    assert set_aside(store, point) is None


def test_a_run_that_goes_on_at_its_end_moves_nothing(store: CheckpointStore) -> None:
    assert set_aside(store, resume_point(job(max_steps=30), store)) is None
    assert len(store.checkpoints()) == 3


def test_a_run_that_goes_on_from_elsewhere_has_none(store: CheckpointStore, tmp_path: Path) -> None:
    with CheckpointStore(str(tmp_path / "elsewhere")) as other:
        keep(other, 90)
        point = resume_point(job(resume_checkpoint_path=f"{other.root}/step-00000090.json"), store)

        assert set_aside(store, point) == f"{store.root}/earlier-1"

        assert store.checkpoints() == []
        assert len(other.checkpoints()) == 1


def test_each_time_there_is_another_place(store: CheckpointStore) -> None:
    set_aside(store, None)
    keep(store, 5)

    assert set_aside(store, None) == f"{store.root}/earlier-2"
    assert os.path.isfile(f"{store.root}/earlier-1/final.json")
