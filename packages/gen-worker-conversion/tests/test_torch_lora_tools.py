"""Adapters of another rank, and adapters out of the difference of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora import (
    Adapter,
    extract_adapter,
    extract_layers,
    merge_adapters,
    open_adapter,
    resize_adapter,
    write_adapter,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.conversion.lazy import OpenCheckpoint
    from gen_worker.conversion.lora import LowRank

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

MODULES = {
    "mid_block.attentions.0.to_q": (12, 10),
    "mid_block.attentions.0.to_k": (8, 16),
    "mid_block.resnets.0.conv1": (6, 4, 3, 3),
}
RANK = 5


def product(layer: LowRank) -> Any:
    """Return the update of a module as a matrix."""
    up = layer.up.tensor().double().reshape(layer.up.row_count, -1)
    return layer.scale * up @ layer.down.tensor().double().reshape(layer.rank, -1)


def best(matrix: Any, rank: int) -> Any:
    """Return the closest matrix of a rank (Eckart and Young)."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def close(actual: Any, expected: Any) -> None:
    """Compare what was computed in float32."""
    torch.testing.assert_close(actual.double(), expected.double(), atol=2e-5, rtol=2e-5)


def save(path: Path, tensors: dict[str, Any]) -> OpenCheckpoint:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors_torch.save_file(tensors, path)
    return open_checkpoint(path)


def weights(seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    made = {f"{name}.weight": torch.randn(shape) for name, shape in MODULES.items()}
    made["mid_block.norm.weight"] = torch.randn(4)
    made["class_embedding.weight"] = torch.randn(6, 4)
    made["steps"] = torch.tensor([3])
    return made


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    torch.manual_seed(1)
    tensors: dict[str, Any] = {}
    for name, (rows, *columns) in MODULES.items():
        ones = [1] * (len(columns) - 1)
        tensors[f"unet.{name}.lora.down.weight"] = torch.randn(RANK, *columns)
        tensors[f"unet.{name}.lora.up.weight"] = torch.randn(rows, RANK, *ones)
        tensors[f"unet.{name}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("adapter") / "lora.safetensors"
    safetensors_torch.save_file(tensors, path)
    return open_adapter(path)


def test_a_dora_of_a_fused_layer_is_split_and_joined(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{name}.lora_down.weight": torch.randn(2, 8),
        f"{name}.lora_up.weight": torch.randn(24, 2),
        f"{name}.alpha": torch.tensor(1.0),
        f"{name}.dora_scale": torch.arange(24.0).reshape(24, 1),
    }
    safetensors_torch.save_file(tensors, tmp_path / "dora.safetensors")

    adapter = open_adapter(tmp_path / "dora.safetensors")

    layers = adapter.layers["transformer"]
    magnitudes = {key.rpartition(".")[2]: layer.magnitude for key, layer in layers.items()}
    for number, side in enumerate(("to_q", "to_k", "to_v")):
        magnitude = magnitudes[side]
        assert magnitude is not None
        assert magnitude.tensor().tolist() == list(range(8 * number, 8 * number + 8))
    again = write_adapter(adapter, tmp_path / "again", to="kohya", family="flux1").paths[0]
    for key, tensor in open_checkpoint(again).items():
        assert torch.equal(tensor.tensor(), tensors[key]), key
    part = Adapter({"transformer": dict(list(layers.items())[:2])})
    with pytest.raises(ConversionInputError, match="magnitudes for a part of its rows"):
        write_adapter(part, tmp_path / "part", to="kohya", family="flux1")


def test_the_same_rank_is_the_same_product(adapter: Adapter) -> None:
    resized = resize_adapter(adapter, rank=RANK)
    for name, layer in resized.layers["unet"].items():
        before = adapter.layers["unet"][name]
        assert layer.rank == RANK
        assert layer.scale == pytest.approx(2.0 / RANK)
        assert (layer.down.shape, layer.up.shape) == (before.down.shape, before.up.shape)
        close(product(layer), product(before))
        assert torch.equal(layer.up.rows(1, 3), layer.up.tensor()[1:3])


def test_a_smaller_rank_is_the_closest_of_its_rank(adapter: Adapter, tmp_path: Path) -> None:
    written = write_adapter(resize_adapter(adapter, rank=2), tmp_path, to="diffusers").paths[0]
    found = open_adapter(written)
    assert found.layers["unet"].keys() == adapter.layers["unet"].keys()
    for name, layer in found.layers["unet"].items():
        assert layer.rank == 2
        assert layer.alpha == pytest.approx(2.0 / RANK * 2)
        close(product(layer), best(product(adapter.layers["unet"][name]), 2))


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999])
def test_so_much_of_the_energy_stays(energy: float, adapter: Adapter) -> None:
    resized = resize_adapter(adapter, energy=energy)
    ranks = set()
    for name, layer in resized.layers["unet"].items():
        squares = torch.linalg.svdvals(product(adapter.layers["unet"][name])).square()
        held = (squares.cumsum(0) / squares.sum()).tolist()
        assert held[layer.rank - 1] >= energy - 1e-6
        assert layer.rank == 1 or held[layer.rank - 2] < energy
        ranks.add(layer.rank)
    both = resize_adapter(adapter, energy=energy, rank=1)
    assert {layer.rank for layer in both.layers["unet"].values()} == {1}
    assert ranks != {RANK} or energy == 0.999


