from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pytest

from gen_worker.constraints import AssetLimits
from gen_worker.errors import ValidationError
from gen_worker.file_values import FilePlan, file_plan
from gen_worker.ports import FileLimits
from gen_worker.types import Asset, AudioAsset, ImageAsset, LoraSpec, StoredFile, Tensors

T = TypeVar("T")


class Layer(msgspec.Struct):
    mask: ImageAsset | None = None
    opacity: float = 1.0


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Photos(Page[ImageAsset]):
    title: str = ""


class Framed(ImageAsset):
    frame: ImageAsset | None = None


@dataclass
class Plain:
    sound: AudioAsset


class Payload(msgspec.Struct):
    prompt: str = ""
    image: Annotated[
        ImageAsset | None, AssetLimits(max_bytes=10, allowed_mime_types=("image/png",), max_width=8)
    ] = None
    images: list[ImageAsset] = []
    layers: dict[str, Layer] = {}
    pair: tuple[int, Asset] | None = None
    lora: LoraSpec | None = None
    weights: Tensors | None = None
    photos: Photos | None = None
    framed: Framed | None = None
    plain: Plain | None = None
    data: dict[str, Any] = {}


class Chat(msgspec.Struct):
    prompt: str
    history: list[dict[str, str]] = []
    extra: dict[str, Any] = {}


def plan_of(annotation: Any, *, has_untyped: bool = False) -> FilePlan:
    plan = file_plan(annotation, has_untyped=has_untyped)
    assert plan is not None
    return plan


def full() -> Payload:
    return Payload(
        image=ImageAsset("0"),
        images=[ImageAsset("1"), ImageAsset("2")],
        layers={"a": Layer(mask=ImageAsset("3")), "b": Layer()},
        pair=(1, Asset("4")),
        lora=LoraSpec(Asset("5")),
        weights=Tensors("6"),
        photos=Photos([ImageAsset("7")]),
        framed=Framed("8", frame=ImageAsset("9")),
        plain=Plain(AudioAsset("10")),
    )


@pytest.mark.parametrize("annotation", [Chat, str, int, dict[str, Any], Any, None])
def test_a_type_without_files_has_no_plan(annotation: Any) -> None:
    assert file_plan(annotation) is None


@pytest.mark.parametrize("annotation", [Payload, Asset, list[Tensors], Page[Asset], Plain, Photos])
def test_a_type_with_files_has_one(annotation: Any) -> None:
    assert file_plan(annotation) is not None


def test_the_plan_of_a_type_is_made_once() -> None:
    assert file_plan(Payload) is file_plan(Payload)


def test_every_file_of_a_payload_is_found() -> None:
    found = plan_of(Payload).find(full())
    assert [item.file.ref for item in found] == [str(number) for number in range(11)]


def test_a_file_that_occurs_twice_is_found_once() -> None:
    image = ImageAsset("same")
    assert len(plan_of(Payload).find(Payload(image=image, images=[image, image]))) == 1


def test_limits_come_from_the_annotation_then_the_type_then_the_host() -> None:
    host = FileLimits(max_bytes=99, max_pixels=1000)
    limits = {item.file.ref: item.limits for item in plan_of(Payload).find(full(), host=host)}
    assert limits["0"] == FileLimits(
        max_bytes=10,
        mime_prefix="image/",
        allowed_mime_types=("image/png",),
        max_width=8,
        max_pixels=1000,
    )
    assert limits["1"] == FileLimits(max_bytes=99, mime_prefix="image/", max_pixels=1000)
    assert limits["4"].mime_prefix == ""
    assert limits["6"].mime_prefix == ""
    assert limits["10"].mime_prefix == "audio/"


