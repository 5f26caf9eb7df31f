from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from gen_worker.markers import (
    ExpectedOutput,
    NegativePrompt,
    PositivePrompt,
    PromptRole,
    StringEnum,
    expected_outputs_of,
    moderation_of,
)
from gen_worker.types import Asset, AudioAsset, ImageAsset, MediaAsset, Tensors, VideoAsset


class Style(StringEnum):
    OIL = "oil"
    INK = "ink"


class Scene(msgspec.Struct, rename="camel"):
    main_text: PositivePrompt
    back_drop: ImageAsset | None = None


class Ask(msgspec.Struct):
    prompt: PositivePrompt
    avoid: NegativePrompt | None = None
    hints: list[PositivePrompt] = []
    images: list[ImageAsset] = []
    extras: dict[str, MediaAsset] = {}
    voice: AudioAsset | None = None
    clip: VideoAsset | None = None
    document: Asset | None = None
    weights: Tensors | None = None
    scene: Scene | None = None
    count: int = 1
    size: dict[str, int] = {}
    free: Any = None
    ratio: str = "1:1"


def test_string_enums_are_their_own_text() -> None:
    assert str(Style.OIL) == "oil"
    assert msgspec.json.decode(b'"ink"', type=Style) is Style.INK
    assert msgspec.json.encode(Style.INK) == b'"ink"'


def test_prompts_and_media_are_listed_as_json_paths() -> None:
    moderation = moderation_of(Ask)
    assert moderation.problems == ()
    assert moderation.to_lock() == {
        "prompts": [
            {"field": "prompt", "role": "positive"},
            {"field": "avoid", "role": "negative"},
            {"field": "hints[]", "role": "positive"},
            {"field": "scene.mainText", "role": "positive"},
        ],
        "media": [
            {"field": "images[]", "kind": "image"},
            {"field": "extras.*", "kind": "media"},
            {"field": "voice", "kind": "audio"},
            {"field": "clip", "kind": "video"},
            {"field": "scene.backDrop", "kind": "image"},
        ],
    }


def test_empty_parts_are_left_out() -> None:
    class Bare(msgspec.Struct):
        seed: int = 0

    assert moderation_of(Bare).to_lock() == {}


class Wrong(msgspec.Struct):
    steps: Annotated[int, PromptRole("positive")]
    texts: Annotated[list[str], PromptRole("negative")]


def test_prompts_that_are_no_text_are_all_reported() -> None:
    problems = moderation_of(Wrong).problems
    assert [problem.partition(":")[0] for problem in problems] == ["steps", "texts"]
    assert "a prompt must be str, not int" in problems[0]


@pytest.mark.parametrize("role", ["neutral", "", "POSITIVE"])
def test_there_are_two_roles(role: Any) -> None:
    with pytest.raises(ValueError, match='must be "positive" or "negative"'):
        PromptRole(role)


class Outputs(msgspec.Struct):
    image: Annotated[ImageAsset, ExpectedOutput(width=512, height="input.size.h")]
    many: Annotated[list[ImageAsset], ExpectedOutput(count="input.count")]
    clip: Annotated[VideoAsset | None, ExpectedOutput(aspect_ratio="16:9")]
    archive: Annotated[Asset, ExpectedOutput(mime_type="application/zip")]
    weights: Annotated[Tensors, ExpectedOutput()]
    text: Annotated[str, ExpectedOutput(count=2)]
    drawing: Annotated[str, ExpectedOutput(media_type="image", aspect_ratio="input.ratio")]
    plain: ImageAsset


def test_announced_outputs_are_listed_with_what_was_given() -> None:
    outputs = expected_outputs_of(Outputs, Ask)
    assert outputs.problems == ()
    assert outputs.rows == (
        {"field": "image", "type": "image", "count": 1, "width": 512, "height": "input.size.h"},
        {"field": "many", "type": "image", "count": "input.count"},
        {"field": "clip", "type": "video", "count": 1, "aspect_ratio": "16:9"},
        {"field": "archive", "type": "file", "count": 1, "mime_type": "application/zip"},
        {"field": "weights", "type": "file", "count": 1},
        {"field": "text", "type": "other", "count": 2},
        {"field": "drawing", "type": "image", "count": 1, "aspect_ratio": "input.ratio"},
    )


def problems_of(marker: ExpectedOutput) -> tuple[str, ...]:
    class Output(msgspec.Struct):
        image: ImageAsset

    Output.__annotations__["image"] = Annotated[ImageAsset, marker]
    return expected_outputs_of(Output, Ask).problems


@pytest.mark.parametrize(
    "path",
    [
        "count",
        "scene.mainText",
        "scene.backDrop.ref",
        "images[].ref",
        "images[0].ref",
        "hints[0]",
        "size.any_key",
        "extras.any_key.ref",
        "free.whatever.below",
    ],
)
def test_input_paths_that_lead_somewhere_are_accepted(path: str) -> None:
    assert problems_of(ExpectedOutput(count=f"input.{path}")) == ()


@pytest.mark.parametrize(
    "path", ["", "absent", "scene.main_text", "scene.absent", "count.x", "images[].absent"]
)
def test_input_paths_that_lead_nowhere_are_reported(path: str) -> None:
    (problem,) = problems_of(ExpectedOutput(count=f"input.{path}"))
    assert "names no field of Ask" in problem


@pytest.mark.parametrize(
    ("marker", "count"),
    [
        (ExpectedOutput(count=0), 1),
        (ExpectedOutput(count="three"), 1),
        (ExpectedOutput(count=1.5), 1),  # type: ignore[arg-type]  # what the check is for
        (ExpectedOutput(count=True), 1),
        (ExpectedOutput(width=-1, height=0), 2),
        (ExpectedOutput(aspect_ratio="wide"), 1),
        (ExpectedOutput(aspect_ratio="0:1"), 1),
        (ExpectedOutput(aspect_ratio="1:2:3"), 1),
        (ExpectedOutput(aspect_ratio=0), 1),
        (ExpectedOutput(aspect_ratio=1.5), 0),
        (ExpectedOutput(mime_type="png"), 1),
        (ExpectedOutput(media_type="movie"), 1),  # type: ignore[arg-type]  # likewise
        (ExpectedOutput(count=0, width=0, mime_type="x", media_type="file"), 3),
    ],
)
def test_every_wrong_value_is_reported(marker: ExpectedOutput, count: int) -> None:
    problems = problems_of(marker)
    assert len(problems) == count
    assert all(problem.startswith("image: ") for problem in problems)


@pytest.mark.parametrize("leaf", [PositivePrompt, str])
def test_types_that_are_shared_many_ways_are_told_apart_by_what_they_hold(leaf: Any) -> None:
    record: Any = msgspec.defstruct("R0", [("a", leaf)])
    for depth in range(1, 31):
        record = msgspec.defstruct(f"R{depth}", [("a", record), ("b", record)])
    moderation = moderation_of(record)
    if leaf is str:
        assert moderation == ((), (), ())
    else:
        (problem,) = moderation.problems
        assert problem.startswith("R30 has more than 1000 paths to prompts")
