"""Mixtures of experts: one tensor for all experts of a layer, and each as it was before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import write_safetensors
from gen_worker.conversion.convert import plan_conversion, run_conversion, verify_flavor
from gen_worker.conversion.gguf import (
    GgufSourceError,
    file_type,
    plan_gguf_file,
    plan_language_model,
    transformers_weights,
    unpacked,
    write_gguf,
)
from gen_worker.conversion.gguf.experts import stacked_experts
from gen_worker.conversion.gguf.mixes import Heads, choose_types
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.gguf_file import BlockTensor
from gen_worker.conversion.verify import comparing
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Mapping

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

EXPERTS, LAYERS = 3, 2


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("mixtral")
    config = transformers.MixtralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        sliding_window=None,
    )
    transformers.MixtralForCausalLM(config).save_pretrained(place)
    for file in Path(tiny_llama(tmp_path_factory.mktemp("llama"))).glob("tok*"):
        shutil.copy(file, place)
    return place


def logits(directory: Path) -> Any:
    found = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return found(torch.arange(3, 35)[None]).logits


def test_experts_are_one_tensor_in_their_order(mixtral: Path, tmp_path: Path) -> None:
    plan = plan_language_model(mixtral, "f32")
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "m.gguf").path
    made, source = unpacked(file), open_checkpoint(mixtral)
    for ours, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
        for layer in range(LAYERS):
            found = made[f"blk.{layer}.ffn_{ours}_exps.weight"].tensor()
            name = f"model.layers.{layer}.block_sparse_moe.experts.{{}}.{theirs}.weight"
            wanted = [source[name.format(number)].tensor() for number in range(EXPERTS)]
            assert torch.equal(found, torch.stack(wanted))
    said = read_gguf_header(file).metadata
    assert (said["llama.expert_count"], said["llama.expert_used_count"]) == (EXPERTS, 2)
    assert plan.types["blk.0.ffn_gate_inp.weight"] == "F32"


@pytest.mark.parametrize("to", ["f32", "q8_0"])
def test_what_comes_back_is_the_same_model(mixtral: Path, to: str, tmp_path: Path) -> None:
    plan = plan_language_model(mixtral, to)
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "m.gguf").path
    held = shutil.copytree(mixtral, tmp_path / "held")
    back = transformers_weights(file)
    assert set(back) == set(open_checkpoint(mixtral))
    write_safetensors(back, held)
    assert float((logits(held) - logits(mixtral)).abs().max()) <= (1e-6 if to == "f32" else 0.05)


def test_a_file_of_experts_is_made_one_of_another_type(mixtral: Path, tmp_path: Path) -> None:
    plan = plan_language_model(mixtral, "f16")
    first = write_gguf(plan.tensors, plan.metadata, tmp_path / "a.gguf").path
    again = plan_gguf_file(first, "q8_0")
    second = write_gguf(again.tensors, again.metadata, tmp_path / "b.gguf").path
    assert read_gguf_header(second).tensors["blk.1.ffn_up_exps.weight"].type_name == "Q8_0"
    name = "blk.1.ffn_up_exps.weight"
    error = (unpacked(second)[name].tensor() - unpacked(first)[name].tensor()).abs()
    assert 0 < float(error.max()) < 1e-3


def test_experts_are_proven_a_few_rows_at_a_time(
    mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_conversion(mixtral, ["gguf:q8_0"], out=tmp_path / "out")
    run_conversion(plan)
    read: list[int] = []
    unpack = BlockTensor.rows

    def rows(self: BlockTensor, start: int, stop: int) -> Any:
        read.append(stop - start)
        return unpack(self, start, stop)

    monkeypatch.setattr(BlockTensor, "rows", rows)
    monkeypatch.setattr(comparing, "SLAB_BYTES", 32 << 10)
    report = verify_flavor(plan, plan.flavors[0])
    assert {one.name for one in report.tensors} > {"blk.0.ffn_down_exps.weight"}
    assert 0 < max(read) < 64  # of the 64 or 96 of an expert


def opened(path: Path, weights: Mapping[str, Any]) -> Any:
    safetensors_torch.save_file(weights, path)
    return open_checkpoint(path)


def test_experts_that_are_joined_already_are_parted(tmp_path: Path) -> None:
    both, down = torch.randn(EXPERTS, 8, 6), torch.randn(EXPERTS, 6, 4)
    place = "model.layers.0.mlp.experts"
    weights = {f"{place}.gate_up_proj": both, f"{place}.down_proj": down}
    made = stacked_experts(opened(tmp_path / "m.safetensors", weights), {"num_experts": EXPERTS})
    assert torch.equal(made[f"{place}.gate_proj.weight"].tensor(), both[:, :4])
    assert torch.equal(made[f"{place}.up_proj.weight"].tensor(), both[:, 4:])
    assert torch.equal(made[f"{place}.down_proj.weight"].tensor(), down)


@pytest.mark.parametrize("damage", ["missing", "shape", "dtype"])
def test_an_expert_that_does_not_fit_is_named(damage: str, tmp_path: Path) -> None:
    place = "model.layers.0.mlp.experts"
    weights = {f"{place}.{number}.up_proj.weight": torch.ones(4, 4) for number in range(EXPERTS)}
    bad = f"{place}.1.up_proj.weight"
    if damage == "missing":
        del weights[bad]
    else:
        weights[bad] = torch.ones(3, 4) if damage == "shape" else torch.ones(4, 4).half()
    with pytest.raises(GgufSourceError, match=r"mlp\.experts") as caught:
        stacked_experts(opened(tmp_path / "m.safetensors", weights), {"num_experts": EXPERTS})
    assert caught.value.code == "gguf_missing_tensor"
    assert caught.value.tensor == (f"{place}.up_proj.weight" if damage == "missing" else bad)


def test_eight_experts_leave_bits_for_attention() -> None:
    shapes: dict[str, tuple[int, ...]] = {"output.weight": (320, 256)}
    for layer in range(16):
        for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp"):
            shapes[f"blk.{layer}.{kind}.weight"] = (256, 256)
        shapes[f"blk.{layer}.ffn_down_exps.weight"] = (8, 256, 256)
    types = choose_types(shapes, file_type("q4_k_m"), Heads(1, experts=8)).types
    last = {name.removeprefix("blk.15."): used for name, used in types.items()}
    assert (last["attn_k.weight"], last["attn_v.weight"]) == ("Q8_0", "Q8_0")
    assert (last["attn_output.weight"], last["attn_q.weight"]) == ("Q5_K", "Q4_K")
    assert (last["ffn_down_exps.weight"], last["ffn_gate_inp.weight"]) == ("Q6_K", "F32")
    assert types["blk.2.ffn_down_exps.weight"] == "Q4_K"
    fewer = choose_types(shapes, file_type("q4_k_m"), Heads(1, experts=4)).types
    assert fewer["blk.2.attn_k.weight"] == "Q4_K"
