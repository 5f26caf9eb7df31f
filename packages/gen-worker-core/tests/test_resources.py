from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.resources import ResourceRequirements, Resources


def test_nothing_declared_serialises_to_nothing() -> None:
    assert Resources().to_dict() == {}
    assert not Resources().needs_gpu


def test_only_fields_that_differ_from_their_defaults_are_serialised() -> None:
    resources = Resources(
        requires_gpu=True,
        min_vram_gb=10,
        min_compute_capability="8.0",
        required_libraries=[" xformers ", "", "flash-attn"],
        vram_must_fit="full_model",
        vram_base=1024,
        vram_size_multiplier=2,
        vram_scales_with=["width", "images[0].size"],
        runtime_scales_with=("steps",),
        peak_vram_per_request_gb=1.5,
    )
    assert resources.to_dict() == {
        "accelerator": "cuda",
        "requires_gpu": True,
        "min_vram_gb": 10.0,
        "min_compute_capability": 8.0,
        "compute_capability": {"min": "8.0"},
        "required_libraries": ["xformers", "flash-attn"],
        "vram_must_fit": "full_model",
        "vram_base": 1024,
        "vram_size_multiplier": 2.0,
        "vram_scales_with": ["width", "images[0].size"],
        "runtime_scales_with": ["steps"],
        "peak_vram_per_request_gb": 1.5,
    }


def test_what_was_serialised_reads_back_as_the_same_value() -> None:
    resources = Resources(accelerator="CUDA", cuda_compute_min="8.9", runtime_scales_with=["steps"])
    assert msgspec.convert(resources.to_dict(), Resources) == resources


@pytest.mark.parametrize(
    ("given_", "accelerator", "requires_gpu", "needs_gpu"),
    [
        ({}, None, None, False),
        ({"accelerator": ""}, None, None, False),
        ({"accelerator": " CUDA "}, "cuda", True, True),
        ({"requires_gpu": True}, "cuda", True, True),
        ({"requires_gpu": False}, None, False, False),
        ({"accelerator": "none"}, "none", None, False),
        ({"accelerator": "none", "requires_gpu": False}, "none", False, False),
        ({"min_vram_gb": 4}, None, None, True),
        ({"min_compute_capability": 7}, None, None, True),
    ],
)
def test_which_declarations_need_a_gpu(
    given_: dict[str, Any], accelerator: str | None, requires_gpu: bool | None, needs_gpu: bool
) -> None:
    resources = Resources(**given_)
    assert (resources.accelerator, resources.requires_gpu) == (accelerator, requires_gpu)
    assert resources.needs_gpu is needs_gpu


@pytest.mark.parametrize(
    "name", ["min_compute_capability", "cuda_compute_min", "compute_capability_min"]
)
@pytest.mark.parametrize("value", [8, 8.0, "8", " 8.0 "])
def test_older_spellings_of_the_compute_capability_mean_the_same(name: str, value: Any) -> None:
    assert Resources(**{name: value}) == Resources(min_compute_capability=8.0)


def test_two_spellings_may_agree_but_not_differ() -> None:
    assert Resources(cuda_compute_min=8, min_compute_capability="8.0").compute_capability == {
        "min": "8.0"
    }
    with pytest.raises(ValueError, match=r"cuda_compute_min=9\.0 mean the same and differ"):
        Resources(cuda_compute_min=9, min_compute_capability=8)