def test_what_no_rank_says_is_refused(adapter: Adapter) -> None:
    for options, said in (({}, "no rank"), ({"rank": 0}, "at least 1"), ({"energy": 2.0}, "share")):
        with pytest.raises(ConversionInputError, match=said):
            resize_adapter(adapter, **options)


def test_extraction_gives_back_what_was_merged(adapter: Adapter, tmp_path: Path) -> None:
    base = save(tmp_path / "base.safetensors", weights())
    merged = merge_adapters(base, [(adapter.layers["unet"], 1.0)]).tensors
    tuned = save(
        tmp_path / "tuned.safetensors", {name: one.tensor() for name, one in merged.items()}
    )

    found = extract_layers(base, tuned, rank=RANK)

    assert found.left_out == ()
    assert found.layers.keys() == set(MODULES)
    for name, layer in found.layers.items():
        assert (layer.rank, layer.alpha) == (RANK, RANK)
        close(product(layer), product(adapter.layers["unet"][name]))
    by_energy = extract_layers(base, tuned, energy=1 - 1e-9).layers
    assert {layer.rank for layer in by_energy.values()} == {RANK}
    again = merge_adapters(base, [(found.layers, 1.0)]).tensors
    for name, tensor in again.items():
        close(tensor.tensor(), tuned[name].tensor())


def test_a_rank_too_small_keeps_the_most(tmp_path: Path) -> None:
    base, tuned = (save(tmp_path / f"{seed}.safetensors", weights(seed)) for seed in (0, 1))

    found = extract_layers(base, tuned, rank=3, dtype="F16")

    assert found.left_out == ("class_embedding.weight", "mid_block.norm.weight")
    for name, layer in found.layers.items():
        change = tuned[f"{name}.weight"].tensor() - base[f"{name}.weight"].tensor()
        expected = best(change.reshape(change.shape[0], -1), 3)
        assert layer.down.tensor().dtype is torch.float16
        torch.testing.assert_close(product(layer), expected, atol=2e-2, rtol=1e-2)


def test_models_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    base = save(tmp_path / "base.safetensors", weights())
    name = "mid_block.attentions.0.to_q.weight"
    for change, said in (
        ({name: torch.ones(2, 2)}, f"'{name}' is .*architecture"),
        ({name: torch.ones(12, 10, dtype=torch.int8)}, "quantised"),
        ({"more.weight": torch.ones(2, 2)}, "only one of the models has 'more.weight'"),
    ):
        other = save(tmp_path / "other.safetensors", {**weights(), **change})
        with pytest.raises(ConversionInputError, match=said):
            extract_layers(base, other, rank=2)


def test_pipelines_become_an_adapter_of_their_components(tmp_path: Path) -> None:
    for number in (0, 1):
        place = tmp_path / str(number)
        save(place / "unet" / "diffusion_pytorch_model.safetensors", weights(number))
        text = {"encoder.layers.0.mlp.fc1.weight": torch.eye(4) * (1 + number)}
        save(place / "text_encoder" / "model.safetensors", text)
        (place / "model_index.json").write_text("{}")

    adapter, left_out = extract_adapter(tmp_path / "0", tmp_path / "1", rank=4)

    assert set(adapter.layers["text_encoder"]) == {"text_model.encoder.layers.0.mlp.fc1"}
    assert left_out == ("unet/class_embedding.weight", "unet/mid_block.norm.weight")
    file = write_adapter(adapter, tmp_path / "lora", to="diffusers").paths[0]
    [layer] = open_adapter(file).layers["text_encoder"].values()
    close(product(layer), torch.eye(4))
    with pytest.raises(ConversionInputError, match="nothing to extract"):
        extract_adapter(tmp_path / "0", tmp_path / "0", rank=4)
