"""Merges of models: the numbers of the plain formulas, tensor by tensor, made lazily."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint, slabs
from gen_worker.conversion.merge import (
    add_differences,
    merge_dare,
    merge_linear,
    merge_models,
    merge_slerp,
    merge_task_arithmetic,
    merge_ties,
    task_vectors,
)
from gen_worker.conversion.merge.random_drop import drop_key, kept_elements

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.conversion.lazy import OpenCheckpoint


def _save(file: Path, seed: int, dtype: Any = torch.float32, **more: Any) -> OpenCheckpoint:
    torch.manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "layers.0.weight": torch.randn(6, 4).to(dtype),
        "layers.1.weight": torch.randn(5, 3).to(dtype),
        "norm.weight": torch.randn(7).to(dtype),
        "steps": torch.tensor([seed]),
        **more,
    }
    safetensors.torch.save_file(tensors, file)
    return open_checkpoint(file)


@pytest.fixture
def models(tmp_path: Path) -> list[OpenCheckpoint]:
    return [_save(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]


_FLOATS = ("layers.0.weight", "layers.1.weight", "norm.weight")


def test_linear_with_weights_by_pattern(models: list[OpenCheckpoint]) -> None:
    first, second, third = models
    by_name = {"layers.0.*": 3.0, "*norm*": 0.0, "*": 1.0}
    merged = merge_linear([(first, 1.0), (second, by_name), (third, 1.0)])
    assert (merged.missing, merged.extra) == ((), ())
    for name, weight in zip(_FLOATS, (3.0, 1.0, 0.0), strict=True):
        parts = [one[name].tensor() for one in models]
        expected = (parts[0] + weight * parts[1] + parts[2]) / (2 + weight)
        torch.testing.assert_close(merged.tensors[name].tensor(), expected)
        torch.testing.assert_close(merged.tensors[name].rows(1, 3), expected[1:3])
    assert merged.tensors["steps"].tensor().item() == 0


def test_weights_are_taken_as_they_are_where_asked(models: list[OpenCheckpoint]) -> None:
    merged = merge_linear([(models[0], 1.0), (models[1], -1.0)], normalize=False)
    for name in _FLOATS:
        expected = models[0][name].tensor() - models[1][name].tensor()
        torch.testing.assert_close(merged.tensors[name].tensor(), expected)
    with pytest.raises(ConversionInputError, match="add up to 0"):
        merge_linear([(models[0], 1.0), (models[1], -1.0)])


@pytest.mark.parametrize("position", [0.0, 0.3, 1.0])
def test_slerp_is_on_the_arc(position: float, models: list[OpenCheckpoint]) -> None:
    merged = merge_slerp(models[0], models[1], position)
    for name in _FLOATS:
        one, other = (model[name].tensor().double() for model in models[:2])
        angle = torch.acos((one * other).sum() / one.norm() / other.norm())
        expected = (
            torch.sin((1 - position) * angle) * one + torch.sin(position * angle) * other
        ) / torch.sin(angle)
        torch.testing.assert_close(merged.tensors[name].tensor(), expected.float())


def test_differences_of_tuned_models_are_added(models: list[OpenCheckpoint]) -> None:
    base, tuned, model = models
    merged = add_differences(model, base, [(tuned, 0.5), (model, {"*": 0.25})])
    for name in _FLOATS:
        zero, one, two = base[name].tensor(), tuned[name].tensor(), model[name].tensor()
        expected = two + 0.5 * (one - zero) + 0.25 * (two - zero)
        torch.testing.assert_close(merged.tensors[name].tensor(), expected)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
def test_ties_keeps_what_is_large_and_agreed_on(
    density: float, models: list[OpenCheckpoint]
) -> None:
    base, *tuned = models
    weights = (1.0, 0.5)
    merged = merge_ties(base, list(zip(tuned, weights, strict=True)), density=density)
    for name in _FLOATS:
        zero = base[name].tensor()
        expected = zero.clone().reshape(-1)
        trimmed = []
        for model in tuned:
            change = (model[name].tensor() - zero).reshape(-1)
            kept = change.numel() - round((1 - density) * change.numel())
            largest = change.abs().topk(max(kept, 1)).indices
            trimmed.append(torch.zeros_like(change).index_copy(0, largest, change[largest]))
        for index in range(expected.numel()):
            terms = [(w, float(one[index])) for w, one in zip(weights, trimmed, strict=True)]
            sign = sum(w * value for w, value in terms)
            agreed = [(w, value) for w, value in terms if value * sign > 0]
            if agreed:
                expected[index] += sum(w * v for w, v in agreed) / sum(w for w, _ in agreed)
        made = merged.tensors[name]
        torch.testing.assert_close(made.tensor(), expected.reshape(zero.shape))
        assert torch.equal(made.rows(1, 3), made.tensor()[1:3])
        assert torch.equal(made.flat().rows(2, 5), made.tensor().reshape(-1)[2:5])
    with pytest.raises(ConversionInputError, match="no share"):
        merge_ties(base, [(tuned[0], 1.0)], density=0.0)


@pytest.mark.parametrize("rank", [0, 1, 500, 998, 999])
def test_a_rank_is_found_without_the_whole_tensor(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    values = torch.randn(100, 10) * torch.logspace(-20, 20, 100).unsqueeze(1)
    values[3], values[4] = 0.0, 1.0  # ties
    pair = {"base": torch.zeros(100, 10), "tuned": values}
    safetensors.torch.save_file(pair, tmp_path / "pair.safetensors")
    opened = open_checkpoint(tmp_path / "pair.safetensors")
    seen: list[int] = []

    def small(tensor: Any) -> Any:
        seen.append(tensor.row_count)
        return slabs(tensor, slab_bytes=2000)

    monkeypatch.setattr(task_vectors, "slabs", small)
    found = task_vectors.size_at(opened["base"], opened["tuned"], rank)
    assert found == values.abs().reshape(-1).sort().values[rank].item()
    assert seen == [1000, 1000]


def test_task_arithmetic_adds_and_takes_away(models: list[OpenCheckpoint]) -> None:
    base, one, other = models
    merged = merge_task_arithmetic(base, [(one, 0.75), (other, {"*norm*": 2.0, "*": -0.5})])
    for name in _FLOATS:
        zero, first, second = (model[name].tensor() for model in models)
        weight = 2.0 if "norm" in name else -0.5
        expected = zero + 0.75 * (first - zero) + weight * (second - zero)
        torch.testing.assert_close(merged.tensors[name].tensor(), expected)
    assert merged.tensors["steps"].tensor().item() == 0


def _split_mix(key: int, index: int) -> int:
    """Return a number of SplitMix64 as its authors write it, with integers of any size."""
    state = (key + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_a_seeded_drop_is_a_function_of_the_position() -> None:
    assert _split_mix(0, 0) == 0xE220A8397B1DCDAF  # as published for the seed 0
    key = drop_key(7, 1, "layers.0.weight")
    expected = [_split_mix(key, index) / 2**64 < 0.3 for index in range(1000)]
    assert kept_elements(key, 0, 1000, 0.3).tolist() == expected
    assert kept_elements(key, 250, 1000, 0.3).tolist() == expected[250:]
    many = kept_elements(key, 0, 200_000, 0.3).float().mean().item()
    assert abs(many - 0.3) < 0.005  # five standard deviations


@pytest.mark.parametrize("consensus", [False, True])
@pytest.mark.parametrize("density", [0.4, 1.0])
def test_dare_is_the_plain_formula(
    consensus: bool, density: float, models: list[OpenCheckpoint]
) -> None:
    base, *tuned = models
    weights = (1.0, 0.5)
    terms = list(zip(tuned, weights, strict=True))
    merged = merge_dare(base, terms, density=density, seed=3, consensus=consensus)
    for name in _FLOATS:
        zero = base[name].tensor()
        deltas = []
        for number, (model, weight) in enumerate(terms):
            key = drop_key(3, number, name)
            mask = [_split_mix(key, at) < density * 2**64 for at in range(zero.numel())]
            kept = torch.tensor(mask).reshape(zero.shape)
            deltas.append(weight * kept * (model[name].tensor() - zero) / density)
        stacked = torch.stack(deltas)
        if consensus:  # of which the majority is that of the sum, as in mergekit
            stacked = stacked * (stacked.sign() == stacked.sum(0).sign())
        made = merged.tensors[name]
        torch.testing.assert_close(made.tensor(), zero + stacked.sum(0))
        whole, flat = made.tensor(), made.flat()
        for start in range(made.row_count):  # the same bytes, whatever the slab
            assert torch.equal(made.rows(start, start + 1), whole[start : start + 1])
        assert made.is_elementwise
        assert torch.equal(flat.rows(2, 5), whole.reshape(-1)[2:5])
    with pytest.raises(ConversionInputError, match="no share"):
        merge_dare(base, terms, density=1.5)


def test_drops_of_tensors_models_and_seeds_differ() -> None:
    keys = {drop_key(seed, model, name) for seed in (0, 1) for model in (0, 1) for name in "ab"}
    assert len(keys) == 8


def test_what_only_one_has_is_named(models: list[OpenCheckpoint], tmp_path: Path) -> None:
    other = _save(tmp_path / "other.safetensors", 1, extra=torch.ones(2))
    own = dict(models[0]) | {"own": other["extra"]}
    merged = merge_linear([(own, 1.0), (other, 1.0)])
    assert (merged.missing, merged.extra) == (("own",), ("extra",))
    assert torch.equal(merged.tensors["own"].tensor(), torch.ones(2))


def test_what_does_not_fit_is_refused(models: list[OpenCheckpoint], tmp_path: Path) -> None:
    wide = _save(tmp_path / "wide.safetensors", 1, **{"norm.weight": torch.ones(8)})
    shapes = r"'norm\.weight' is .*\[7\].*\[8\]"
    with pytest.raises(ConversionInputError, match=shapes):
        merge_slerp(models[0], wide, 0.5)
    with pytest.raises(ConversionInputError, match=shapes):
        merge_dare(models[0], [(wide, 1.0)])
    with pytest.raises(ConversionInputError, match=shapes):
        merge_task_arithmetic(models[0], [(models[1], 1.0), (wide, 1.0)])
    packed = {"norm.weight": torch.ones(7, dtype=torch.int8)}
    quantised = _save(tmp_path / "packed.safetensors", 1, **packed)
    with pytest.raises(ConversionInputError, match="quantised"):
        merge_linear([(quantised, 1.0), (quantised, 1.0)])
    with pytest.raises(ConversionInputError, match=r"matches 'layers\.1\.weight'"):
        merge_linear([(models[0], 1.0), (models[1], {"layers.0.*": 1.0})])


def test_models_in_folders(tmp_path: Path) -> None:
    for seed, dtype in ((0, torch.float16), (1, torch.float32)):
        place = tmp_path / str(seed)
        _save(place / "unet" / "diffusion_pytorch_model.safetensors", seed, dtype)
        _save(place / "text_encoder" / "model.safetensors", seed, dtype)
        (place / "unet" / "config.json").write_text(json.dumps({"seed": seed}))
        (place / "model_index.json").write_text("{}")
    result = merge_models(
        [(tmp_path / "0", 1.0), (tmp_path / "1", 0.25)],
        tmp_path / "out",
        method="slerp",
        components=["unet"],
    )
    assert result == (("unet",), (), ())
    made = open_checkpoint(tmp_path / "out" / "unet")
    first = open_checkpoint(tmp_path / "0" / "unet")
    expected = merge_slerp(first, open_checkpoint(tmp_path / "1" / "unet"), 0.25)
    for name, tensor in expected.tensors.items():
        assert made[name].dtype == first[name].dtype
        assert torch.equal(made[name].tensor(), tensor.tensor())
    assert json.loads((tmp_path / "out/unet/config.json").read_text()) == {"seed": 0}
    kept = (tmp_path / "out/text_encoder/model.safetensors").read_bytes()
    assert kept == (tmp_path / "0/text_encoder/model.safetensors").read_bytes()
    with pytest.raises(ConversionInputError, match="not empty"):
        merge_models([(tmp_path / "0", 1.0), (tmp_path / "1", 1.0)], tmp_path / "out")
    merge_models([(tmp_path / "0", 1.0), (tmp_path / "1", 1.0)], tmp_path / "both")
    assert (tmp_path / "both/text_encoder/model.safetensors").read_bytes() != kept
    with pytest.raises(ConversionInputError, match="1 models cannot be merged"):
        merge_models([(tmp_path / "0", 1.0)], tmp_path / "one")
