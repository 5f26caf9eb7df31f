"""Where a run goes on, and what a failure is put down to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import AuthError
from gen_worker.trainer.categories import category_of, told
from gen_worker.trainer.checkpoints import CheckpointStore
from gen_worker.trainer.distributed.joining import point_of
from gen_worker.trainer.errors import (
    ArtifactUploadError,
    CheckpointError,
    InputMaterializationError,
    StartupContractError,
    TrainingCanceled,
)
from gen_worker.trainer.job_file import JobFile, parse_job
from gen_worker.trainer.resume import Origin, finished_at, resume_point

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    with CheckpointStore(str(tmp_path / "checkpoints")) as opened:
        for step in (3, 5):
            with opened.building(step) as draft:
                with open(f"{draft.directory}/w", "wb") as file:
                    file.write(b"%d" % step)
                draft.commit("r", {"step": step}, runtime={"cursor": step})
        yield opened


def job(*, resume: bool = True, max_steps: int = 9, path: str = "") -> JobFile:
    return parse_job(
        {
            "request_id": "r",
            "max_steps": max_steps,
            "resume_from_latest": resume,
            "resume_checkpoint_path": path,
        }
    )


def test_the_newest_that_is_whole(store: CheckpointStore) -> None:
    with open(f"{store.root}/step-00000005/w", "wb") as file:
        file.write(b"6")

    point = resume_point(job(), store)

    assert point is not None
    assert (point.step, point.state, point.runtime) == (3, {"step": 3}, {"cursor": 3})
    assert point.directory == f"{store.root}/step-00000003"


class SecondProcess:
    """Is told what the first one has found."""

    rank, size, is_first = 1, 2, False

    def __init__(self, told: Any) -> None:
        self._told = told

    def broadcast(self, value: object) -> Any:
        return [self._told]


@pytest.mark.parametrize("owed", [[], ["samples"]])
def test_all_processes_make_up_what_the_first_one_says(tmp_path: Path, owed: list[str]) -> None:
    """Only that one has looked at what is done since."""
    said = {"owed": owed} if owed else {}
    (tmp_path / "ranks").mkdir()
    kept = {"size": 2, "runtime": {"owed": ["evaluation", "samples"], "cursor": 3}}
    (tmp_path / "ranks" / "00001.json").write_text(json.dumps(kept))
    world: Any = SecondProcess((4, {}, str(tmp_path), {"cursor": 1, **said}))

    point = point_of(world, lambda: None)

    assert point is not None
    assert point.runtime == {"cursor": 3, **said}


def test_only_if_it_is_wanted(store: CheckpointStore) -> None:
    assert resume_point(job(resume=False), store) is None


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("as_directory", [True, False])
def test_an_explicit_path_comes_first(
    store: CheckpointStore, resume: bool, as_directory: bool
) -> None:
    path = f"{store.root}/step-00000003" + ("" if as_directory else ".json")

    point = resume_point(job(resume=resume, path=path), store)

    assert point is not None
    assert point.step == 3


def keep_own(store: CheckpointStore, wanted: JobFile, step: int, *, is_final: bool = False) -> None:
    """Keep a checkpoint as a run of this job does."""
    origin = Origin(wanted)
    parts = {origin.name: origin.kept()} if origin.name else {}
    with store.building(step, is_final=is_final) as draft:
        with open(f"{draft.directory}/w", "w") as file:
            file.write(str(step))
        draft.commit("r", {"step": step}, runtime={"parts": parts})


def where(wanted: JobFile, store: CheckpointStore) -> int:
    point = resume_point(wanted, store)
    assert point is not None
    return point.step


def test_an_explicit_path_is_for_the_first_attempt(store: CheckpointStore) -> None:
    wanted = job(path=f"{store.root}/step-00000003.json")
    assert where(wanted, store) == 3

    keep_own(store, wanted, 4)
    keep_own(store, wanted, 6)

    assert where(wanted, store) == 6
    assert where(job(path=f"{store.root}/step-00000005.json"), store) == 5, "another one is named"
    assert where(job(path=f"{store.root}/step-00000003.json", resume=False), store) == 3
    assert where(job(), store) == 6


def test_a_later_attempt_takes_the_newest_of_its_own_that_is_whole(store: CheckpointStore) -> None:
    wanted = job(path=f"{store.root}/step-00000003.json")
    for step in (4, 6):
        keep_own(store, wanted, step)
    for step, expected in ((6, 4), (4, 3)):
        with open(f"{store.root}/step-{step:08d}/w", "w") as file:
            file.write("damaged")

        assert where(wanted, store) == expected, "never that of step 5, which is not its own"


def test_a_later_attempt_does_not_ask_for_the_explicit_one(store: CheckpointStore) -> None:
    """Its tag may have moved, its URL may be out of date."""
    wanted = parse_job(
        {
            "request_id": "r",
            "resume_from_latest": True,
            "inputs": {"resume_checkpoint_ref": "acme/run"},
        }
    )
    keep_own(store, wanted, 8)

    def gone() -> str:
        raise InputMaterializationError("no longer there")

    point = resume_point(wanted, store, gone)
    assert point is not None
    assert point.step == 8
    assert "acme/run" not in json.dumps(point.runtime)
    with open(f"{store.root}/step-00000008/w", "w") as file:
        file.write("damaged")
    with pytest.raises(InputMaterializationError):
        resume_point(wanted, store, gone)


def test_a_later_attempt_of_a_finished_run_has_nothing_to_do(store: CheckpointStore) -> None:
    wanted = job(path=f"{store.root}/step-00000003.json")
    keep_own(store, job(), 9, is_final=True)
    assert finished_at(wanted, store) is None, "the run that is finished began elsewhere"

    keep_own(store, wanted, 9, is_final=True)

    assert finished_at(wanted, store) == f"{store.root}/final.json"
    assert finished_at(job(path="another"), store) is None


def test_a_file_of_another_name_says_its_step(store: CheckpointStore, tmp_path: Path) -> None:
    path = tmp_path / "downloaded.json"
    path.write_text(json.dumps({"step": 40, "state": {"a": 1}}))

    point = resume_point(job(path=str(path)), store)

    assert point is not None
    assert (point.step, point.directory) == (40, str(tmp_path))


def test_an_explicit_path_that_is_none(store: CheckpointStore, tmp_path: Path) -> None:
    path = str(tmp_path / "none.json")

    point = resume_point(job(path=path), store)

    assert point is not None
    assert point.step == 5
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        resume_point(job(resume=False, path=path), store)


@pytest.mark.parametrize(
    ("fields", "is_finished"),
    [
        ({"max_steps": 7}, True),
        ({"max_steps": 6}, True),
        ({"max_steps": 8}, False),
        ({"max_steps": 7, "path": "/some/step.json"}, False),
        ({"max_steps": 7, "resume": False}, False),
    ],
)
def test_a_run_that_is_finished(
    store: CheckpointStore, fields: dict[str, Any], is_finished: bool
) -> None:
    assert finished_at(job(**fields), store) is None
    with store.building(7, is_final=True) as draft:
        draft.commit("r", {})

    found = finished_at(job(**fields), store)

    assert found == (f"{store.root}/final.json" if is_finished else None)


def test_an_explicit_path_that_is_none_and_nothing_else(tmp_path: Path) -> None:
    with (
        CheckpointStore(str(tmp_path / "empty")) as empty,
        pytest.raises(CheckpointError, match=r"elsewhere\.json"),
    ):
        resume_point(job(path=str(tmp_path / "elsewhere.json")), empty)


def test_a_finished_run_can_be_longer(store: CheckpointStore) -> None:
    with store.building(7, is_final=True) as draft:
        draft.commit("r", {"step": 7})

    point = resume_point(job(max_steps=20), store)

    assert point is not None
    assert (point.step, point.state) == (7, {"step": 7})


@pytest.mark.parametrize(
    ("error", "phase", "category", "text"),
    [
        (StartupContractError("startup.x", "y"), "startup", "startup", "startup.x: y"),
        (
            InputMaterializationError("GET refused"),
            "input",
            "input",
            "failed to materialize training inputs",
        ),
        (ValueError("no column"), "input", "input", "no column"),
        (AuthError("token expired"), "upload", "auth", "authorization failed"),
        (RuntimeError("access forbidden"), "train-step", "train-step", "access forbidden"),
        (
            ArtifactUploadError("x"),
            "train-step",
            "upload",
            "failed to upload training artifacts",
        ),
        (
            MemoryError(),
            "model-load",
            "model-load",
            "failed to initialize trainer model/backend",
        ),
        (MemoryError(), "train-step", "train-step", "MemoryError"),
        (TrainingCanceled("timeout"), "train-step", "train-step", "timeout"),
    ],
)
def test_what_a_failure_is_put_down_to(
    error: Exception, phase: Any, category: str, text: str
) -> None:
    found = category_of(error, phase)

    assert found == category
    assert told(error, found) == text
