"""The images of one step in one file, laid out alike at every step."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.grids import Column, grid_of
from gen_worker.trainer.job_file import SampleRequest
from gen_worker.trainer.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path

Image = pytest.importorskip("PIL.Image")
_CTX = StepContext(TrainingJobSpec("run", 9))
_REQUESTS = (
    SampleRequest("a", "t2i", "a red cube"),
    SampleRequest("b", "t2i", "ein grüner Würfel, 立方体, of which there is much to say"),
)


def png(color: str, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def opened(content: bytes | None) -> Any:
    assert content is not None
    return Image.open(io.BytesIO(content)).convert("RGB")


def test_prompts_are_columns() -> None:
    columns = [Column("one", [png("red"), png("lime")]), Column("two", [png("blue")])]
    grid = opened(grid_of(columns))

    assert grid.size == (2 * 44 + 4, 16 + 2 * 34 + 4)
    places = [(20, 30), (20, 70), (60, 30), (60, 70)]
    assert [grid.getpixel(at) for at in places] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]
    labels = grid.crop((0, 0, grid.width, 16))
    assert labels.getextrema() != ((255, 255),) * 3


def test_large_images_are_made_smaller_and_others_left_out() -> None:
    grid = opened(grid_of([Column("", [png("red", (2048, 1024)), b"\x89PNG no image"])]))

    assert grid.size == (512 + 8, 16 + 2 * (256 + 4) + 4)
    assert grid_of([Column("one", [b"no image"]), Column("two", [])]) is None
    assert grid_of([]) is None


def test_a_step_of_images_has_a_grid(tmp_path: Path) -> None:
    samples = Samples(str(tmp_path), _REQUESTS, 3)

    def generate(*, prompt: str, seed: int) -> Any:
        assert seed == 3
        return Image.new("RGB", (16, 16), "red" if "red" in prompt else "lime")

    first = samples.write(100, {"generate_sample": generate}, _CTX)
    second = samples.write(200, {"generate_sample": generate}, _CTX)

    names = [path.removeprefix(f"{tmp_path}/") for path in first]
    assert names == [
        "step-00000100-00.json",
        "step-00000100-00.png",
        "step-00000100-01.json",
        "step-00000100-01.png",
        "step-00000100-grid.png",
    ]
    with open(first[-1], "rb") as one, open(second[-1], "rb") as other:
        assert one.read() == other.read()
    assert json.loads((tmp_path / names[0]).read_bytes())["files"] == ["step-00000100-00.png"]


@pytest.mark.parametrize("made", [{"text": "words"}, None, b"no image"])
def test_what_is_no_image_needs_no_grid(tmp_path: Path, made: Any) -> None:
    paths = Samples(str(tmp_path), _REQUESTS, None).write(
        1, {"generate_sample": lambda: made}, _CTX
    )

    assert not [path for path in paths if "grid" in path]
