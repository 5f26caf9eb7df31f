"""Processes of one run meet, agree, and end together, whichever way one of them ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.one_python

_SCENES = Path(__file__).with_name("rank_scenes.py")


_NAMES = (
    "agrees",
    "evaluates",
    "fails",
    "fails_first",
    "fails_together",
    "fails_amid",
    "fails_first_amid",
    "fails_at_length",
    "dies",
    "dies_first",
    "dies_meeting",
)

Play = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Have two processes play every scene; return what gives what each has said."""
    directory = tmp_path_factory.mktemp("scenes")
    argv = [sys.executable, str(_SCENES), str(directory), *_NAMES]
    subprocess.run(argv, check=True, timeout=300)

    def play(scene: str, *codes: int) -> list[dict[str, Any]]:
        """Return what each says, nothing for one that was killed."""
        ended = json.loads((directory / scene / "codes.json").read_text())
        assert ended == list(codes or (0, 0))
        paths = [directory / scene / f"{name}.json" for name in (0, 1, "alone")]
        said = [json.loads(path.read_text()) if path.exists() else {} for path in paths]
        return said if said[2] else said[:2]

    return play


def test_they_agree(play: Play) -> None:
    said = play("agrees")

    assert [one.pop("place") for one in said] == [[0, 2, 0, True], [1, 2, 1, False]]
    assert [one.pop("together") for one in said] == [0, 1]
    one, two = (one.pop("drawn") for one in said)
    assert one[0] == one[1]
    assert two[0] == two[1]
    assert not set(one[0]) & set(two[0])
    assert said[0] == said[1]
    assert said[0] == {
        "any": [False, True, False],
        "told": [[0, 0], [0, 1], [0, 2]],
        "long": 1_000_000,
        "while": [number == 7 for number in range(10)],
        "beside": [True, 5],
        "first": {"by": 0},
    }


def test_an_evaluation_is_shared_and_says_what_one_process_would_say(play: Play) -> None:
    """Whether or not there are as many batches for each."""
    first, second, alone = play("evaluates")

    assert first["metrics"] == second["metrics"], "to the last bit"
    for count, (shared, whole) in enumerate(zip(first["metrics"], alone["metrics"], strict=True)):
        assert shared == pytest.approx(whole, rel=1e-12)
        assert set(whole) >= ({"eval/loss", "eval/perplexity", "eval/tokens"} if count else set())
    for one, two, every in zip(first["seen"], second["seen"], alone["seen"], strict=True):
        assert len(one) == len(two) == -(-len(every) // 2), "each does as much"
        assert one == every[::2]
        assert two[: len(every) // 2] == every[1::2]


@pytest.mark.parametrize("scene", ["fails", "fails_first", "fails_together"])
def test_one_that_fails_is_named_by_the_other(play: Play, scene: str) -> None:
    by = 1 if scene == "fails" else 0

    said = play(scene, 1, 1)

    kind, text = said[by]["error"]
    assert kind == ("ValueError" if scene == "fails" else "ZeroDivisionError")
    assert said[1 - by]["error"] == [
        "OtherProcessError",
        f"process {by} of 2 has failed: {kind}: {text}",
    ]


@pytest.mark.parametrize(("scene", "by"), [("fails_amid", 1), ("fails_first_amid", 0)])
def test_one_that_fails_while_the_other_is_amid_it_ends_both(
    play: Play, scene: str, by: int
) -> None:
    """As when each has a part of the model, and one's disk is full: nobody waits for a timeout."""
    said = play(scene, 1, 1)

    assert said[by]["error"] == ["OSError", "the disk is full"]
    assert said[1 - by]["error"] == [
        "OtherProcessError",
        f"process {by} of 2 has failed: OSError: the disk is full",
    ]


def test_a_failure_is_known_before_the_process_has_ended(play: Play) -> None:
    said = play("fails_at_length", 1, 1)

    assert said[0]["error"][1].startswith("process 1 of 2 has failed: ZeroDivisionError")


@pytest.mark.parametrize("scene", ["dies", "dies_first", "dies_meeting"])
def test_one_that_is_killed_ends_the_other(play: Play, scene: str) -> None:
    killed = -signal.SIGKILL
    said = play(scene, *((1, killed) if scene == "dies" else (killed, 1)))

    kind, text = said[0 if scene == "dies" else 1]["error"]
    assert kind == "OtherProcessError"
    assert "has ended" in text
