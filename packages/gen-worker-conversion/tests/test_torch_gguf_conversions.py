"""What GGUF files alone have, from the plan to the proof: parts, metadata, importance, LoRAs."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.convert import (
    GgufOptions,
    plan_conversion,
    run_conversion,
    verify_flavor,
)
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_llama

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

PART_BYTES = 40_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("models") / "tiny"))


def made(source: Path, to: str, out: Path, **options: Any) -> list[Path]:
    """Convert, verify, and return the files in their order."""
    plan = plan_conversion(source, [to], out=out, gguf=GgufOptions(**options))
    assert plan.refusals == ()
    run_conversion(plan)
    [flavor] = plan.flavors
    verify_flavor(plan, flavor)
    return sorted(out.iterdir())


def refusal(source: Path, to: str, out: Path, **options: Any) -> str:
    plan = plan_conversion(source, [to], out=out, gguf=GgufOptions(**options))
    [one] = plan.refusals
    return one.reason


def test_a_model_is_written_in_parts_which_are_joined_bit_by_bit(
    model: Path, tmp_path: Path
) -> None:
    [whole] = made(model, "gguf:q8_0", tmp_path / "whole")
    parts = made(model, "gguf:q8_0", tmp_path / "parts", split_max_bytes=PART_BYTES)
    count = len(parts)
    assert count > 1
    assert parts[0].name == f"tiny-Q8_0-00001-of-{count:05d}.gguf"
    for number, source in enumerate((parts[0], parts[0].parent)):
        [joined] = made(source, "gguf:keep", tmp_path / f"joined{number}")
        assert joined.name == "tiny-Q8_0.gguf"
        assert joined.read_bytes() == whole.read_bytes()
    again = made(whole, "gguf:keep", tmp_path / "again", split_max_bytes=PART_BYTES)
    assert [part.read_bytes() for part in again] == [part.read_bytes() for part in parts]
    [other] = made(parts[0], "gguf:keep", tmp_path / "other", metadata={"general.name": "new"})
    assert read_gguf_header(str(other)).metadata["general.name"] == "new"
    assert "give the first" in refusal(parts[1], "gguf:keep", tmp_path / "second")


def test_metadata_are_set_where_a_model_is_converted(model: Path, tmp_path: Path) -> None:
    wanted = {"general.name": "mine", "llama.context_length": "64", "general.license": "mit"}
    [file] = made(model, "gguf:f16", tmp_path / "out", metadata=wanted)
    said = read_gguf_header(str(file)).metadata
    assert (said["general.name"], said["llama.context_length"]) == ("mine", 64)
    assert said["general.license"] == "mit"
    reason = refusal(model, "gguf:f16", tmp_path / "no", metadata={"llama.block_count": "two"})
    assert "'llama.block_count'" in reason


def importance(path: Path, name: str, columns: int) -> str:
    content = struct.pack("<2i", 1, len(name)) + name.encode() + struct.pack("<2i", 1, columns)
    numbers = [9.0 if column % 4 == 0 else 0.1 for column in range(columns)]
    path.write_bytes(content + struct.pack(f"<{columns}f", *numbers))
    return str(path)


def test_an_importance_matrix_weighs_and_must_fit(model: Path, tmp_path: Path) -> None:
    fitting = importance(tmp_path / "a.dat", "blk.0.attn_q.weight", 32)
    [plain] = made(model, "gguf:q4_0", tmp_path / "plain")
    [weighed] = made(model, "gguf:q4_0", tmp_path / "weighed", importance=fitting)
    assert read_gguf_header(str(weighed)).metadata["quantize.imatrix.file"] == "a.dat"
    contents = []
    for file in (plain, weighed):
        header = read_gguf_header(str(file))
        place = header.tensors["blk.0.attn_q.weight"]
        start = header.data_start + place.start
        contents.append(file.read_bytes()[start : start + place.end - place.start])
    assert contents[0] != contents[1]
    for name, columns in (("blk.0.attn_q.weight", 64), ("blk.7.attn_q.weight", 32)):
        other = importance(tmp_path / "b.dat", name, columns)
        assert f"{name!r}" in refusal(model, "gguf:q4_0", tmp_path / "no", importance=other)


def test_a_lora_becomes_an_adapter(model: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = tmp_path / "lora"
    lora.mkdir()
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path="owner/model")
    config.save_pretrained(lora)
    weights = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    safetensors_torch = pytest.importorskip("safetensors.torch")
    safetensors_torch.save_file(weights, lora / "adapter_model.safetensors")
    [file] = made(lora, "gguf:f16", tmp_path / "out", base=str(model))
    header = read_gguf_header(str(file))
    assert (file.name, header.metadata["general.type"]) == ("lora-F16.gguf", "adapter")
    assert len(header.tensors) == 2
    assert "--base DIR" in refusal(lora, "gguf:f16", tmp_path / "no")


def test_options_that_mean_nothing_are_refused(model: Path, tmp_path: Path) -> None:
    [file] = made(model, "gguf:f16", tmp_path / "out")
    matrix = importance(tmp_path / "a.dat", "blk.0.attn_q.weight", 32)
    assert "a base model" in refusal(model, "gguf:f16", tmp_path / "no", base=str(model))
    assert "importance" in refusal(file, "gguf:keep", tmp_path / "no", importance=matrix)
    assert "'gguf:keep'" in refusal(model, "gguf:keep", tmp_path / "no")
    empty = shutil.copytree(model, tmp_path / "empty")
    (empty / "config.json").unlink()
    assert "a LoRA of peft" in refusal(empty, "gguf:f16", tmp_path / "no")