@pytest.mark.parametrize(("wrong", "right"), [("gpu", "cuda"), ("cpu", "none"), ("GPU", "cuda")])
def test_accelerators_of_other_names_are_told_the_right_spelling(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"'{wrong}' is spelled '{right}'"):
        Resources(accelerator=wrong)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"accelerator": "tpu"}, "tpu"),
        ({"accelerator": 3}, "accelerator must be"),
        ({"requires_gpu": "yes"}, "requires_gpu must be True, False or None, not 'yes'"),
        ({"requires_gpu": 1}, "requires_gpu must be True, False or None, not 1"),
        ({"min_vram_gb": 0}, "min_vram_gb must be a number above 0, not 0"),
        ({"min_vram_gb": -1.5}, "min_vram_gb"),
        ({"min_vram_gb": "12"}, "min_vram_gb"),
        ({"min_vram_gb": True}, "min_vram_gb"),
        ({"min_vram_gb": float("nan")}, "min_vram_gb"),
        ({"min_compute_capability": float("inf")}, "min_compute_capability"),
        ({"min_compute_capability": "eight"}, "min_compute_capability"),
        ({"min_compute_capability": 0}, "min_compute_capability"),
        ({"peak_vram_per_request_gb": 0}, "peak_vram_per_request_gb"),
        ({"vram_base": -1}, "vram_base must be a whole number of bytes"),
        ({"vram_base": 1.5}, "vram_base"),
        ({"vram_size_multiplier": -0.1}, "vram_size_multiplier must be a number of at least 0"),
        ({"vram_must_fit": "half"}, "vram_must_fit must be 'full_model' or 'largest_component'"),
        ({"required_libraries": "torch"}, "required_libraries must be a tuple of strings"),
        ({"vram_scales_with": [1]}, "vram_scales_with"),
        ({"runtime_scales_with": 3}, "runtime_scales_with"),
    ],
)
def test_wrong_values_are_named(given_: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Resources(**given_)


def test_no_accelerator_contradicts_everything_a_gpu_is_needed_for() -> None:
    offenders = "requires_gpu, min_vram_gb, cuda_compute_min"
    with pytest.raises(ValueError, match=offenders):
        Resources(accelerator="none", requires_gpu=True, min_vram_gb=4, cuda_compute_min=8)


def test_all_mistakes_are_reported_at_once() -> None:
    mistakes = "accelerator.*min_vram_gb.*vram_base.*vram_must_fit"
    with pytest.raises(ValueError, match=mistakes):
        Resources(accelerator="gpu", min_vram_gb=0, vram_base=-1, vram_must_fit="x")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
            for name in Resources.__struct_fields__
        },
    )
)
def test_any_declaration_is_accepted_or_refused_as_value_error(values: dict[str, Any]) -> None:
    try:
        resources = Resources(**values)
    except ValueError:
        return
    assert msgspec.convert(resources.to_dict(), Resources) == resources


def test_older_requirements_serialise_only_what_was_set() -> None:
    assert ResourceRequirements().to_dict() == {}
    assert ResourceRequirements(
        batch_size_max=8,
        kind="image",
        compute_capability_min=8,
        requires_gpu=False,
        supported_precisions=["bf16", "fp16"],
    ).to_dict() == {
        "batch_size_max": 8,
        "kind": "image",
        "compute_capability": {"min": "8.0"},
        "requires_gpu": False,
        "supported_precisions": ["bf16", "fp16"],
    }


def test_runtime_hints_add_keys_and_never_override() -> None:
    hints = {"kind": "other", "compute_capability": {"min": "1.0"}, "shards": 2}
    requirements = ResourceRequirements(kind="image", compute_capability_min=8, runtime_hints=hints)
    assert requirements.to_dict() == {
        "kind": "image",
        "compute_capability": {"min": "8.0"},
        "shards": 2,
    }


@pytest.mark.parametrize("name", ["compute_capability_min", "min_vram_gb", "vram_multiplier"])
@pytest.mark.parametrize("value", [0, -1.0])
def test_older_requirements_refuse_numbers_that_are_not_positive(name: str, value: float) -> None:
    given_: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        ResourceRequirements(**given_)


@pytest.mark.parametrize("value", ["8", 1.5, True])
def test_older_requirements_refuse_counts_that_are_no_ints(value: Any) -> None:
    with pytest.raises(ValueError, match="prefetch_depth must be an int"):
        ResourceRequirements(prefetch_depth=value)


def test_both_dialects_answer_the_same_questions() -> None:
    older = ResourceRequirements(compute_capability_min=8, min_vram_gb=4)
    newer = Resources(min_compute_capability=8, min_vram_gb=4)
    for name in ("needs_gpu", "min_vram_gb", "min_compute_capability", "required_libraries"):
        assert getattr(older, name) == getattr(newer, name)
    assert ResourceRequirements(requires_gpu=True).accelerator == "cuda"
