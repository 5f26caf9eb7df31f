"""Importance matrices of both formats are read, and the columns they name are packed better."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.importance import read_importance
from gen_worker.conversion.gguf.models import plan_language_model
from gen_worker.conversion.gguf.packing import packed
from gen_worker.conversion.gguf.writing import write_gguf
from gen_worker.conversion.lazy import narrow, open_checkpoint
from gen_worker.conversion.writer import Journal
from gen_worker.models.tiny import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def older(path: Path, values: Mapping[str, list[float]], calls: int = 4) -> Path:
    content = struct.pack("<i", len(values))
    for name, numbers in values.items():
        content += struct.pack("<i", len(name)) + name.encode()
        content += struct.pack(f"<2i{len(numbers)}f", calls, len(numbers), *numbers)
    path.write_bytes(content + struct.pack("<2i", 7, 4) + b"text")
    return path


def newer(path: Path, values: Mapping[str, list[float]], count: float = 4.0) -> Path:
    weights = {}
    for name, numbers in values.items():
        weights[f"{name}.in_sum2"] = torch.tensor([numbers])
        weights[f"{name}.counts"] = torch.tensor([[count]])
    safetensors_torch.save_file(weights, path.with_suffix(".safetensors"))
    write_gguf(open_checkpoint(path.with_suffix(".safetensors")), {"general.type": "imatrix"}, path)
    return path


@pytest.mark.parametrize("write", [older, newer])
def test_means_are_read(write: Any, tmp_path: Path) -> None:
    found = read_importance(write(tmp_path / "m.gguf", {"a": [4.0, 8.0], "b": [2.0]}))
    assert {name: value.tolist() for name, value in found.values.items()} == {
        "a": [1.0, 2.0],
        "b": [0.5],
    }


@pytest.mark.parametrize("type_name", ["Q2_K", "Q4_K", "Q4_0", "IQ4_XS"])
def test_columns_that_matter_are_packed_better(type_name: str, tmp_path: Path) -> None:
    value = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    safetensors_torch.save_file({"x": value}, tmp_path / "m.safetensors")
    numbers = [100.0 if column % 8 == 0 else 0.1 for column in range(512)]
    importance = read_importance(older(tmp_path / "m.dat", {"x": numbers}, calls=1))
    tensor = open_checkpoint(tmp_path / "m.safetensors")["x"]
    errors = []
    for number, given in enumerate((None, importance)):
        recipe = packed(tensor, type_name, name="x", importance=given)
        file = write_gguf({"x": recipe}, {}, tmp_path / f"{number}.gguf").path
        off = open_checkpoint(file)["x"].tensor() - value
        errors.append(float((off * off)[:, ::8].mean()))
    assert errors[1] < 0.7 * errors[0]


def test_a_model_is_planned_with_it_and_goes_on_only_with_the_same(tmp_path: Path) -> None:
    llama = tiny_llama(tmp_path / "llama")
    one = older(tmp_path / "one.dat", {"blk.0.attn_q.weight": [1.0, 9.0] * 16})
    plan = plan_language_model(llama, "q4_0", importance=read_importance(one))
    assert plan.metadata["quantize.imatrix.file"] == "one.dat"
    assert "blk.0.attn_k.weight" in plan.without_importance
    assert "blk.0.attn_q.weight" not in plan.without_importance
    journal = tmp_path / "journal"
    for _ in range(2):
        made = write_gguf(
            plan.tensors, plan.metadata, tmp_path / "m.gguf", journal=Journal(journal)
        )
    assert made.resumed == 1
    older(one, {"blk.0.attn_q.weight": [9.0, 1.0] * 16, "other": [1.0]})
    plan = plan_language_model(llama, "q4_0", importance=read_importance(one))
    made = write_gguf(plan.tensors, plan.metadata, tmp_path / "m.gguf", journal=Journal(journal))
    assert made.resumed == 0


def test_experts_have_columns_of_their_own(tmp_path: Path) -> None:
    value = torch.randn(2, 32, 256, generator=torch.Generator().manual_seed(0))
    safetensors_torch.save_file({"x": value}, tmp_path / "m.safetensors")
    each = [[100.0 if column % 8 == first else 0.1 for column in range(256)] for first in (0, 3)]
    older(tmp_path / "m.dat", {"x": [*each[0], *each[1]]}, calls=1)
    weights = {"x.in_sum2": torch.tensor(each) * 4, "x.counts": torch.tensor([[4.0], [4.0]])}
    safetensors_torch.save_file(weights, tmp_path / "i.safetensors")
    write_gguf(open_checkpoint(tmp_path / "i.safetensors"), {}, tmp_path / "i.gguf")
    tensor = open_checkpoint(tmp_path / "m.safetensors")["x"]
    made = []
    for file in ("m.dat", "i.gguf"):
        importance = read_importance(tmp_path / file)
        recipe = packed(tensor, "Q4_0", name="x", importance=importance)
        made.append(recipe.tensor())
        for start, stop in ((0, 64), (5, 40), (33, 34)):
            assert torch.equal(recipe.rows(start, stop), made[0][start:stop])
    alone = []
    for number, numbers in enumerate(each):
        importance = read_importance(older(tmp_path / "one.dat", {"x": numbers}, calls=1))
        alone.append(packed(narrow(tensor, 0, number, 1), "Q4_0", name="x", importance=importance))
    assert torch.equal(made[0], torch.cat([one.tensor() for one in alone]))
    assert torch.equal(made[0], made[1])


def test_an_expert_that_no_text_reached_counts_all_columns_alike(tmp_path: Path) -> None:
    weights = {"x.in_sum2": torch.tensor([[4.0, 8.0], [0.0, 0.0]])}
    weights["x.counts"] = torch.tensor([[4.0], [0.0]])
    safetensors_torch.save_file(weights, tmp_path / "i.safetensors")
    write_gguf(open_checkpoint(tmp_path / "i.safetensors"), {}, tmp_path / "i.gguf")
    assert read_importance(tmp_path / "i.gguf").values["x"].tolist() == [1.0, 2.0, 1.0, 1.0]


def test_a_matrix_of_a_model_with_other_layers_is_refused(tmp_path: Path) -> None:
    llama = tiny_llama(tmp_path / "llama")
    other = older(
        tmp_path / "one.dat", {"blk.9.attn_q.weight": [1.0] * 32, "output.weight": [1.0] * 32}
    )
    with pytest.raises(GgufSourceError, match="which the model lacks") as caught:
        plan_language_model(llama, "q4_0", importance=read_importance(other))
    assert caught.value.tensor == "blk.9.attn_q.weight"


@pytest.mark.parametrize(
    "content", [b"", b"\x01\x00", struct.pack("<2i", 1, 2_000_000), struct.pack("<i", 0)]
)
def test_what_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.dat").write_bytes(content)
    with pytest.raises(GgufSourceError) as caught:
        read_importance(tmp_path / "m.dat")
    assert caught.value.code == "gguf_invalid_importance"


def test_values_that_cannot_be_and_other_models_are_refused(tmp_path: Path) -> None:
    for number in (float("nan"), -1.0):
        with pytest.raises(GgufSourceError, match="no squares"):
            read_importance(older(tmp_path / "m.dat", {"x": [number]}))
    safetensors_torch.save_file({"x": torch.zeros(2, 32)}, tmp_path / "m.safetensors")
    tensor = open_checkpoint(tmp_path / "m.safetensors")["x"]
    importance = read_importance(older(tmp_path / "m.dat", {"x": [1.0]}))
    with pytest.raises(GgufSourceError, match="of this model") as caught:
        packed(tensor, "Q4_0", name="x", importance=importance)
    assert caught.value.tensor == "x"
