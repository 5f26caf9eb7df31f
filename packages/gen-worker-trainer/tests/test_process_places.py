"""Which of a run's processes this one is; and how processes that a launcher starts end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.settings import load
from gen_worker.trainer.distributed.agreement import first_does, together
from gen_worker.trainer.distributed.joining import share_of
from gen_worker.trainer.distributed.launch import launch
from gen_worker.trainer.distributed.place import Place, place_of
from gen_worker.trainer.distributed.world import ALONE
from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path

_TOLD = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


def settings(**told: str | None) -> TrainerSettings:
    environ = {name: value for name, value in {**_TOLD, **told}.items() if value is not None}
    return load(TrainerSettings, environ=environ, files=())


@pytest.mark.claims("RANK")
@pytest.mark.claims("WORLD_SIZE")
@pytest.mark.claims("LOCAL_RANK")
@pytest.mark.claims("MASTER_ADDR")
@pytest.mark.claims("MASTER_PORT")
def test_a_launcher_says_which_it_is() -> None:
    assert place_of(settings()) == Place(
        rank=3, size=4, local_rank=1, address="host", port=29500, timeout_s=1800.0
    )


@pytest.mark.parametrize("told", [dict.fromkeys(_TOLD), dict.fromkeys(list(_TOLD)[:3])])
def test_without_one_it_is_alone(told: dict[str, None]) -> None:
    assert place_of(settings(**told)) is None


@pytest.mark.claims("TRAINER_DISTRIBUTED_TIMEOUT_SECONDS")
@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"RANK": None, "MASTER_ADDR": None}, ["RANK is not set", "MASTER_ADDR is not set"]),
        ({"WORLD_SIZE": None, "MASTER_PORT": None}, ["WORLD_SIZE is not", "MASTER_PORT is not"]),
        ({"RANK": "4", "LOCAL_RANK": "-1"}, ["RANK must be", "it is 4", "LOCAL_RANK", "is -1"]),
        ({"WORLD_SIZE": "0", "MASTER_PORT": "70000"}, ["WORLD_SIZE must", "MASTER_PORT must"]),
        ({"TRAINER_DISTRIBUTED_TIMEOUT_SECONDS": "0"}, ["TRAINER_DISTRIBUTED_TIMEOUT_SECONDS"]),
    ],
)
def test_all_that_is_missing_or_wrong_is_named(told: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StartupContractError, match="cannot find them") as caught:
        place_of(settings(**told))

    assert [word for word in words if word not in str(caught.value)] == []


def test_alone_all_is_done_here() -> None:
    job = parse_job({"request_id": "r"})

    assert share_of(job, ALONE) is job
    assert (first_does(ALONE, lambda: 1), together(ALONE, lambda: 2)) == (1, 2)
    assert (ALONE.any(True), ALONE.broadcast("x"), ALONE.beside()) == (True, "x", ALONE)


def play(code: str, nproc: int = 2, **more: Any) -> int:
    told = "import os, sys, time, signal; rank = int(os.environ['RANK']); "
    return launch([sys.executable, "-c", told + code], nproc, **more)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(7 if rank else 0)", 7),
        ("sys.exit(7 if rank else 130)", 130),
        ("rank and os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_one_exit_code(code: str, exit_code: int) -> None:
    assert play(code) == exit_code


@pytest.mark.parametrize(
    ("deaf", "exit_code"), [("", 143), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 137)]
)
def test_who_does_not_end_with_the_others_is_stopped(
    tmp_path: Path, deaf: str, exit_code: int
) -> None:
    code = f"""
if rank:
    while not os.path.exists({str(tmp_path / "is-ready")!r}):
        time.sleep(0.01)
    sys.exit(1)
{deaf}
open({str(tmp_path / "is-ready")!r}, "w").close()
time.sleep(600)
"""
    assert play(code, grace_s=0.5) == exit_code


def test_lines_say_of_whom_they_are() -> None:
    """In a process of its own: what others have loaded here may say something as well."""
    told = "import os, sys; print('one\\ntwo', os.environ['RANK']); print('three', file=sys.stderr)"
    code = f"import sys; from {launch.__module__} import launch; "
    code += f"sys.exit(launch([sys.executable, '-c', {told!r}], 3))"

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == sorted(
        ["one", "two 0", "[rank 1] one", "[rank 1] two 1", "[rank 2] one", "[rank 2] two 2"]
    )
    assert sorted(ended.stderr.splitlines()) == ["[rank 1] three", "[rank 2] three", "three"]


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    assert play("None") == 0

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_there_is_a_process() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        launch(["true"], 0)
