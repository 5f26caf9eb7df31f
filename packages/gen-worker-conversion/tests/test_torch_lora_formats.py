"""Adapters in the formats of peft, kohya and diffusers: one is the other, and merges as in peft."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any, get_args

import pytest
import safetensors.torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lora import (
    Adapter,
    LowRank,
    convert_lora,
    merge_adapters,
    merge_lora,
    open_adapter,
    write_adapter,
)
from gen_worker.conversion.lora.writing import AdapterFormat
from gen_worker.models.tiny import tiny_flux, tiny_stable_diffusion

if TYPE_CHECKING:
    from pathlib import Path

diffusers: Any = pytest.importorskip("diffusers")
peft: Any = pytest.importorskip("peft")

pytestmark = [
    # Of peft 0.21 and diffusers 0.42 with transformers 5; not of ours.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
_FORMATS = get_args(AdapterFormat)
_UNET = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["to_q", "to_v", "to_out.0", "conv1", "time_emb_proj"],
    "rank_pattern": {"attn2.to_q": 2},
    "alpha_pattern": {"conv1": 3},
}
# With `out_proj`: by it, diffusers knows a text encoder's part of a file of kohya.
_TEXT = {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "out_proj", "fc1"]}
_FLUX = {
    "r": 3,
    "lora_alpha": 5,
    "target_modules": [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "add_v_proj",
        "norm1.linear",
        "ff.net.2",
    ],
    "exclude_modules": r"single_transformer_blocks.*",
}


def _assert_close(actual: Any, expected: Any) -> None:
    # float32 sums in another order
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


class _Made:
    def __init__(self, root: Path) -> None:
        self.sd = root / "sd"
        tiny_stable_diffusion(self.sd)
        self.pipe = diffusers.StableDiffusionPipeline.from_pretrained(self.sd)
        self.unet, self.unet_merged = _adapter(self.pipe.unet, _UNET, root / "unet")
        self.text, self.text_merged = _adapter(self.pipe.text_encoder, _TEXT, root / "text")
        layers = {
            **open_adapter(self.unet, component="unet").layers,
            **open_adapter(self.text, component="text_encoder").layers,
        }
        self.both = Adapter(layers)


def _adapter(model: Any, options: dict[str, Any], place: Path) -> tuple[Path, dict[str, Any]]:
    """Save an adapter as peft does; return it, and the weights that peft merges it into."""
    torch.manual_seed(5)
    wrapped = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter)
    wrapped.save_pretrained(place)
    return place, dict(wrapped.merge_and_unload().state_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    return _Made(tmp_path_factory.mktemp("lora"))


def _assert_same(left: Adapter, right: Adapter) -> None:
    assert left.layers.keys() == right.layers.keys()
    for component, layers in left.layers.items():
        assert layers.keys() == right.layers[component].keys()
        for module, layer in layers.items():
            other = right.layers[component][module]
            assert layer.alpha == other.alpha, module
            assert torch.equal(layer.down.tensor(), other.down.tensor()), module
            assert torch.equal(layer.up.tensor(), other.up.tensor()), module


def test_a_merge_is_that_of_peft(made: _Made) -> None:
    for component, expected in (("unet", made.unet_merged), ("text_encoder", made.text_merged)):
        base = open_checkpoint(made.sd / component)
        merged = merge_adapters(base, [(made.both.layers[component], 1.0)])
        assert merged.unused == ()
        changed = 0
        for name, tensor in merged.tensors.items():
            _assert_close(tensor.tensor(), expected[name])
            changed += not torch.equal(tensor.tensor(), base[name].tensor())
        assert changed == len(made.both.layers[component])


def test_a_dora_merges_as_in_peft_in_every_format(made: _Made, tmp_path: Path) -> None:
    place, expected = _adapter(made.pipe.unet, {**_UNET, "use_dora": True}, tmp_path / "dora")
    base = open_checkpoint(made.sd / "unet")
    source = open_adapter(place)  # its modules tell that it is a UNet's
    files = [write_adapter(source, tmp_path / kind, to=kind).paths[0] for kind in _FORMATS]
    for adapter in (source, *map(open_adapter, files)):
        assert adapter.unknown == ()
        merged = merge_adapters(base, [(adapter.layers["unet"], 1.0)]).tensors
        half = merge_adapters(base, [(adapter.layers["unet"], 0.5)]).tensors
        for name, tensor in merged.items():
            weight, wanted = base[name].tensor(), expected[name]
            torch.testing.assert_close(tensor.tensor(), wanted, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                half[name].tensor(), (weight + wanted) / 2, atol=1e-4, rtol=1e-4
            )
            if tensor.row_count > 3:
                assert torch.equal(tensor.rows(1, 3), tensor.tensor()[1:3])


def test_magnitudes_of_inputs_are_refused(tmp_path: Path) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    file = _save(
        tmp_path / "odd.safetensors", {module: 4}, **{f"{module}.dora_scale": torch.ones(1, 8)}
    )
    with pytest.raises(ConversionInputError, match=r"one for each of the 4 outputs"):
        open_adapter(file)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(_FORMATS, 2)))
def test_every_format_becomes_every_other(
    first: Any, second: Any, made: _Made, tmp_path: Path
) -> None:
    for name, layers in made.both.layers.items():
        source = write_adapter(Adapter({name: layers}), tmp_path / name, to=first).paths[0]
        target = convert_lora(source, tmp_path / f"{name}-2", to=second, component=name)
        assert target.unknown == ()
        _assert_same(open_adapter(target.paths[0], component=name), Adapter({name: layers}))


@pytest.mark.parametrize("kind", ["kohya", "diffusers"])
def test_diffusers_loads_what_is_written(kind: Any, made: _Made, tmp_path: Path) -> None:
    file = write_adapter(made.both, tmp_path, to=kind).paths[0]
    pipe = copy.deepcopy(made.pipe)
    pipe.load_lora_weights(file, local_files_only=True)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for model, expected in (
        (pipe.unet, made.unet_merged),
        (pipe.text_encoder, made.text_merged),
    ):
        for name, tensor in model.state_dict().items():
            _assert_close(tensor, expected[name])


def test_a_fused_layer_of_flux_is_split_and_joined(tmp_path: Path) -> None:
    pipe = diffusers.FluxPipeline.from_pretrained(tiny_flux(tmp_path / "flux"))
    place, expected = _adapter(pipe.transformer, _FLUX, tmp_path / "peft")
    source = open_adapter(place, component="transformer")
    file = write_adapter(source, tmp_path / "kohya", to="kohya", family="flux1").paths[0]
    names = set(open_checkpoint(file))
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight" in names
    assert "lora_unet_double_blocks_0_txt_attn_qkv.lora_up.weight" in names
    base = open_checkpoint(tmp_path / "flux" / "transformer")
    for adapter in (source, open_adapter(file)):
        assert adapter.unknown == ()
        merged = merge_adapters(base, [(adapter.layers["transformer"], 1.0)])
        assert merged.unused == ()
        for name, tensor in merged.tensors.items():
            _assert_close(tensor.tensor(), expected[name])
    pipe.load_lora_weights(file, local_files_only=True)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for name, tensor in pipe.transformer.state_dict().items():
        _assert_close(tensor, expected[name])
    # Split layers share `down`: joined again they are what they were.
    again = write_adapter(open_adapter(file), tmp_path / "again", to="kohya", family="flux1")
    for name, recipe in open_checkpoint(again.paths[0]).items():
        assert torch.equal(recipe.tensor(), open_checkpoint(file)[name].tensor()), name


def _save(file: Path, modules: dict[str, int], **more: Any) -> Path:
    tensors = dict(more)
    for name, rows in modules.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(2, 8)
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, 2)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    safetensors.torch.save_file(tensors, file)
    return file


def test_sdxl_under_its_original_names(tmp_path: Path) -> None:
    file = _save(
        tmp_path / "xl.safetensors",
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": 8,
            "lora_unet_middle_block_1_proj_in": 8,
            "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_0_proj": 8,
            "lora_unet_input_blocks_3_0_op": 8,
            "lora_unet_output_blocks_2_2_conv": 8,
            "lora_te1_text_model_encoder_layers_0_mlp_fc1": 8,
            "lora_te2_text_model_encoder_layers_1_self_attn_out_proj": 8,
        },
    )
    adapter = open_adapter(file)
    assert adapter.unknown == ()
    assert {name: set(layers) for name, layers in adapter.layers.items()} == {
        "unet": {
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "mid_block.attentions.0.proj_in",
            "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj",
            "down_blocks.0.downsamplers.0.conv",
            "up_blocks.0.upsamplers.0.conv",
        },
        "text_encoder": {"text_model.encoder.layers.0.mlp.fc1"},
        "text_encoder_2": {"text_model.encoder.layers.1.self_attn.out_proj"},
    }


def test_what_is_no_low_rank_update_is_named(made: _Made, tmp_path: Path) -> None:
    file = _save(
        tmp_path / "odd.safetensors",
        {"lora_unet_mid_block_attentions_0_proj_in": 16, "lora_unet_mid_block_mystery_0": 4},
        **{"lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight": torch.ones(2, 2, 3, 3)},
    )
    assert open_adapter(file).unknown == (
        "lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight",
        "lora_unet_mid_block_mystery_0.alpha",
        "lora_unet_mid_block_mystery_0.lora_down.weight",
        "lora_unet_mid_block_mystery_0.lora_up.weight",
    )
    with pytest.raises(ConversionInputError, match="lora_mid"):
        merge_lora(made.sd, tmp_path / "never", [(file, 1.0)])
    half = tmp_path / "half.safetensors"
    safetensors.torch.save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 4)}, half)
    with pytest.raises(ConversionInputError, match="half of the update"):
        open_adapter(half)
    other = _save(tmp_path / "other.safetensors", {"lora_unet_down_blocks_9_attn_to_q": 4})
    with pytest.raises(ConversionInputError, match=r"down_blocks\.9\.attn\.to_q"):
        merge_lora(made.sd, tmp_path / "never", [(other, 1.0)])
    assert not (tmp_path / "never").exists()


def test_several_adapters_merge_into_a_pipeline(made: _Made, tmp_path: Path) -> None:
    both = write_adapter(made.both, tmp_path / "both", to="diffusers").paths[0]
    changed = merge_lora(
        made.sd, tmp_path / "merged", [(both, 0.5), (made.unet, -0.25)], component="unet"
    )
    assert changed == ("text_encoder", "unet")
    source = {one.relative_to(made.sd) for one in made.sd.rglob("*") if one.is_file()}
    target = tmp_path / "merged"
    assert {one.relative_to(target) for one in target.rglob("*") if one.is_file()} == source
    for component, merged, strength in (
        ("unet", made.unet_merged, 0.25),
        ("text_encoder", made.text_merged, 0.5),
    ):
        base = open_checkpoint(made.sd / component)
        for name, tensor in open_checkpoint(target / component).items():
            weight = base[name].tensor()
            expected = weight + strength * (merged[name] - weight)
            _assert_close(tensor.tensor(), expected)
    diffusers.StableDiffusionPipeline.from_pretrained(target)


def test_a_quantised_weight_is_refused(made: _Made, tmp_path: Path) -> None:
    name, layer = next(iter(made.both.layers["unet"].items()))
    file = tmp_path / "packed.safetensors"
    shape = (layer.up.shape[0], layer.down.row_elements)
    safetensors.torch.save_file({f"{name}.weight": torch.zeros(shape, dtype=torch.int8)}, file)
    with pytest.raises(ConversionInputError, match="is quantised"):
        merge_adapters(open_checkpoint(file), [({name: layer}, 1.0)])
    assert isinstance(layer, LowRank)
