"""`dispatch`: the payload's field picks the model, and the table fits the field."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union

import msgspec
import pytest

from gen_worker.errors import OverrideError, ValidationError
from gen_worker.models import BindingError, CivitaiRepo, Dispatch, HFRepo, Repo, dispatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.spec import Binding

DRAFT = Repo("main", "acme/painter").flavor("int8")
FINAL = HFRepo("Owner/Painter").dtype("bf16")
TABLE: dict[Any, Repo] = {"draft": DRAFT, "final": FINAL}


class Quality(enum.Enum):
    DRAFT = "draft"
    FINAL = "final"


class Level(enum.IntEnum):
    LOW = 1


Alias = Literal["draft", "final"]


def payload_with(annotation: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Ask", [("quality", annotation)])


@pytest.mark.parametrize(
    "annotation",
    [
        Literal["draft", "final"],
        Optional[Literal["draft", "final"]],  # noqa: UP045
        Literal["draft", "final"] | None,
        Union[Literal["draft"], Literal["final"]],  # noqa: UP007
        Literal["draft", "final", None],
        Annotated[Literal["draft", "final"], "described"],
        Annotated[Alias | None, "described"],
        Quality,
        Quality | None,
        Literal[Quality.DRAFT] | Literal["final"],
    ],
)
def test_fields_that_are_a_choice_of_names(annotation: Any) -> None:
    dispatch("quality", TABLE).check("engine", payload_with(annotation))


@pytest.mark.parametrize(
    "annotation", [str, int, bool, Literal[1, 2], Level, Alias | str, list[Alias]]
)
def test_fields_that_are_not(annotation: Any) -> None:
    with pytest.raises(BindingError, match="not a choice of names") as caught:
        dispatch("quality", TABLE).check("engine", payload_with(annotation))
    assert caught.value.code == "dispatch_field_type"


@pytest.mark.parametrize("payload", [payload_with(Alias), None, dict, int])
def test_field_must_exist(payload: type | None) -> None:
    with pytest.raises(BindingError) as caught:
        dispatch("speed", TABLE).check("engine", payload)
    assert caught.value.code == "model_field_unknown"


def test_every_mistake_of_a_table_is_told_at_once() -> None:
    payload = payload_with(Literal["draft", "final", "proof"])
    table = {"draft": DRAFT, "fast": DRAFT, "slow": FINAL}
    with pytest.raises(BindingError) as caught:
        dispatch("quality", table).check("engine", payload)
    assert caught.value.code == "dispatch_table"
    for part in ("'fast'", "'slow'", "'final', 'proof'", "default="):
        assert part in str(caught.value)


def test_default_key_completes_a_table() -> None:
    chooser = dispatch("quality", {"draft": DRAFT}, default="draft")
    chooser.check("engine", payload_with(Quality | None))
    assert chooser.pick({"quality": Quality.FINAL}) == "draft"
    assert chooser.pick({"quality": None}) == "draft"


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda: dispatch("", TABLE), "no_field"),
        (lambda: dispatch("  ", TABLE), "no_field"),
        (lambda: dispatch("quality", {}), "no_table"),
        (lambda: dispatch("quality", {" ": DRAFT}), "no_key"),
        (lambda: dispatch("quality", {"a": DRAFT, " a ": DRAFT}), "given_twice"),
        (lambda: dispatch("quality", {"draft": DRAFT, Quality.DRAFT: DRAFT}), "given_twice"),
        (lambda: dispatch("quality", TABLE, default="proof"), "unknown_default"),
    ],
)
def test_mistakes_of_the_call_are_value_errors(build: Callable[[], Any], code: str) -> None:
    with pytest.raises(BindingError) as caught:
        build()
    assert caught.value.code == code


@pytest.mark.parametrize(
    "build",
    [
        lambda: dispatch("quality", {"draft": "acme/painter"}),  # type: ignore[dict-item]
        lambda: dispatch("quality", {"draft": dispatch("x", TABLE)}),  # type: ignore[dict-item]
        lambda: dispatch("quality", {1: DRAFT}),
        lambda: dispatch("quality", {Level.LOW: DRAFT}),
        lambda: dispatch("quality", [DRAFT]),  # type: ignore[arg-type]
        lambda: dispatch(5, TABLE),  # type: ignore[arg-type]
    ],
)
def test_wrong_types_are_type_errors(build: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        build()


def test_shape() -> None:
    chooser = Dispatch(field=" quality ", table={" draft ": DRAFT, Quality.FINAL: FINAL})
    assert chooser == dispatch("quality", TABLE)
    assert chooser.field == "quality"
    assert dict(chooser.table) == TABLE
    assert (chooser.slot_name, chooser.default) == ("main", None)
    assert repr(dispatch("q", {"a": Repo("a/b")}, default="a")) == (
        "dispatch('q', {'a': Repo(ref='a/b', tag='prod')}, default='a')"
    )
    assert chooser.is_per_call
    assert chooser.dialect == "binding"
    with pytest.raises(TypeError):
        chooser.table["proof"] = DRAFT  # type: ignore[index]


@pytest.mark.parametrize(
    ("value", "key"), [("draft", "draft"), (" final ", "final"), (Quality.FINAL, "final")]
)
def test_payload_picks(value: Any, key: str) -> None:
    chooser = dispatch("quality", TABLE)
    payload = payload_with(Any)(value)
    assert chooser.pick(payload) == chooser.pick({"quality": value}) == key
    choice = chooser.choose("engine", payload, None)
    assert choice["key"] == key
    assert choice["slot_name"] == "main"
    assert (choice["ref"], choice["provider"]) == (TABLE[key].ref, TABLE[key].provider)


@pytest.mark.parametrize("value", ["proof", None, 5, "", ["draft"]])
def test_unknown_value_is_the_callers_mistake(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"'draft', 'final'") as caught:
        dispatch("quality", TABLE).choose("engine", {"quality": value}, None)
    assert caught.value.path == "$.quality"


def test_only_the_dispatchs_own_permission_counts() -> None:
    entry = DRAFT.allow_override("x.Y")
    closed = dispatch("quality", {"draft": entry})
    with pytest.raises(OverrideError):
        closed.choose("engine", {"quality": "draft"}, {"ref": "me/mine"})
    open_ = dispatch("quality", {"draft": DRAFT}).allow_override("x.Y")
    # The override decides, so the payload's value does not matter any more.
    choice = open_.choose("engine", {"quality": None}, {"ref": "me/mine"})
    assert choice == {
        "ref": "me/mine",
        "tag": "prod",
        "flavor": "",
        "provider": "tensorhub",
        "slot_name": "main",
        "source": "override",
    }


def test_lock_table() -> None:
    binding: Binding = dispatch("quality", TABLE).allow_lora()
    assert binding.to_lock("engine", Any) == {
        "kind": "dispatch",
        "field": "quality",
        "slot_name": "main",
        "allow_override": False,
        "allow_lora": True,
        "pipeline_classes": [],
        "table": {
            "draft": {
                "ref": "acme/painter",
                "tag": "prod",
                "provider": "tensorhub",
                "slot_name": "main",
                "flavor": "int8",
            },
            "final": {
                "ref": "Owner/Painter",
                "tag": "prod",
                "provider": "hf",
                "slot_name": "main",
                "dtype": "bf16",
            },
        },
    }


def test_lock_uses_the_parameter_where_no_slot_is_named() -> None:
    table = dispatch("size", {"s": CivitaiRepo("1")}, default="s").to_lock("engine", Any)
    assert table["slot_name"] == table["table"]["s"]["slot_name"] == "engine"
    assert table["default"] == "s"


def test_describe() -> None:
    described = dispatch("quality", TABLE, default="draft").describe()
    assert described == {
        "type": "Dispatch",
        "field": "quality",
        "default": "draft",
        "slot_name": "main",
        "allow_override": False,
        "allow_lora": False,
        "pipeline_classes": [],
        "table": {"draft": DRAFT.describe(), "final": FINAL.describe()},
    }
