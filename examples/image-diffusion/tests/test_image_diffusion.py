"""A real pipeline, published to a real hub and run by the real command; its weights are random."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageStat

if TYPE_CHECKING:
    from gen_worker.testing.shell import Shell

if find_spec("diffusers") is None:
    pytest.skip("diffusers is not installed", allow_module_level=True)

SMALL = ("steps=2", "height=64")


@pytest.fixture(scope="module")
def first(shell: Shell) -> dict[str, Any]:
    """What the first call answered, with nothing here; the hub is gone by now."""
    shell.python("-m", "image_diffusion.make_model", "tiny-sd")
    with shell.hub():
        shell.push("tiny-sd", "demo/tiny-sd")
        answer = shell.value("a red fox", "seed=1", "width=100", *SMALL)
    assert isinstance(answer, dict)
    return answer


def pixels(answer: dict[str, Any]) -> bytes:
    with Image.open(answer["image"]["local_path"]) as image:
        return image.tobytes()


def test_a_prompt_becomes_an_image(first: dict[str, Any]) -> None:
    with Image.open(first["image"]["local_path"]) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (96, 64))
        assert min(ImageStat.Stat(image).var) > 0
    assert (first["width"], first["height"]) == (96, 64)


def test_the_same_seed_paints_the_same_image_without_a_network(
    shell: Shell, first: dict[str, Any]
) -> None:
    answer = shell.run("a red fox", "seed=1", "width=100", *SMALL, "--offline")
    assert pixels(json.loads(answer.stdout)["value"]) == pixels(first)
    assert '"stage":"step 1 of 2"' in answer.stderr
    assert '"stage":"step 2 of 2"' in answer.stderr


def test_another_seed_paints_another_image(shell: Shell, first: dict[str, Any]) -> None:
    override = '_models:={"pipe":"demo/tiny-sd"}'
    answer = shell.value("a red fox", "seed=2", "width=100", "format=webp", *SMALL, override)
    with Image.open(answer["image"]["local_path"]) as image:
        assert (image.format, image.size) == ("WEBP", (96, 64))
    assert pixels(answer) != pixels(first)
