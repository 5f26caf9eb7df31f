"""LoRAs as GGUF files: what they add to a model's file is what peft adds to the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.gguf import (
    GgufSourceError,
    plan_language_model,
    plan_lora,
    unpacked,
    write_gguf,
)
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_llama

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("base")))


def adapted(base: Path, **options: Any) -> Any:
    """Return a model with a LoRA of random numbers."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, **options)
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value) * 0.1)
    return made


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lora")
    adapted(base).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha_pattern": {"k_proj": 11}, "rank_pattern": {"down_proj": 2}},
        {"use_rslora": True},
    ],
)
def test_a_file_with_its_lora_is_the_file_of_the_merged_model(
    base: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    model = adapted(base, **options)
    model.save_pretrained(tmp_path / "lora")
    merged = shutil.copytree(base, tmp_path / "merged")
    model.merge_and_unload().save_pretrained(merged)
    plan = plan_lora(tmp_path / "lora", "f32", base=base)
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "lora.gguf").path
    said, sides = read_gguf_header(file).metadata, unpacked(file)
    before, after = plan_language_model(base, "f32").tensors, plan_language_model(merged, "f32")
    changed = {name.rpartition(".")[0] for name in sides}
    assert len(changed) == len(TARGETS) * 2
    for name, tensor in before.items():
        value = tensor.tensor()
        if name in changed:  # as llama-adapter.h has it: the rank is that of each pair
            up, down = (sides[f"{name}.lora_{side}"].tensor() for side in "ba")
            value = value + said["adapter.lora.alpha"] / up.shape[1] * up @ down
        assert torch.allclose(value, after.tensors[name].tensor(), atol=1e-6), name


def test_the_file_says_what_it_is(base: Path, lora: Path, tmp_path: Path) -> None:
    plan = plan_lora(lora, "q8_0", base=base, name="mine")
    file = write_gguf(plan.tensors, plan.metadata, tmp_path / "lora.gguf").path
    header = read_gguf_header(file)
    said = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "mine",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
    }
    assert said.items() <= header.metadata.items()
    assert not [key for key in header.metadata if key.startswith(("tokenizer.", "llama."))]
    assert header.tensors["blk.0.attn_q.weight.lora_a"].type_name == "Q8_0"
    assert header.tensors["blk.0.attn_q.weight.lora_b"].type_name == "F16"  # rows of 4 numbers
    assert ("blk.0.attn_q.weight.lora_b", "Q8_0") in {
        (one.tensor, one.wanted) for one in plan.fallbacks
    }


def test_the_model_is_found_beside_the_adapter(base: Path, lora: Path, tmp_path: Path) -> None:
    place = shutil.copytree(lora, tmp_path / "lora")
    wanted = set(plan_lora(place, "f16", base=base).tensors)
    assert set(plan_lora(place, "f16").tensors) == wanted  # peft wrote where it was
    change(place / "adapter_config.json", base_model_name_or_path="owner/model")
    with pytest.raises(GgufSourceError, match=r"--base DIR") as caught:
        plan_lora(place, "f16")
    assert caught.value.code == "gguf_missing_base"
    shutil.copy(base / "config.json", place)
    assert set(plan_lora(place, "f16").tensors) == wanted


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_shape(base: Path, lora: Path) -> None:
    del base
    replace(lora, "q_proj.lora_A", lambda value: value[:, :-1].contiguous())


def other_layer(base: Path, lora: Path) -> None:
    del lora
    change(base / "config.json", num_hidden_layers=1)
    (base / "model.safetensors").unlink()


def embedding(base: Path, lora: Path) -> None:
    del base
    replace(lora, "q_proj.lora_A", lambda value: value.clone(), "embed_tokens.weight")


def head(base: Path, lora: Path) -> None:
    change(base / "config.json", tie_word_embeddings=True)
    weights = safetensors_torch.load_file(lora / "adapter_model.safetensors")
    for side, shape in (("A", (4, 32)), ("B", (320, 4))):
        weights[f"base_model.model.lm_head.lora_{side}.weight"] = torch.zeros(shape)
    safetensors_torch.save_file(weights, lora / "adapter_model.safetensors")


def replace(lora: Path, part: str, work: Any, renamed: str = "") -> None:
    weights = safetensors_torch.load_file(lora / "adapter_model.safetensors")
    name = next(name for name in sorted(weights) if part in name)
    value = work(weights.pop(name) if not renamed else weights[name])
    weights[f"base_model.model.model.{renamed}" if renamed else name] = value
    safetensors_torch.save_file(weights, lora / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "code", "tensor"),
    [
        (other_shape, "gguf_unsupported_adapter", "blk.0.attn_q.weight"),
        (other_layer, "gguf_unknown_tensor", "layers.1"),
        (embedding, "gguf_unsupported_adapter", "embed_tokens"),
        (head, "gguf_unsupported_adapter", "output.weight"),
    ],
)
def test_what_does_not_fit_is_named(
    damage: Any, code: str, tensor: str, base: Path, lora: Path, tmp_path: Path
) -> None:
    model, place = (shutil.copytree(one, tmp_path / one.name) for one in (base, lora))
    damage(model, place)
    with pytest.raises(GgufSourceError) as caught:
        plan_lora(place, "f16", base=model)
    assert caught.value.code == code
    assert tensor in caught.value.tensor


def test_types_that_lose_much_are_refused(base: Path, lora: Path) -> None:
    with pytest.raises(GgufSourceError, match="instead of 'q4_k_m'"):
        plan_lora(lora, "q4_k_m", base=base)
