"""Setup, warmup and shutdown happen once, around any number of calls."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gen_worker.testing import EndpointTester

import class_endpoint.main
from class_endpoint.main import Library

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the order of the three life-cycle methods."""
    called: list[str] = []
    for name in ("setup", "warmup", "shutdown"):
        method = getattr(Library, name)

        def record(self: Library, name: str = name, method: Any = method) -> None:
            called.append(name)
            method(self)

        monkeypatch.setattr(Library, name, record)
    return called


def test_both_functions_share_one_instance(life: list[str]) -> None:
    with EndpointTester(class_endpoint.main) as tester:
        hits = tester.run("search", {"query": "what causes the tide?"}).value
        article = tester.run("read", {"title": hits.hits[0].title}).value
        assert life == ["setup", "warmup"]
    assert article.title in ("moon", "tides")
    assert life == ["setup", "warmup", "shutdown"]


def test_nothing_is_set_up_before_it_is_needed(life: list[str]) -> None:
    with EndpointTester(class_endpoint.main):
        pass
    assert life == []


def test_an_unknown_title_says_what_to_do() -> None:
    with EndpointTester(class_endpoint.main) as tester:
        failure = tester.run("read", {"title": "dragons"}).failure
    assert failure is not None
    assert failure.message == "no article 'dragons': search for one"


def test_runs_on_the_command_line() -> None:
    command = [sys.executable, "-m", "gen_worker.cli", "run", "search", "moon", "limit=1"]
    answer = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    (hit,) = json.loads(answer.stdout)["value"]["hits"]
    assert hit["title"] == "moon"
