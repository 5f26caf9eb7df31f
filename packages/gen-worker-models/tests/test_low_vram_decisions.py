"""What the ladder decides from numbers: modes, the next step, what stays on the GPU."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.low_vram.ladder import (
    LADDER,
    OFFLOADED,
    Facts,
    Ladder,
    auto_mode,
    disk_directory,
    preflight_mode,
    steps_after,
)
from gen_worker.models.low_vram.prefix import Component, Placing, plan_prefix
from gen_worker.models.settings import load_model_settings

DEFAULT = Ladder()


@pytest.mark.parametrize(
    ("total", "size", "mode"),
    [
        (0, 3, "off"),  # no GPU
        (5.9, 1, "group_offload"),
        (6, 1, "vae_only"),  # thresholds mean "below"
        (7.9, 0, "model_offload"),  # unknown size
        (7.9, 5, "vae_only"),
        (8, 0, "vae_only"),
        (9.9, 7, "vae_only"),
        (10, 8, "off"),
        (10, 8.1, "model_offload"),
        (24, 0, "vae_only"),
        (24, 22, "off"),
        (24, 23, "model_offload"),
    ],
)
def test_auto(total: float, size: float, mode: str) -> None:
    assert auto_mode(Facts(total_gb=total, size_gb=size), DEFAULT) == mode


def test_the_declared_peak_counts_where_it_is_larger() -> None:
    assert auto_mode(Facts(total_gb=24, size_gb=5, peak_gb=23), DEFAULT) == "model_offload"


ENVIRONMENT: list[tuple[str, str, Facts, str]] = [
    ("COZY_INFERENCE_VRAM_SAFETY_MARGIN_GB", "4", Facts(total_gb=24, size_gb=21), "model_offload"),
    ("COZY_INFERENCE_VRAM_SAFETY_MARGIN_GB", "0", Facts(total_gb=24, size_gb=24), "off"),
    ("COZY_INFERENCE_VAE_SLICE_VRAM_GB", "25", Facts(total_gb=24, size_gb=5), "vae_only"),
    ("COZY_INFERENCE_MODEL_OFFLOAD_VRAM_GB", "25", Facts(total_gb=24), "model_offload"),
    ("COZY_INFERENCE_GROUP_OFFLOAD_VRAM_GB", "25", Facts(total_gb=24, size_gb=5), "group_offload"),
]


@pytest.mark.claims(
    "COZY_INFERENCE_VRAM_SAFETY_MARGIN_GB",
    "COZY_INFERENCE_VAE_SLICE_VRAM_GB",
    "COZY_INFERENCE_MODEL_OFFLOAD_VRAM_GB",
    "COZY_INFERENCE_GROUP_OFFLOAD_VRAM_GB",
)
@pytest.mark.parametrize(("name", "value", "facts", "mode"), ENVIRONMENT)
def test_each_threshold_of_the_environment_has_an_effect(
    name: str, value: str, facts: Facts, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = auto_mode(facts, Ladder.of(load_model_settings()))
    monkeypatch.setenv(name, value)
    assert auto_mode(facts, Ladder.of(load_model_settings())) == mode != before


def test_the_defaults_are_those_of_the_settings() -> None:
    assert Ladder.of(load_model_settings()) == DEFAULT


@pytest.mark.parametrize(
    ("facts", "mode"),
    [
        (Facts(size_gb=50), None),  # no GPU
        (Facts(total_gb=24, free_gb=20, size_gb=18), None),
        (Facts(total_gb=24, free_gb=20, size_gb=18.1), "model_offload"),
        (Facts(total_gb=24, free_gb=20, size_gb=5, peak_gb=19), "model_offload"),
        (Facts(total_gb=5, free_gb=5, size_gb=4), "group_offload"),
        (Facts(total_gb=24, free_gb=3, size_gb=18, placed_gb=17.5), None),
        (Facts(total_gb=24, free_gb=20), None),
    ],
)
def test_preflight(facts: Facts, mode: str | None) -> None:
    assert preflight_mode(facts, DEFAULT) == mode


def test_a_forced_mode_is_taken_whatever_the_sizes() -> None:
    fits = Facts(total_gb=24, free_gb=20, size_gb=1)
    large = Facts(total_gb=24, free_gb=20, size_gb=90)
    assert preflight_mode(fits, Ladder(mode="sequential")) == "sequential"
    assert preflight_mode(large, Ladder(mode="off")) is None
    assert preflight_mode(large, Ladder(mode="vae_only")) is None


def test_eight_bits_come_before_offload_where_they_are_allowed_and_suffice() -> None:
    facts = Facts(total_gb=24, free_gb=20, size_gb=24, cast_saves_gb=8)
    assert preflight_mode(facts, Ladder(may_cast=True)) == "fp8_layerwise"
    assert preflight_mode(facts, Ladder()) == "model_offload"
    too_large = Facts(total_gb=24, free_gb=20, size_gb=90, cast_saves_gb=8)
    assert preflight_mode(too_large, Ladder(may_cast=True)) == "model_offload"


@pytest.mark.claims("GEN_WORKER_FP8_LAYERWISE")
def test_eight_bits_are_allowed_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Ladder.of(load_model_settings()).may_cast
    monkeypatch.setenv("GEN_WORKER_FP8_LAYERWISE", "1")
    assert Ladder.of(load_model_settings()).may_cast


def test_the_steps() -> None:
    assert [step.mode for step in LADDER] == [
        "off",
        "vae_only",
        "fp8_layerwise",
        "model_offload",
        "group_offload",
        "sequential",
    ]
    assert {"model_offload", "group_offload", "sequential"} == OFFLOADED
    assert steps_after("vae_only") == ("model_offload", "group_offload", "sequential")
    assert steps_after("vae_only", may_cast=True)[0] == "fp8_layerwise"
    assert steps_after("sequential") == ()
    assert steps_after("") == steps_after("nonsense") == steps_after("off")
    assert steps_after("off")[0] == "vae_only"


@pytest.mark.claims(
    "COZY_INFERENCE_AUTO_DISK_OFFLOAD",
    "COZY_INFERENCE_DISK_OFFLOAD_RAM_GB",
    "COZY_OFFLOAD_DIR",
)
@pytest.mark.parametrize(
    ("ram", "environment", "directory"),
    [
        (8, {}, "/tmp/cozy-offload"),
        (16, {}, None),
        (0, {}, None),  # unknown
        (8, {"COZY_INFERENCE_AUTO_DISK_OFFLOAD": "0"}, None),
        (8, {"COZY_INFERENCE_AUTO_DISK_OFFLOAD": "off"}, None),
        (8, {"COZY_INFERENCE_DISK_OFFLOAD_RAM_GB": "4"}, None),
        (8, {"COZY_OFFLOAD_DIR": "/data/off"}, "/data/off"),
    ],
)
def test_disk_offload(
    ram: float,
    environment: dict[str, str],
    directory: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    facts = Facts(ram_gb=ram)
    assert disk_directory(facts, Ladder.of(load_model_settings())) == directory


def denoiser(*blocks: int, rest: int = 2, **options: Any) -> Component:
    size = sum(blocks) + rest
    return Component("transformer", size, blocks, 1, is_denoiser=True, **options)


def test_the_first_blocks_stay_as_many_as_fit_beside_two_in_flight() -> None:
    (placing,) = plan_prefix([denoiser(*[10] * 10)], budget=56)
    # 2 for leaves, 2 for the rest, 20 in flight: 32 are left.
    assert placing == Placing("transformer", "blocks", 3)


def test_what_fits_whole_stays_whole_and_the_small_others_follow() -> None:
    parts = [
        denoiser(10, 10),
        Component("text_encoder", 30, largest_leaf=5),
        Component("vae", 4, largest_leaf=1),
    ]
    assert plan_prefix(parts, budget=40) == (
        Placing("transformer", "resident"),
        Placing("text_encoder", "leaves"),
        Placing("vae", "resident"),
    )


def test_without_room_for_blocks_leaves_are_streamed() -> None:
    assert plan_prefix([denoiser(*[10] * 4)], budget=23) == (Placing("transformer", "leaves"),)
    assert plan_prefix([denoiser(*[10] * 4)], budget=0) == (Placing("transformer", "leaves"),)


def test_a_large_last_block_is_known_before_it_comes() -> None:
    (placing,) = plan_prefix([denoiser(1, 1, 1, 20)], budget=40)
    assert placing.how == "resident" or placing.how == "leaves"


def test_what_cannot_be_streamed_stays_and_takes_its_share() -> None:
    parts = [Component("vae", 30, can_stream=False), denoiser(*[10] * 4)]
    assert plan_prefix(parts, budget=50)[0] == Placing("vae", "resident")
    assert plan_prefix(parts, budget=50)[1] == Placing("transformer", "leaves")


components = st.builds(
    lambda name, blocks, rest, leaf, streams, denoises: Component(
        f"c{name}", sum(blocks) + rest, tuple(blocks), leaf, streams, denoises
    ),
    st.integers(0, 99),
    st.lists(st.integers(1, 20), max_size=8),
    st.integers(0, 20),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(components, max_size=5, unique_by=lambda x: x.name), st.integers(-10, 200))
def test_the_budget_is_kept_by_everything_that_has_a_choice(
    parts: list[Component], budget: int
) -> None:
    placings = {placing.name: placing for placing in plan_prefix(parts, budget)}
    assert set(placings) == {part.name for part in parts}
    spent = 0
    for part in parts:
        placing = placings[part.name]
        if not part.can_stream:
            assert placing.how == "resident"
            continue
        if placing.how == "resident":
            spent += part.size
        elif placing.how == "blocks":
            assert part.is_denoiser
            count = placing.resident_blocks
            streamed = part.blocks[count:]
            spent += part.size - sum(streamed) + 2 * max(streamed)
    fixed = sum(part.size for part in parts if not part.can_stream)
    assert spent == 0 or spent <= budget - fixed


@given(components.filter(lambda x: x.can_stream and x.is_denoiser), st.integers(0, 200))
def test_more_budget_never_keeps_fewer_blocks(part: Component, budget: int) -> None:
    order = {"leaves": -1, "resident": 99}

    def kept(size: int) -> int:
        (placing,) = plan_prefix([part], size)
        return order.get(placing.how, placing.resident_blocks)

    assert kept(budget) <= kept(budget + 5)
