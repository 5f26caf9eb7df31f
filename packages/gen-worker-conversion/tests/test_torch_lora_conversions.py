"""LoRAs as sources of plans, in every format, and merged into the model that is converted."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import (
    ConversionPlan,
    MergedLora,
    ModelMerge,
    inspect_model,
    plan_conversion,
    prove_outputs,
    relation_of,
    run_conversion,
    verify_flavor,
)
from gen_worker.conversion.lora import open_adapter

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

LAYOUTS = ("diffusers", "kohya", "peft")
QUERY = "mid_block.attentions.0.to_q"
CONV = "mid_block.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.mlp.fc1"


def save(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors_torch.save_file(tensors, path, metadata or None)
    return path


def lora(path: Path, *, seed: int = 0, **more: Any) -> Path:
    """Write a LoRA of kohya with an alpha that bf16 cannot hold."""
    torch.manual_seed(seed)
    tensors = dict(more)
    shapes = {
        f"lora_unet_{QUERY}": ((3, 8), (6, 3)),
        f"lora_unet_{CONV}": ((3, 4, 3, 3), (6, 3, 1, 1)),
        f"lora_te_{TEXT}": ((3, 8), (6, 3)),
    }
    for name, (down, up) in shapes.items():
        key = name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = torch.randn(down)
        tensors[f"{key}.lora_up.weight"] = torch.randn(up)
        tensors[f"{key}.alpha"] = torch.tensor(1.2345)
    return save(path, tensors)


def pipeline(root: Path, dtype: Any = torch.float32) -> Path:
    torch.manual_seed(9)
    unet = {
        f"{QUERY}.weight": torch.randn(6, 8).to(dtype),
        f"{CONV}.weight": torch.randn(6, 4, 3, 3).to(dtype),
        "mid_block.norm.weight": torch.randn(4).to(dtype),
    }
    save(root / "unet" / "diffusion_pytorch_model.safetensors", unet)
    text = {f"{TEXT}.weight": torch.randn(6, 8).to(dtype)}
    save(root / "text_encoder" / "model.safetensors", text)
    save(root / "vae" / "diffusion_pytorch_model.safetensors", {"a": torch.randn(4).to(dtype)})
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def done(plan: ConversionPlan) -> ConversionPlan:
    run_conversion(plan)
    for flavor in plan.flavors:
        verify_flavor(plan, flavor)
    return plan


def reasons(plan: ConversionPlan) -> str:
    return "\n".join(one.reason for one in plan.refusals)


def update(path: Path, component: str, module: str) -> Any:
    layer = open_adapter(path).layers[component][module]
    up = layer.up.tensor().reshape(layer.up.row_count, -1)
    made = up @ layer.down.tensor().reshape(layer.rank, -1)
    return layer.scale * made.reshape(layer.up.row_count, *layer.down.shape[1:])


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(LAYOUTS, 2)))
def test_a_lora_becomes_every_format_from_every_other(
    first: Any, second: Any, tmp_path: Path
) -> None:
    source = open_adapter(lora(tmp_path / "style.safetensors"))
    done(
        plan_conversion(tmp_path / "style.safetensors", ["fp32"], out=tmp_path / "1", layout=first)
    )
    plan = plan_conversion(tmp_path / "1", ["fp32"], out=tmp_path / "2", layout=second)
    done(plan)

    facts = inspect_model(tmp_path / "2")
    assert facts.refusals == ()
    assert facts.adapter is not None
    assert facts.adapter.format == second
    found = open_adapter(tmp_path / "2")
    assert found.unknown == ()
    assert found.layers.keys() == source.layers.keys()
    for component, layers in source.layers.items():
        assert found.layers[component].keys() == layers.keys()
        for module, layer in layers.items():
            other = found.layers[component][module]
            assert other.alpha == pytest.approx(layer.alpha, rel=1e-7)
            assert torch.equal(other.down.tensor(), layer.down.tensor())
            assert torch.equal(other.up.tensor(), layer.up.tensor())


@pytest.mark.parametrize("layout", [None, *LAYOUTS])
def test_a_cast_leaves_alphas_alone(layout: Any, tmp_path: Path) -> None:
    path = lora(tmp_path / "style.safetensors")

    plan = done(plan_conversion(path, ["bf16"], out=tmp_path / "out", layout=layout))

    assert all(part.action == "cast" for part in plan.flavors[0].components)
    for layers in open_adapter(tmp_path / "out").layers.values():
        for layer in layers.values():
            assert layer.alpha == pytest.approx(1.2345, rel=1e-6)
            assert {layer.down.dtype, layer.up.dtype} == {"BF16"}


def test_what_a_lora_cannot_become_is_refused(tmp_path: Path, small_models: Any) -> None:
    path = lora(tmp_path / "style.safetensors")
    odd = lora(tmp_path / "odd.safetensors", **{"lora_unet_x.hada_w1_a": torch.ones(2, 2)})
    out = tmp_path / "out"

    assert "a LoRA of 'int8'" in reasons(plan_conversion(path, ["int8"], out=out))
    packed = plan_conversion(path, ["bf16"], out=out, layout="singlefile")
    assert "diffusers, kohya and peft" in reasons(packed)
    assert "'lora_unet_x.hada_w1_a'" in reasons(
        plan_conversion(odd, ["bf16"], out=out, layout="peft")
    )
    assert not plan_conversion(odd, ["bf16"], out=out).refusals
    model = small_models.folder(tmp_path / "model")
    assert "no LoRA" in reasons(plan_conversion(model, ["bf16"], out=out, layout="kohya"))


def test_loras_are_merged_into_what_is_converted(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "model", torch.float16)
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    paths = [lora(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]
    loras = [MergedLora(path=str(paths[0]), scale=0.5), MergedLora(path=str(paths[1]))]

    plan = done(plan_conversion(source, ["bf16"], out=tmp_path / "out", loras=loras))

    parts = {part.name: part for part in plan.flavors[0].components}
    facts = {name: (part.merged, part.changed, part.tensors) for name, part in parts.items()}
    assert facts == {"unet": (2, 3, 3), "text_encoder": (1, 1, 1), "vae": (0, 1, 1)}
    assert (parts["unet"].source_dtype, parts["unet"].dtype) == ("fp16", "bf16")
    assert plan.flavors[0].attributes == {"merged_loras": "0.safetensors:0.5,1.safetensors:1"}
    for component, module in (("unet", QUERY), ("unet", CONV), ("text_encoder", TEXT)):
        file = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        place = f"{component}/{file}.safetensors"
        weight = safetensors_torch.load_file(source / place)[f"{module}.weight"].float()
        made = safetensors_torch.load_file(tmp_path / "out" / place)[f"{module}.weight"]
        expected = weight + 0.5 * update(paths[0], component, module)
        expected += update(paths[1], component, module)
        assert made.dtype is torch.bfloat16  # rounded once, from float32
        torch.testing.assert_close(made.float(), expected, atol=1e-5, rtol=2**-8)
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before


def test_merges_are_named_in_the_proof_without_their_places(tmp_path: Path) -> None:
    sources = [pipeline(tmp_path / name) for name in ("first", "second")]
    path = lora(tmp_path / "style.safetensors")
    plan = plan_conversion(
        sources[0],
        ["bf16"],
        out=tmp_path / "out",
        merge=ModelMerge(method="linear", models=(str(sources[1]),), weights=(3.0,)),
        loras=[MergedLora(path=str(path), scale=0.5)],
    )
    run_conversion(plan)

    [proven] = prove_outputs(plan)

    assert relation_of(plan.flavors[0]) == "manual-fork"
    assert proven.produced.attributes["merge_method"] == "linear"
    recipe = json.loads((tmp_path / "out" / "provenance.json").read_text())["recipe"]
    assert recipe["merge"] == {
        "method": "linear",
        "models": ["second"],
        "weights": [3.0],
        "source_weight": 1.0,
    }
    [merged] = recipe["loras"]
    assert merged["path"].startswith("style.safetensors blake3:")
    assert "base_model_relation: merge" in (tmp_path / "out" / "README.md").read_text()


def test_a_component_that_is_not_converted_takes_its_lora_all_the_same(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "model", torch.float16)
    path = lora(tmp_path / "style.safetensors")

    plan = done(
        plan_conversion(
            source,
            ["fp32"],
            out=tmp_path / "out",
            components=["text_encoder"],
            keep=["*fc1*"],
            loras=[MergedLora(path=str(path))],
        )
    )

    parts = {part.name: part for part in plan.flavors[0].components}
    assert {name: (part.action, part.merged, part.dtype) for name, part in parts.items()} == {
        "unet": ("merge", 2, "fp16"),
        "text_encoder": ("cast", 1, "fp32"),
        "vae": ("copy", 0, "fp16"),
    }
    assert parts["unet"].size_bytes == parts["unet"].source_bytes
    text = safetensors_torch.load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert text[f"{TEXT}.weight"].dtype is torch.float16  # it is kept in its own precision


def test_a_lora_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    source = pipeline(tmp_path / "model")
    out = tmp_path / "out"

    def refused(path: Path, **options: Any) -> str:
        loras = [MergedLora(path=str(path))]
        return reasons(plan_conversion(source, ["bf16"], out=out, loras=loras, **options))

    down, up = torch.ones(2, 8), torch.ones(6, 2)
    other = "unet.mid_block.attentions.7.to_q"
    missing = {f"{other}.lora_A.weight": down, f"{other}.lora_B.weight": up}
    elsewhere = {"transformer.x.lora_A.weight": down, "transformer.x.lora_B.weight": up}
    assert "mid_block.attentions.7.to_q are in an adapter" in refused(
        save(tmp_path / "a.safetensors", missing)
    )
    assert "no component 'transformer'" in refused(save(tmp_path / "b.safetensors", elsewhere))
    fits = lora(tmp_path / "c.safetensors", odd=torch.ones(2))
    assert "odd are no updates of low rank" in refused(fits)
    assert "nothing is merged on the way to the layout" in refused(
        lora(tmp_path / "d.safetensors"), layout="singlefile"
    )
    assert not out.exists()
