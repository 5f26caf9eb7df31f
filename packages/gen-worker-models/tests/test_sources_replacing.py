"""A new file takes its place at once; where a disk has no links, a copy stands in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gen_worker.models.sources.replacing import link, replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def _refuse(*_: object) -> None:
    raise PermissionError("this disk has none")


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [((), "symlink"), (("symlink",), "hard link"), (("symlink", "link"), "copy")],
)
def test_another_name_is_the_cheapest_that_the_disk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: Sequence[str], expected: str
) -> None:
    for name in lacks:
        monkeypatch.setattr(os, name, _refuse)
    blob, place = tmp_path / "blob", tmp_path / "below" / "name"
    blob.write_bytes(b"weights")
    place.parent.mkdir()
    place.write_bytes(b"what was there before")
    link(str(place), str(blob))
    kinds = {"symlink": place.is_symlink(), "hard link": blob.stat().st_nlink == 2}
    assert [kind for kind, holds in kinds.items() if holds] == [expected][: expected != "copy"]
    assert place.read_bytes() == b"weights"
    assert os.listdir(place.parent) == ["name"]


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "name"
    place.write_bytes(b"old")
    with pytest.raises(TypeError), replacing(str(place)) as draft, open(draft, "xb") as file:
        file.writelines([b"half", None])  # type: ignore[list-item]
    assert place.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["name"]