def test_what_a_caller_must_not_choose_is_dropped_everywhere() -> None:
    hostile = {
        "ref": "r",
        "local_path": "/etc/passwd",
        "url_max_bytes": 10**12,
        "url_allowed_mime_types": ["text/html"],
        "url_max_width": 10**6,
        "url_max_height": 10**6,
        "url_max_pixels": 10**12,
        "owner": "kept",
        "download_token": "kept",
    }
    weights = {"ref": "w", "local_path": "/etc/passwd", "format": "safetensors"}
    raw = {
        "image": hostile,
        "images": [hostile],
        "layers": {"a": {"mask": hostile}},
        "pair": [1, hostile],
        "lora": {"file": hostile},
        "weights": weights,
        "photos": {"items": [hostile]},
        "framed": {**hostile, "frame": hostile},
        "plain": {"sound": hostile},
    }
    payload = msgspec.json.decode(msgspec.json.encode(raw), type=Payload)
    plan_of(Payload).sanitize(payload)
    encoded = msgspec.json.encode(payload)
    assert b"passwd" not in encoded
    for found in plan_of(Payload).find(payload):
        assert found.file.owner in ("kept", None)
        if isinstance(found.file, Asset):
            clean = type(found.file)("r", owner="kept", download_token="kept")
            expected = msgspec.structs.asdict(clean) | {"frame": getattr(found.file, "frame", None)}
            assert msgspec.structs.asdict(found.file).items() <= expected.items()
    assert payload.weights == Tensors("w", format="safetensors")


def test_other_files_take_the_place_of_those_found() -> None:
    payload = full()
    before = msgspec.json.encode(payload)
    plan = plan_of(Payload)
    fetched: dict[int, StoredFile] = {
        id(item.file): msgspec.structs.replace(item.file, local_path=f"/in/{item.file.ref}")
        for item in plan.find(payload)
    }
    result = plan.replace(payload, fetched)
    refs = {item.file.ref: item.file.local_path for item in plan.find(result)}
    assert refs == {str(number): f"/in/{number}" for number in range(11)}
    assert msgspec.json.encode(payload) == before, "the given payload is not changed"
    assert result.data is payload.data, "what holds no file is shared"


def test_replacing_nothing_returns_the_payload_itself() -> None:
    payload = full()
    assert plan_of(Payload).replace(payload, {}) is payload


class Output(msgspec.Struct):
    meta: dict[str, Any] = {}
    value: Any = None


def test_files_behind_any_are_found_on_request() -> None:
    output = Output(meta={"a": [Asset("1"), (Layer(ImageAsset("2")), 3)]}, value=Tensors("3"))
    plan = plan_of(Output, has_untyped=True)
    found = plan.find(output)
    assert [item.file.ref for item in found] == ["1", "2", "3"]
    assert found[1].limits.mime_prefix == "image/"
    result = plan.replace(output, {id(found[1].file): ImageAsset("new")})
    assert result.meta["a"][1][0].mask.ref == "new"
    assert output.meta["a"][1][0].mask.ref == "2"
    assert file_plan(Output) is None, "a decoded payload holds plain values there"


def test_plain_values_behind_any_stay_the_same_objects() -> None:
    output = Output(meta={"numbers": [1, 2.5, None, "x", b"y", {"k": (1, 2)}]})
    assert plan_of(Output, has_untyped=True).replace(output, {}) is output


class Misplaced(msgspec.Struct):
    prompt: Annotated[str, AssetLimits(max_bytes=1)]


@pytest.mark.parametrize("value", [object(), object, type, Exception("x"), iter([]), len, ...])
def test_a_value_of_no_interest_behind_any_is_left_alone(value: Any) -> None:
    plan = file_plan(Any, has_untyped=True)
    assert plan is not None
    assert plan.find([value]) == []


def test_limits_on_something_else_than_a_file_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Misplaced\.prompt: AssetLimits\(.*does not fit str"):
        file_plan(Misplaced)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"max_bytes": 0}, "max_bytes must be an int above 0, not 0"),
        ({"max_width": -1, "max_pixels": 1.5}, "max_width.*max_pixels"),
        ({"allowed_mime_types": "image/png"}, "allowed_mime_types must be a tuple"),
    ],
)
def test_wrong_limits_are_named(limits: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AssetLimits(**limits)


class Chain(msgspec.Struct):
    image: ImageAsset | None = None
    next: Chain | None = None


def test_a_value_that_is_nested_too_deeply_is_refused_rather_than_passed_on() -> None:
    deep = Chain(image=ImageAsset("x", local_path="/etc/passwd"))
    for _ in range(sys.getrecursionlimit()):
        deep = Chain(next=deep)
    plan = file_plan(Chain)
    assert plan is not None
    for look in (plan.sanitize, plan.find, lambda value: plan.replace(value, {})):
        with pytest.raises(ValidationError, match="nested too deeply"):
            look(deep)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    plan = file_plan(Any, has_untyped=True)
    assert plan is not None
    with pytest.raises(ValidationError, match="nested too deeply"):
        plan.find(loop)
