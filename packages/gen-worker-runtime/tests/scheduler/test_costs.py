"""What a call is expected to cost: declared by its author, and learned from calls before it."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler.costs import Costs, GpuClass, LearnedCost, ModelSize
from gen_worker.runtime.scheduler.estimates import Estimate, Learned
from gen_worker.runtime.scheduler.load_times import LearnedLoad, LoadTimes
from gen_worker.runtime.worker.observing import factors_of

GIB = 1024**3
IMAGES = Resources(
    accelerator="cuda",
    vram_base=2 * GIB,
    vram_size_multiplier=1.5,
    vram_must_fit="largest_component",
    vram_scales_with=("pixels",),
    runtime_scales_with=("steps", "pixels"),
)
SIZE = ModelSize(full_model=10 * GIB, largest_component=6 * GIB)
DECLARED = 11 * GIB

any_number = st.floats() | st.floats(min_value=0, max_value=1e6)


def learned_images(count: int = 200, noise: float = 0.1) -> Costs:
    """Images: half a second, 0.05 s a step and 2 s a megapixel; 3 GiB a megapixel."""
    costs, dice = Costs(), random.Random(7)
    for _ in range(count):
        steps, pixels = dice.randint(4, 60), dice.choice((262_144, 1_048_576, 2_359_296))
        error = dice.uniform(1 - noise, 1 + noise)
        costs.observe(
            "paint",
            "A",
            IMAGES,
            run_s=(0.5 + 0.05 * steps + 2e-6 * pixels) * error,
            peak_vram_bytes=round(DECLARED + 3 * GIB * pixels / 1e6 * error),
            size=SIZE,
            factors={"steps": steps, "pixels": pixels},
        )
    return costs


# -- declared --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(), 0),
        (Resources(vram_base=5), 5),
        (Resources(vram_base=5, vram_size_multiplier=2.0), 5 + 20 * GIB),
        (Resources(vram_size_multiplier=2.0, vram_must_fit="full_model"), 20 * GIB),
        (Resources(vram_size_multiplier=2.0, vram_must_fit="largest_component"), 12 * GIB),
        (IMAGES, DECLARED),
    ],
)
def test_before_anything_was_seen_the_declared_values_are_all(
    resources: Resources, expected: int
) -> None:
    found = Costs().predict("paint", "A", resources, size=SIZE, factors={"pixels": 1e9})
    assert found == (expected, None)


def test_a_few_calls_are_not_enough_to_predict_from() -> None:
    costs = Costs()
    for _ in range(4):
        costs.observe("paint", "A", IMAGES, run_s=3.0, peak_vram_bytes=20 * GIB, size=SIZE)
    assert costs.predict("paint", "A", IMAGES, size=SIZE) == (DECLARED, None)


# -- learned ---------------------------------------------------------------------------------------


def test_coefficients_are_found_below_the_noise() -> None:
    costs = learned_images()
    for steps, pixels in ((4, 262_144), (30, 1_048_576), (60, 2_359_296), (100, 4_194_304)):
        found = costs.predict(
            "paint", "A", IMAGES, size=SIZE, factors={"steps": steps, "pixels": pixels}
        )
        assert found.run_s == pytest.approx(0.5 + 0.05 * steps + 2e-6 * pixels, rel=0.06)
        assert found.vram_bytes == pytest.approx(DECLARED + 3 * GIB * pixels / 1e6, rel=0.06)


def test_classes_of_gpus_and_functions_are_learned_apart() -> None:
    costs = learned_images()
    factors = {"steps": 30.0, "pixels": 1e6}
    assert costs.predict("paint", "B", IMAGES, size=SIZE, factors=factors).run_s is None
    assert costs.predict("sketch", "A", IMAGES, size=SIZE, factors=factors).run_s is None


def test_a_function_without_fields_takes_as_long_as_it_mostly_does() -> None:
    costs, plain = Costs(), Resources()
    for run_s in (2.0, 4.0) * 10:
        costs.observe("f", "", plain, run_s=run_s)
    assert costs.predict("f", "", plain).run_s == pytest.approx(3.0, rel=0.05)


def test_a_field_that_a_call_leaves_out_counts_as_its_mean() -> None:
    costs, resources = Costs(), Resources(runtime_scales_with=("steps",))
    for steps in (10, 30) * 50:
        costs.observe("f", "", resources, run_s=0.1 * steps, factors={"steps": steps})
    assert costs.predict("f", "", resources).run_s == pytest.approx(2.0, rel=0.1)


def test_less_than_was_declared_is_not_believed() -> None:
    costs = Costs()
    for _ in range(20):
        costs.observe("paint", "A", IMAGES, peak_vram_bytes=GIB, size=SIZE)
    assert costs.predict("paint", "A", IMAGES, size=SIZE).vram_bytes == DECLARED


def test_a_release_with_other_fields_starts_anew() -> None:
    costs = learned_images()
    other = Resources(accelerator="cuda", runtime_scales_with=("frames",))
    assert costs.predict("paint", "A", other, factors={"frames": 3}) == (0, None)
    costs.observe("paint", "A", other, run_s=1.0, factors={"frames": 3})
    assert costs.predict("paint", "A", IMAGES, size=SIZE) == (DECLARED, None)


def test_what_changes_is_learned_again() -> None:
    costs, resources = learned_images(), IMAGES
    factors = {"steps": 30.0, "pixels": 1e6}
    for _ in range(1000):
        costs.observe("paint", "A", resources, run_s=40.0, size=SIZE, factors=factors)
    found = costs.predict("paint", "A", resources, size=SIZE, factors=factors)
    assert found.run_s == pytest.approx(40.0, rel=0.05)


def test_what_was_learned_is_kept_as_plain_data() -> None:
    costs = learned_images()
    data = msgspec.msgpack.encode(costs.learned())
    again = Costs(msgspec.msgpack.decode(data, type=list[LearnedCost]))
    factors = {"steps": 30.0, "pixels": 1e6}
    for one in (costs, again):
        one.observe("paint", "A", IMAGES, run_s=4.0, size=SIZE, factors=factors)
    assert again.predict("paint", "A", IMAGES, size=SIZE, factors=factors) == costs.predict(
        "paint", "A", IMAGES, size=SIZE, factors=factors
    )


@given(values=st.lists(st.tuples(any_number, any_number, any_number), max_size=25))
@settings(max_examples=60, deadline=None)
def test_whatever_is_observed_no_prediction_is_negative_or_no_number(
    values: list[tuple[float, float, float]],
) -> None:
    estimate = Estimate(("a", "b"))
    for a, b, result in values:
        estimate.observe({"a": a, "b": b}, result)
        for at in ({"a": a, "b": b}, {}, {"a": 1e300, "b": math.nan}):
            found = estimate.predict(at)
            assert found is None or 0.0 <= found < math.inf
    again = Estimate.of(estimate.learned())
    assert again.seen == estimate.seen
    assert again.learned() == estimate.learned()


@given(
    constant=st.floats(0.0, 10.0),
    slopes=st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1e-5)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_known_coefficients_come_back(
    constant: float, slopes: tuple[float, float], seed: int
) -> None:
    estimate, dice = Estimate(("steps", "pixels")), random.Random(seed)

    def truth(steps: float, pixels: float) -> float:
        return constant + slopes[0] * steps + slopes[1] * pixels + 0.01

    for _ in range(300):
        steps, pixels = dice.uniform(1, 100), dice.uniform(1e5, 4e6)
        result = truth(steps, pixels) * dice.uniform(0.95, 1.05)
        estimate.observe({"steps": steps, "pixels": pixels}, result)
    for steps, pixels in ((20, 1e6), (50, 2e6), (90, 3e6)):
        found = estimate.predict({"steps": steps, "pixels": pixels})
        assert found == pytest.approx(truth(steps, pixels), rel=0.1)


def test_what_was_kept_and_makes_no_sense_is_forgotten() -> None:
    sound = Estimate(("a",)).learned()
    for changes in (
        {"seen": 9, "products": (1.0,)},
        {"seen": 9, "coefficients": (math.nan, 1.0)},
        {"seen": 9, "moments": (-1.0, 1.0)},
        {"seen": -1},
    ):
        broken: Learned = msgspec.structs.replace(sound, **changes)
        assert Estimate.of(broken).seen == 0


# -- admission -------------------------------------------------------------------------------------

CLASSES = (GpuClass("A", 24 * GIB), GpuClass("B", 80 * GIB))


def test_a_call_that_fits_no_gpu_is_refused_in_words() -> None:
    resources = Resources(accelerator="cuda", vram_base=100 * GIB)
    assert Costs().refusal("paint", resources, CLASSES) == (
        "'paint' is expected to need 100.0 GiB of VRAM for this input, and the largest GPU, B,"
        " has 80.0: ask for less"
    )


@pytest.mark.parametrize(
    "resources",
    [
        Resources(accelerator="cuda", vram_base=80 * GIB),
        Resources(accelerator="cuda", min_vram_gb=200),
        Resources(vram_base=100 * GIB),
    ],
    ids=["fits the largest", "only declares a floor", "needs no GPU"],
)
def test_other_calls_are_let_in(resources: Resources) -> None:
    assert Costs().refusal("paint", resources, CLASSES) == ""


def test_nothing_is_refused_while_no_gpu_is_known() -> None:
    resources = Resources(accelerator="cuda", vram_base=100 * GIB)
    assert Costs().refusal("paint", resources, ()) == ""


def test_an_input_that_is_too_large_is_refused_by_what_was_learned() -> None:
    costs, small = learned_images(), CLASSES[:1]
    assert costs.refusal("paint", IMAGES, small, size=SIZE, factors={"pixels": 1e6}) == ""
    assert "GiB" in costs.refusal("paint", IMAGES, small, size=SIZE, factors={"pixels": 2e7})


def test_the_numbers_of_a_payload_are_found_by_their_paths() -> None:
    payload = {"size": {"w": 4}, "seeds": [7, 8], "prompt": "abc", "on": True}
    paths = ("size.w", "seeds", "seeds[1]", "prompt", "on", "size.h")
    assert factors_of(payload, paths) == {"size.w": 4, "seeds": 2, "seeds[1]": 8, "prompt": 3}


# -- loading ---------------------------------------------------------------------------------------


@given(
    seen=st.lists(
        st.tuples(st.sampled_from(("ram", "disk", "cold", "vram")), any_number), max_size=12
    ),
    size_bytes=st.integers(0, 100 * GIB),
)
@settings(max_examples=50, deadline=None)
def test_a_colder_model_never_loads_faster(seen: list[tuple[str, float]], size_bytes: int) -> None:
    times = LoadTimes()
    for tier, seconds in seen:
        times.observe("m", tier, seconds, size_bytes)  # type: ignore[arg-type]  # any text
    for ref in ("m", "other"):
        need = times.need(ref, size_bytes)
        assert 0 <= need.ram_s <= need.disk_s <= need.cold_s < math.inf


def test_load_times_are_learned_by_model_and_by_tier() -> None:
    times = LoadTimes()
    for _ in range(20):
        times.observe("big", "disk", 8.0, 16 * GIB)
    assert times.need("big", 16 * GIB).disk_s == pytest.approx(8.0)
    assert times.need("other", 4 * GIB).disk_s == pytest.approx(2.0, rel=0.05)
    again = LoadTimes(times.learned())
    assert again.need("big").disk_s == pytest.approx(8.0)


def test_kept_load_times_that_make_no_sense_are_forgotten() -> None:
    rows = [LearnedLoad(ref="m", seconds={"disk": math.nan, "ram": -1.0, "tape": 1.0})]
    assert LoadTimes(rows).need("m") == LoadTimes().need("m")
