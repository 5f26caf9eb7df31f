"""Processes of one run meet, agree, and end together, whichever way one of them ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_worker.trainer.distributed.launch import launch

pytest.importorskip("torch")

pytestmark = pytest.mark.one_python

_SCENES = Path(__file__).with_name("rank_scenes.py")


def play(scene: str, directory: Path, *, code: int = 0) -> list[dict[str, Any]]:
    """Have two processes do something; return what each says, nothing for one that was killed."""
    argv = [sys.executable, str(_SCENES), scene, str(directory)]
    assert launch(argv, 2, grace_s=300) == code  # whoever hangs is killed, and says nothing
    paths = [directory / f"{rank}.json" for rank in range(2)]
    return [json.loads(path.read_text()) if path.exists() else {} for path in paths]


def test_they_agree(tmp_path: Path) -> None:
    said = play("agrees", tmp_path)

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


@pytest.mark.parametrize("scene", ["fails", "fails_first", "fails_together"])
def test_one_that_fails_is_named_by_the_other(tmp_path: Path, scene: str) -> None:
    by = 1 if scene == "fails" else 0

    said = play(scene, tmp_path, code=1)

    kind, text = said[by]["error"]
    assert kind == ("ValueError" if scene == "fails" else "ZeroDivisionError")
    assert said[1 - by]["error"] == [
        "OtherProcessError",
        f"process {by} of 2 has failed: {kind}: {text}",
    ]


@pytest.mark.parametrize("scene", ["dies", "dies_first"])
def test_one_that_is_killed_ends_the_other(tmp_path: Path, scene: str) -> None:
    said = play(scene, tmp_path, code=1 if scene == "dies" else 137)

    kind, text = said[1 if scene == "dies_first" else 0]["error"]
    assert kind == "OtherProcessError"
    assert "has ended" in text
