"""The `_models` envelope: its grammar, its six refusals, all or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import OverrideError, ValidationError, classify
from gen_worker.models import (
    OVERRIDE_CODES,
    ModelChoice,
    ModelRef,
    ModelRefSource,
    Ref,
    Repo,
    RepoFacts,
    check_overrides,
    dispatch,
    parse_overrides,
)
from gen_worker.ports import drive
from gen_worker.spec import Binding, ModelParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST = f"blake3:{'0' * 64}"
SDXL = "diffusers.pipelines.sdxl.StableDiffusionXLPipeline"
BINDINGS: dict[str, Binding] = {
    "engine": Repo("main", "acme/painter").allow_override(SDXL),
    "broad": Repo("acme/painter").allow_override("diffusers.DiffusionPipeline"),
    "quality": dispatch("q", {"a": Repo("acme/painter")}).allow_override(SDXL),
    "fixed": Repo("acme/painter"),
    "asr": ModelRef(ModelRefSource.FIXED, "asr"),
}
PARAMETERS = {name: ModelParameter(name, binding) for name, binding in BINDINGS.items()}


def refusal_of(envelope: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        parse_overrides(envelope, PARAMETERS)
    return caught.value


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("me/mine", {"ref": "me/mine"}),
        ("Me/Mine:Dev#BF16", {"ref": "me/mine", "tag": "dev", "flavor": "bf16"}),
        (f"me/mine@{DIGEST}#x", {"ref": f"me/mine@{DIGEST}", "tag": "", "flavor": "x"}),
        ({"ref": "me/mine"}, {"ref": "me/mine"}),
        ({"ref": "me/mine", "tag": None, "flavor": ""}, {"ref": "me/mine"}),
        (
            {"ref": "me/mine", "tag": "dev", "flavor": "x"},
            {"ref": "me/mine", "tag": "dev", "flavor": "x"},
        ),
        ({"ref": "me/mine:dev#x", "tag": "dev"}, {"ref": "me/mine", "tag": "dev", "flavor": "x"}),
        ({"ref": "me/mine", "provider": "tensorhub"}, {"ref": "me/mine"}),
        (
            {"ref": "Me/Mine@v1", "provider": "hf", "tag": "prod"},
            {"ref": "Me/Mine", "provider": "hf", "revision": "v1"},
        ),
        (
            {"ref": "versions/7", "provider": "civitai"},
            {"ref": "versions/7", "provider": "civitai", "version_id": "7"},
        ),
    ],
)
def test_both_shapes(entry: Any, expected: dict[str, Any]) -> None:
    choice = parse_overrides({"engine": entry}, PARAMETERS)["engine"]
    defaults: dict[str, Any] = {"tag": "prod", "source": "override"}
    assert choice == ModelChoice(**defaults | expected)
    assert choice.is_callers


def test_nothing_given() -> None:
    assert parse_overrides(None, PARAMETERS) == parse_overrides({}, PARAMETERS) == {}


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "nope",
        "a/b/c",
        "hf:a/b",
        "a/b:",
        None,
        5,
        [],
        ["a/b"],
        {},
        {"tag": "dev"},
        {"ref": ""},
        {"ref": 5},
        {"ref": None},
        {"ref": "a/b", "tag": 5},
        {"ref": "a/b", "tag": "x y"},
        {"ref": "a/b:dev", "tag": "prod"},
        {"ref": "a/b", "flavour": "x"},
        {"ref": "a/b", "source": "default"},
        {"ref": "a/b", "loras": []},
        {"ref": "a/b", "provider": "ollama"},
        {"ref": "a/b", "provider": 5},
        {"ref": "a/b", "provider": "hf", "tag": "dev"},
        {"ref": "a/b", "provider": ["hf"]},
        {5: "a/b"},
    ],
)
def test_malformed_entry_is_a_validation_error_with_its_place(entry: Any) -> None:
    error = refusal_of({"engine": entry})
    assert error.path == "$._models.engine"
    assert str(error).startswith("_models['engine']: ")
    assert classify(error, origin="input").exit_code == 2


@pytest.mark.parametrize("envelope", ["acme/x", [], ["engine"], 5, True])
def test_envelope_must_be_an_object(envelope: Any) -> None:
    assert refusal_of(envelope).path == "$._models"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("motor", "unknown_override_param"),
        ("main", "unknown_override_param"),
        ("", "unknown_override_param"),
        ("fixed", "model_override_not_allowed"),
        ("asr", "model_override_not_allowed"),
    ],
)
def test_refusals_before_any_lookup(name: str, code: str) -> None:
    error = refusal_of({name: "me/mine"})
    assert isinstance(error, OverrideError)
    assert (error.code, error.param) == (code, name)
    assert f"_models[{name!r}]" in str(error)
    failure = classify(error, origin="input")
    assert (failure.error_type, failure.http_status, failure.code) == ("validation", 400, code)


def test_one_wrong_entry_refuses_all_and_every_wrong_entry_is_told() -> None:
    error = refusal_of({"engine": "me/mine", "motor": "me/mine", "broad": "nope"})
    assert isinstance(error, OverrideError)
    assert error.param == "motor"
    assert "_models['motor']" in str(error)
    assert "_models['broad']" in str(error)
    assert "_models['engine']" not in str(error)


class Hub:
    """A hub of two repositories that remembers what it was asked."""

    def __init__(self, pipeline_class: str = "StableDiffusionXLPipeline") -> None:
        self.asked: list[str] = []
        self.facts = RepoFacts(
            tags=frozenset({"prod", "dev"}),
            flavors=frozenset({"bf16"}),
            pipeline_class=pipeline_class,
        )

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        self.asked.append(str(ref))
        return self.facts if ref.repository.lower().startswith("me/mine") else None


def check(envelope: Mapping[str, Any], hub: Hub) -> None:
    drive(check_overrides(parse_overrides(envelope, PARAMETERS), PARAMETERS, hub))


@pytest.mark.parametrize(
    "envelope",
    [
        {"engine": "me/mine"},
        {"engine": "me/mine:dev#bf16", "quality": f"me/mine@{DIGEST}"},
        {"engine": {"ref": "Me/Mine@v9", "provider": "hf", "flavor": "any"}},
    ],
)
def test_what_the_hub_knows_is_accepted(envelope: dict[str, Any]) -> None:
    hub = Hub()
    check(envelope, hub)
    assert len(hub.asked) == len(envelope)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("me/other", "override_ref_not_found"),
        ("me/mine:v9", "override_tag_not_found"),
        ("me/mine:latest", "override_tag_not_found"),
        ("me/mine#int4", "override_flavor_not_found"),
        (f"me/mine@{DIGEST}#int4", "override_flavor_not_found"),
    ],
)
def test_refusals_after_the_lookup(entry: str, code: str) -> None:
    with pytest.raises(OverrideError) as caught:
        check({"engine": entry}, Hub())
    assert (caught.value.code, caught.value.param) == (code, "engine")


def test_every_code_is_documented_in_one_place() -> None:
    assert len(set(OVERRIDE_CODES)) == 6


@pytest.mark.parametrize(
    ("candidate", "is_allowed"),
    [
        ("StableDiffusionXLPipeline", True),
        ("diffusers.StableDiffusionXLPipeline", True),
        (SDXL, True),
        ("", True),
        ("FluxPipeline", False),
        ("diffusers.FluxPipeline", False),
        ("mine.StableDiffusionXLPipeline", False),
        ("StableDiffusionXLPipelineX", False),
    ],
)
def test_pipeline_class_must_be_one_the_author_named(candidate: str, is_allowed: bool) -> None:
    hub = Hub(candidate)
    if is_allowed:
        check({"engine": "me/mine"}, hub)
    else:
        with pytest.raises(OverrideError) as caught:
            check({"engine": "me/mine"}, hub)
        assert caught.value.code == "incompatible_pipeline_class"


@pytest.mark.parametrize(
    ("allowed", "is_broad"),
    [
        ("diffusers.DiffusionPipeline", True),
        ("transformers.models.auto.modeling_auto.AutoModel", True),
        ("PreTrainedModel", True),
        ("mine.AutoModel", False),
        ("diffusers.StableDiffusionXLPipeline", False),
    ],
)
def test_broad_loaders_restrict_nothing(allowed: str, is_broad: bool) -> None:
    parameters = {"p": ModelParameter("p", Repo("a/b").allow_override(allowed))}
    coroutine = check_overrides(
        parse_overrides({"p": "me/mine"}, parameters), parameters, Hub("some.Other")
    )
    if is_broad:
        drive(coroutine)
    else:
        with pytest.raises(OverrideError):
            drive(coroutine)


def test_all_entries_are_looked_up_and_all_refusals_told() -> None:
    with pytest.raises(OverrideError) as caught:
        check({"engine": "me/other", "broad": "me/mine", "quality": "me/mine:v9"}, Hub())
    assert caught.value.param == "engine"
    assert "_models['quality']" in str(caught.value)


def test_parsed_override_is_what_a_binding_takes() -> None:
    choice = parse_overrides({"engine": "me/mine:dev"}, PARAMETERS)["engine"]
    binding = PARAMETERS["engine"].binding
    chosen = binding.choose("engine", None, choice.to_dict())
    assert (chosen["ref"], chosen["tag"], chosen["slot_name"]) == ("me/mine", "dev", "main")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ref", "tag", "flavor", "provider", "engine"]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values | st.fixed_dictionaries({"engine": json_values}))
def test_any_envelope_is_read_or_refused(envelope: Any) -> None:
    try:
        choices = parse_overrides(envelope, PARAMETERS)
    except ValidationError:
        return
    for name, choice in choices.items():
        assert PARAMETERS[name].binding.choose(name, None, choice.to_dict())["ref"]
        assert ModelChoice.from_record(choice.to_dict()) == choice
