"""Checkpoints are whole or not there, and the newest that is whole is the one that is used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_worker.trainer.checkpoints import Checkpoint, CheckpointStore, Keeping
from gen_worker.trainer.checkpoints.draft import Draft
from gen_worker.trainer.errors import (
    CheckpointError,
    CheckpointsInUseError,
    CheckpointSpaceError,
)


def save(
    store: CheckpointStore,
    step: int,
    files: dict[str, bytes] | None = None,
    *,
    is_final: bool = False,
    **fields: Any,
) -> Checkpoint:
    with store.building(step, is_final=is_final) as draft:
        for name, content in (files or {}).items():
            path = Path(draft.directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return draft.commit("run", {"step": step}, **fields)


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> Any:
    with CheckpointStore(str(tmp_path / "checkpoints"), warn=warnings.append) as opened:
        yield opened


def visible(store: CheckpointStore) -> list[str]:
    return sorted(name for name in os.listdir(store.root) if name != ".lock")


def test_a_checkpoint_is_a_file_and_a_directory_beside_it(store: CheckpointStore) -> None:
    made = save(store, 50, {"weights.safetensors": b"w" * 9, "more/optimizer.json": b"{}"})

    body = json.loads(Path(store.root, "step-00000050.json").read_bytes())
    assert visible(store) == ["step-00000050", "step-00000050.json"]
    assert (body["step"], body["request_id"], body["state"]) == (50, "run", {"step": 50})
    assert sorted(body["files"]) == ["more/optimizer.json", "weights.safetensors"]
    assert body["files"]["weights.safetensors"]["size_bytes"] == 9
    assert "trainer_checkpoint" not in body
    found = store.newest()
    assert found is not None
    assert found.checkpoint == made
    assert found.directory == os.path.join(store.root, "step-00000050")


def test_a_checkpoint_without_files_has_no_directory(store: CheckpointStore) -> None:
    save(store, 3)

    assert visible(store) == ["step-00000003.json"]
    found = store.newest()
    assert found is not None
    assert found.directory == store.root


def test_paths_that_a_trainer_returned_are_those_of_the_final_place(
    store: CheckpointStore,
) -> None:
    with store.building(2) as draft:
        inside = os.path.join(draft.directory, "w.bin")
        Path(inside).write_bytes(b"x")
        made = draft.commit(
            "run",
            {},
            trainer_checkpoint={
                "primary_path": Path(inside),
                "all": [inside, "w.bin", "/elsewhere/w.bin"],
                "at": {"dir": draft.directory},
            },
        )

    place = os.path.join(store.root, "step-00000002")
    assert made.trainer_checkpoint == {
        "primary_path": os.path.join(place, "w.bin"),
        "all": [os.path.join(place, "w.bin"), "w.bin", "/elsewhere/w.bin"],
        "at": {"dir": place},
    }
    assert Path(made.primary_path).read_bytes() == b"x"


def test_keys_of_a_state_are_kept_as_text(store: CheckpointStore) -> None:
    with store.building(1) as draft:
        draft.commit("r", {"counts": {1: 2, 10: 3}})
    found = store.newest()
    assert found is not None
    assert found.checkpoint.state == {"counts": {"1": 2, "10": 3}}


def test_a_draft_that_fails_leaves_nothing(store: CheckpointStore) -> None:
    save(store, 1, {"w": b"1"})

    def fail() -> None:
        with store.building(2) as draft:
            Path(draft.directory, "w").write_bytes(b"2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert visible(store) == ["step-00000001", "step-00000001.json"]


def test_what_json_cannot_hold_is_refused_and_says_where_it_belongs(
    store: CheckpointStore,
) -> None:
    with pytest.raises(CheckpointError, match="tensors belong into files"):
        with store.building(2) as draft:
            draft.commit("run", {"weights": object()})

    assert visible(store) == []


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_what_is_no_plain_file_is_refused(store: CheckpointStore, kind: str) -> None:
    with store.building(2) as draft:
        path = os.path.join(draft.directory, "odd")
        if kind == "pipe":
            os.mkfifo(path)
        else:
            os.symlink(store.root if kind == "folder link" else "/etc/hostname", path)
        with pytest.raises(CheckpointError, match="copy the file there"):
            draft.commit("run", {})
    assert visible(store) == []


def test_damaged_checkpoints_are_passed_over_and_said(
    store: CheckpointStore, warnings: list[str]
) -> None:
    for step in (1, 2, 3, 4, 5):
        save(store, step, {"w": b"weights %d" % step})
    Path(store.root, "step-00000005.json").write_bytes(b'{"state": ')
    Path(store.root, "step-00000004", "w").write_bytes(b"weights 9")
    Path(store.root, "step-00000003", "w").unlink()
    Path(store.root, "step-00000006.json").write_bytes(b'{"state": 3}')

    found = store.newest()

    assert found is not None
    assert found.checkpoint.step == 2
    assert len(warnings) == 4
    assert "step-00000004" in warnings[-2]
    assert "is not what was written" in warnings[-2]
    assert "is missing" in warnings[-1]


def test_a_checkpoint_of_an_older_writer_takes_its_step_from_its_name(
    store: CheckpointStore,
) -> None:
    Path(store.root, "step-00000007.json").write_bytes(b'{"state": {"a": 1}, "later": true}')

    found = store.newest()

    assert found is not None
    assert (found.checkpoint.step, found.checkpoint.state) == (7, {"a": 1})


def test_the_final_checkpoint_takes_the_place_of_the_one_before(store: CheckpointStore) -> None:
    save(store, 4, {"w": b"4", "gone": b""}, is_final=True)
    save(store, 9, {"w": b"9"}, is_final=True)

    assert visible(store) == ["final", "final.json"]
    found = store.final()
    assert found is not None
    assert found.checkpoint.step == 9
    assert sorted(os.listdir(found.directory)) == ["checkpoint.json", "w"]
    newest = store.newest()
    assert newest == found


def test_what_is_kept(tmp_path: Path) -> None:
    keeping = Keeping(last=2, every=4, best=1, metric="eval/loss")
    with CheckpointStore(str(tmp_path), keeping) as store:
        for step, loss in ((1, 0.9), (2, 0.1), (3, 0.1), (4, 0.5), (5, 0.6), (6, 0.7), (7, 0.8)):
            save(store, step, {"w": b"%d" % step}, metrics={"eval/loss": loss})
        save(store, 7, is_final=True)

        assert store.retire() == ["step-00000001", "step-00000002", "step-00000005"]
        assert [one.name for one in store.checkpoints()] == [
            "step-00000003",
            "step-00000004",
            "step-00000006",
            "step-00000007",
            "final",
        ]
        assert store.retire() == []


def test_nothing_is_removed_while_the_newest_is_damaged(
    tmp_path: Path, warnings: list[str]
) -> None:
    with CheckpointStore(str(tmp_path), Keeping(last=1), warn=warnings.append) as store:
        save(store, 1, {"w": b"1"})
        save(store, 2, {"w": b"2"})
        Path(store.root, "step-00000002", "w").write_bytes(b"!")

        assert store.retire() == []
        assert "no checkpoint is removed" in warnings[0]
        found = store.newest()
        assert found is not None
        assert found.checkpoint.step == 1


def test_a_disk_without_room_is_noticed_before(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1, {"w": b"1" * 1000})
    usage = shutil.disk_usage(store.root)._replace(free=1050)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(CheckpointSpaceError, match="free space there"), store.building(2):
        pytest.fail("there is no room for the files")
    with pytest.raises(CheckpointSpaceError), store.building(2, need_bytes=10_000):
        pytest.fail("there is no room for the files")
    assert visible(store) == ["step-00000001", "step-00000001.json"]


def test_two_jobs_on_one_directory(store: CheckpointStore) -> None:
    script = (
        "import sys; from gen_worker.trainer.checkpoints import CheckpointStore\n"
        "from gen_worker.trainer.errors import CheckpointsInUseError\n"
        "try: CheckpointStore(sys.argv[1])\n"
        "except CheckpointsInUseError as error: print(error.pid, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, store.root], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"{os.getpid()} process {os.getpid()} writes its checkpoints")
    with pytest.raises(CheckpointsInUseError):
        CheckpointStore(store.root)
    store.close()
    CheckpointStore(store.root).close()


@pytest.mark.parametrize("with_files", [True, False])
@pytest.mark.parametrize("stop", range(8))
def test_a_crash_between_any_two_steps_leaves_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, with_files: bool
) -> None:
    """The process is gone in the middle of replacing the final checkpoint."""
    with CheckpointStore(str(tmp_path)) as store:
        save(store, 4, {"w": b"4"}, is_final=True)

        class Gone(BaseException):
            pass

        left = [stop]

        def dying(call: Any) -> Any:
            def step(*arguments: Any, **options: Any) -> Any:
                if not left[0]:
                    raise Gone
                left[0] -= 1
                return call(*arguments, **options)

            return step

        draft = Draft(store.root, 9, is_final=True)
        if with_files:
            Path(draft.directory, "w").write_bytes(b"9")
        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name)))
            patch.setattr("gen_worker.trainer.checkpoints.draft.remove_tree", dying(remove))
            patch.setattr("gen_worker.trainer.checkpoints.files.os.path.exists", lambda _: False)
            try:
                draft.commit("run", {"step": 9})
            except Gone:
                is_done = False
            else:
                is_done = True
    with CheckpointStore(str(tmp_path)) as store:
        found = store.final()
        assert found is not None
        assert found.checkpoint.step in ((9,) if is_done else (4, 9))
        if found.checkpoint.files:
            content = Path(found.directory, "w").read_bytes()
            assert content == b"%d" % found.checkpoint.step
        assert not [name for name in visible(store) if name.startswith(".")]


def remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
