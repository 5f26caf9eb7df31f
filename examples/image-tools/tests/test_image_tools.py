"""The images are real: made with Pillow, read and written by the endpoint, opened again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGBA", (64, 32), (200, 10, 20, 255)).save(path)
    return path


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    config = str(PROJECT / "endpoint.toml")
    command = [sys.executable, "-m", "gen_worker.cli", "run", "--config", config, *words]
    return subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_resizes_a_real_image(tmp_path: Path, picture: Path, format: str) -> None:
    answer = run(tmp_path, "resize", f"image@{picture}", "width=16", f"format={format}")
    assert answer.returncode == 0, answer.stderr
    value = json.loads(answer.stdout)["value"]
    with Image.open(tmp_path / value["image"]["local_path"]) as image:
        assert (image.format, image.size) == (format.upper(), (16, 8))
    assert (value["width"], value["height"]) == (16, 8)


def test_describes_a_real_image(tmp_path: Path, picture: Path) -> None:
    answer = run(tmp_path, "describe", f"image@{picture}")
    assert answer.returncode == 0, answer.stderr
    value = json.loads(answer.stdout)["value"]
    assert value == {"width": 64, "height": 32, "mode": "RGBA", "mean_rgb": [200, 10, 20]}


def test_a_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    answer = run(tmp_path, "describe", f"image@{tmp_path / 'a.png'}")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "image" in answer.stderr
