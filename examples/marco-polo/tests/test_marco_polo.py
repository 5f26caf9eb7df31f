"""The function is called directly, and the project is run as its user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest
from gen_worker import RequestContext, ValidationError

from marco_polo.main import Answer, Call, marco_polo

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize("text", ["marco", "MARCO", "  Marco\n"])
def test_marco_is_answered(text: str) -> None:
    assert marco_polo(RequestContext("test"), Call(text=text)) == Answer(response="polo")


@pytest.mark.parametrize("text", ["", "polo", "marco polo"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="only 'marco' has an answer"):
        marco_polo(RequestContext("test"), Call(text=text))


def gen_worker(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gen_worker.cli", *words]
    return subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_project_runs() -> None:
    answer = gen_worker("run", "marco")
    assert (answer.stdout, answer.returncode) == (
        '{"event":"result","value":{"response":"polo"}}\n',
        0,
    )


def test_a_refusal_is_told_on_stderr() -> None:
    answer = gen_worker("run", "text=polo")
    assert (answer.stdout, answer.returncode) == ("", 1)
    assert "only 'marco' has an answer, not 'polo'" in answer.stderr
