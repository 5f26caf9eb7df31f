"""Ctrl-C and SIGTERM while a call runs in this process."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cli

    Running = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def running(cli: Cli) -> Running:
    """Start a function of the shapes project and return once its handler runs."""

    def start(*words: str, mark: str = "started") -> subprocess.Popen[str]:
        process = cli.start("run", *words, project="shapes")
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip() == mark:
                return process
        raise AssertionError("the handler never ran")

    return start


@pytest.mark.claims("run.sigint", "exit.130")
@pytest.mark.parametrize("function", ["polite", "busy", "waiting"])
def test_ctrl_c_cancels(running: Running, function: str) -> None:
    process = running(function)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, process.returncode) == ("", 130)
    assert stderr == "gen-worker run: canceled\n"


@pytest.mark.claims("run.sigint", "run.class-life")
def test_ctrl_c_lets_the_class_shut_down(running: Running) -> None:
    process = running("ponder", "x", mark="painter: pondering")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines() == ["painter: shutdown", "gen-worker run: canceled"]


@pytest.mark.claims("run.sigint-ignored")
def test_a_handler_that_ignores_ctrl_c_still_answers(running: Running) -> None:
    process = running("unmoved")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (stdout, process.returncode) == (
        '{"event":"result","value":{"text":"finished"}}\n',
        0,
    ), stderr


@pytest.mark.claims("run.sigint-twice", "run.class-life")
def test_a_second_ctrl_c_ends_a_call_that_nothing_else_ends(running: Running) -> None:
    process = running("stuck")
    for _ in range(600):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.claims("run.sigterm", "exit.143", "run.class-life")
@pytest.mark.parametrize("function", ["polite", "busy", "waiting"])
def test_sigterm_cancels_and_cleans_up(running: Running, function: str) -> None:
    process = running(function)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=30)
    assert (stdout, process.returncode) == ("", 143)


@pytest.mark.claims("run.sigterm")
def test_sigterm_lets_the_class_shut_down(running: Running) -> None:
    process = running("ponder", "x", mark="painter: pondering")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "painter: shutdown" in stderr
