"""A run that is to stop ends, whatever its hooks do: a real process whose step never returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.forced_exit import ForcedExit

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S = 90.0

_TRAINER = """
import ctypes, threading

class Hanging:
    def setup(self, ctx):
        self.how = ctx.job.hyperparams["how"]

    def configure(self, ctx):
        return {"steps": 0}

    def prepare_batch(self, raw_batch, state, ctx):
        return raw_batch

    def train_step(self, batch, state, ctx):
        if state["steps"] == 3:
            print("HANGS", flush=True)
            getattr(self, self.how)()
        state["steps"] += 1
        return type("Result", (), {"metrics": {"loss": 1.0}})()

    def ignores(self):
        while True:
            threading.Event().wait(1)

    def hangs_in_c(self):
        libc = ctypes.CDLL(None)
        mutex = ctypes.create_string_buffer(256)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)

    def state_dict(self, state):
        return dict(state)

    def load_state_dict(self, state, payload, ctx):
        state.update(payload)
"""


def start(folder: Path, **fields: Any) -> subprocess.Popen[str]:
    (folder / "hanging.py").write_text(_TRAINER)
    job = {
        "request_id": "run-7",
        "trainer": "hanging:Hanging",
        "max_steps": 20,
        "checkpoint_every": 2,
        "cancel_grace_seconds": 1,
        "cancel_file_path": "stop",
        "mock_batches": list(range(20)),
        **fields,
    }
    (folder / "job.json").write_text(json.dumps(job))
    kept = {name: value for name, value in os.environ.items() if "TRAINER" not in name}
    ours = {"WORKER_MODE": "trainer", "TRAINER_JOB_SPEC_PATH": "job.json"}
    return subprocess.Popen(
        [sys.executable, "-m", "gen_worker.entrypoint"],
        cwd=folder,
        env={**kept, **ours, "TRAINER_ARTIFACTS_DIR": "out"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.one_python
@pytest.mark.skipif(sys.platform == "win32", reason="its signals are others")
@pytest.mark.parametrize(
    ("how", "number", "code", "fields"),
    [
        ("ignores", signal.SIGTERM, 143, {}),
        ("hangs_in_c", signal.SIGTERM, 143, {"events_version": 2}),
        ("hangs_in_c", signal.SIGINT, 130, {}),
        ("ignores", None, 1, {}),
    ],
)
def test_a_hook_that_hangs(
    tmp_path: Path,
    how: str,
    number: signal.Signals | None,
    code: int,
    fields: dict[str, Any],
) -> None:
    process = start(tmp_path, hyperparams={"how": how}, **fields)
    assert process.stdout is not None
    assert process.stdout.readline() == "HANGS\n"
    if number is not None:
        process.send_signal(number)
    else:
        (tmp_path / "stop").touch()

    _, log = process.communicate(timeout=_PATIENCE_S)

    assert process.returncode == code, log
    lines = (tmp_path / "out" / "metrics" / "events.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["error"], last["step"]) == ("canceled", 4)
    assert last["event"] == ("canceled" if "events_version" in fields else "failed")
    assert "hanging.py" in log
    assert f"in {how}" in log
    kept = json.loads((tmp_path / "out" / "checkpoints" / "step-00000002.json").read_text())
    assert kept["state"] == {"steps": 2}

    resumed = start(
        tmp_path,
        trainer="hanging:Hanging",
        hyperparams={"how": "setup"},
        max_steps=3,
        cancel_file_path="",
        resume_from_latest=True,
    )
    _, log = resumed.communicate(timeout=_PATIENCE_S)
    assert resumed.returncode == 0, log


def test_a_run_that_ends_in_time_is_left_alone() -> None:
    policy = RuntimeCancelPolicy()
    ends: list[int] = []
    told: list[str] = []
    before = signal.set_wakeup_fd(-1)
    try:
        with ForcedExit(policy, 3600, told.append, end=ends.append):
            policy.cancel()
        assert signal.set_wakeup_fd(before) == -1
    finally:
        signal.set_wakeup_fd(before)

    assert (ends, told) == ([], [])


def test_a_run_whose_time_is_over_and_that_does_not_end() -> None:
    now_s = 0.0
    policy = RuntimeCancelPolicy(max_runtime_seconds=5, clock=lambda: now_s)
    policy.start()
    told: list[str] = []
    ends: list[int] = []
    is_over = threading.Event()

    def end(code: int) -> None:
        ends.append(code)
        is_over.set()

    with ForcedExit(policy, 0.01, told.append, end=end):
        now_s = 6.0
        assert is_over.wait(_PATIENCE_S)

    assert (told, ends) == (["timeout"], [1])


def test_a_run_that_only_finishes_is_left_to_it() -> None:
    policy = RuntimeCancelPolicy()
    policy.cancel()
    was_asked = threading.Event()
    ends: list[int] = []

    def is_needed() -> bool:
        was_asked.set()
        return False

    with ForcedExit(policy, 0.01, print, is_needed=is_needed, end=ends.append):
        assert was_asked.wait(_PATIENCE_S)

    assert ends == []


def test_telling_may_hang_too(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr("gen_worker.trainer.forced_exit._TELL_S", 0.05)
    policy = RuntimeCancelPolicy()
    policy.cancel()
    is_over = threading.Event()
    released = threading.Event()

    def end(code: int) -> None:
        assert code == 1
        is_over.set()

    with ForcedExit(policy, 0.01, lambda _: released.wait(_PATIENCE_S), end=end):
        assert is_over.wait(_PATIENCE_S)
    released.set()


def test_without_a_grace_nothing_watches() -> None:

    before = threading.active_count()
    with ForcedExit(RuntimeCancelPolicy(), 0, print):
        assert threading.active_count() == before
