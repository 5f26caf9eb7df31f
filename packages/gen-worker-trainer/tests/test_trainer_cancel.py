"""A run stops for a file, a setting, a signal or its time; and stays stopped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.config import asked_to_stop

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "is_canceled"),
    [
        (b"", True),
        (b" \n", True),
        (b"1", True),
        (b"TRUE\n", True),
        (b" t ", True),
        (b"yes", True),
        (b"Y", True),
        (b"cancel", True),
        (b"Canceled", True),
        (b"no", False),
        (b"0", False),
        (b"false", False),
        (b"\xff\xfe", False),
    ],
)
def test_a_file_says_so(tmp_path: Path, content: bytes, is_canceled: bool) -> None:
    path = tmp_path / "cancel"
    policy = RuntimeCancelPolicy(path)
    assert not policy.is_canceled()

    path.write_bytes(content)

    assert policy.is_canceled() is is_canceled
    assert policy.reason == ("canceled" if is_canceled else None)
    path.unlink()
    assert policy.is_canceled() is is_canceled


def test_a_file_that_cannot_be_read_counts(tmp_path: Path) -> None:
    assert RuntimeCancelPolicy(tmp_path).is_canceled()
    assert not RuntimeCancelPolicy(tmp_path / "file" / "cancel").is_canceled()


def test_the_time_counts_from_the_start(tmp_path: Path) -> None:
    now = [100.0]
    (tmp_path / "cancel").touch()
    policy = RuntimeCancelPolicy(tmp_path / "cancel2", 10, clock=lambda: now[0])
    now[0] += 60
    assert not policy.is_canceled()

    policy.start()
    now[0] += 9.9
    assert not policy.is_canceled()
    now[0] += 0.1
    (tmp_path / "cancel2").touch()

    assert policy.is_canceled()
    assert policy.reason == "timeout"
    assert policy.exit_code == 1


def test_no_limit() -> None:
    policy = RuntimeCancelPolicy(None, 0, clock=lambda: 1e9)
    policy.start()

    assert not policy.is_canceled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_says_so(number: signal.Signals, code: int) -> None:
    policy = RuntimeCancelPolicy()
    before = signal.getsignal(number)

    with policy.hearing_signals():
        os.kill(os.getpid(), number)
        assert policy.is_canceled()
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)

    assert (policy.reason, policy.exit_code) == ("canceled", code)
    assert signal.getsignal(number) is before


@pytest.mark.claims("TRAINER_CANCELLED")
def test_a_setting_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    look = asked_to_stop(lambda: now[0])
    policy = RuntimeCancelPolicy(is_asked=look)
    assert not policy.is_canceled()
    monkeypatch.setenv("TRAINER_CANCELLED", "yes")

    now[0] += 0.4
    assert not policy.is_canceled()
    now[0] += 0.2

    assert policy.is_canceled()


def test_a_signal_that_comes_while_the_run_looks_is_not_lost() -> None:
    def asked() -> bool:
        policy.cancel()  # as the handler of a signal does, between any two instructions
        return False

    policy = RuntimeCancelPolicy(is_asked=asked)
    policy.start()
    assert policy.is_canceled()
    assert policy.reason == "canceled"
