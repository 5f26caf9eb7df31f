"""Every image has a row with its caption, in one of two splits; a missing caption is named."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from gen_worker.events import Failed, Result
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from pathlib import Path

parquet: Any = pytest.importorskip("pyarrow.parquet")

from dataset_captions.main import captions


def run(source: Path, folder: Path, **payload: Any) -> Any:
    """Run the function as `gen-worker run` does; return how it ended."""
    ports = local_ports(events=JsonLineEvents(io.StringIO()), output_dir=str(folder))
    payload = {"folder": str(source), "destination": {"ref": "demo/captions"}, **payload}
    call = Invocation(function="captions", payload=payload, request_id="r", job_id="j")
    return Engine(specs_of(captions), ports).run(call)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
        (folder / f"{number:02}.txt").write_text(f"cat number {number}\n")
    return folder


def test_every_image_has_a_row(images: Path, tmp_path: Path) -> None:
    answer = run(images, tmp_path / "out", trigger="ohwx")

    assert isinstance(answer, Result), answer
    [info] = (tmp_path / "out").rglob("dataset_info.json")
    assert json.loads(info.read_text())["features"].keys() == {"image", "caption", "file_name"}
    rows = {
        split: [
            row
            for path in sorted((tmp_path / "out").rglob(f"{split}-*.parquet"))
            for row in parquet.read_table(path).to_pylist()
        ]
        for split in ("train", "eval")
    }
    assert [row["file_name"] for row in rows["eval"]] == ["00.png", "10.png"]
    assert len(rows["train"]) == 10
    first = rows["eval"][0]
    assert first["caption"] == "ohwx, cat number 0"
    assert first["image"]["bytes"] == (images / "00.png").read_bytes()


def test_the_same_images_give_the_same_bytes(images: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        run(images, tmp_path / name)
        paths = sorted((tmp_path / name).rglob("*.parquet"))
        made.append([path.read_bytes() for path in paths])
    assert made[0] == made[1]
    assert made[0]


def test_an_image_without_a_caption_is_named(images: Path, tmp_path: Path) -> None:
    (images / "03.txt").unlink()

    answer = run(images, tmp_path / "out")

    assert isinstance(answer, Failed)
    assert "03.png" in str(answer)
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = run(tmp_path / "none", tmp_path / "out")

    assert isinstance(answer, Failed)
    assert answer.failure.error_type == "validation"
    assert "has no images" in answer.failure.message
