"""Streaming is tested in process, where a cancel can be placed exactly, and as a user runs it."""

import subprocess
import sys
from pathlib import Path

from gen_worker.testing import EndpointTester

import text_stream.main

PROJECT = Path(__file__).parents[1]


def test_the_same_seed_writes_the_same_text() -> None:
    with EndpointTester(text_stream.main) as tester:
        first = tester.run("write", {"words": 8, "seed": 1})
        second = tester.run("write", {"words": 8, "seed": 1})
        other = tester.run("write", {"words": 8, "seed": 2})
    assert first.deltas == second.deltas != other.deltas
    assert first.value == {"yielded": 8}


def test_words_are_clamped() -> None:
    with EndpointTester(text_stream.main) as tester:
        assert len(tester.run("write", {"words": 0}).deltas) == 1


def test_an_unknown_start_is_the_callers_mistake() -> None:
    with EndpointTester(text_stream.main) as tester:
        failure = tester.run("write", {"start": "xyzzy"}).failure
    assert failure is not None
    assert (failure.error_type, failure.path) == ("validation", "$.start")


def test_streams_on_the_command_line() -> None:
    command = [sys.executable, "-m", "gen_worker.cli", "run", "the", "words=3", "--raw"]
    answer = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False
    )
    lines = answer.stdout.splitlines()
    assert (answer.returncode, len(lines)) == (0, 4), answer.stderr
    assert lines[0] == '{"text":"the "}'
    assert lines[3] == '{"yielded":3}'
