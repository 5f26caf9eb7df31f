"""Pipelines as one file and back: nothing is lost, and diffusers makes the same images of both."""

from __future__ import annotations

import json
import shutil
import types
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import safetensors.torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image

from gen_worker.cancel import CancelToken
from gen_worker.conversion.errors import ConversionInputError, NotImplementedFamilyError
from gen_worker.conversion.layout.families import LAYOUTS
from gen_worker.conversion.layout.single_file import (
    convert_diffusers_to_singlefile,
    diffusers_to_singlefile,
    packed_pipeline,
    singlefile_to_diffusers,
)
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.errors import CanceledError
from gen_worker.models.tiny import (
    tiny_flux,
    tiny_stable_diffusion,
    tiny_stable_diffusion_3,
    tiny_stable_diffusion_xl,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.conversion.lazy import Checkpoint

diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
loading: Any = pytest.importorskip("diffusers.loaders.single_file_model")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
_FLUX_WIDTH = 3072
_FAMILIES = ("sd15", "sd2", "sdxl", "sdxl-refiner", "sd3", "flux1")


def _pipeline_of(family: str, root: Path) -> Path:
    """Save a tiny pipeline of a family; return its folder."""
    torch.manual_seed(7)
    place = root / family
    pipe = _MAKERS[family](root / f"{family}-plain")
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():  # norms and biases are trivial otherwise
                parameter.data += 0.05 * torch.randn_like(parameter)
            for name, buffer in part.named_buffers():
                assert name.endswith(("pos_embed", "position_ids", "inv_freq")), name
                if name.endswith("pos_embed"):
                    buffer += 0.05
    if family == "sd3":  # diffusers takes an identity, whatever a single file says
        pipe.text_encoder.text_projection.weight.data = torch.eye(32)
    pipe.save_pretrained(place)
    return place


def _sd15(place: Path) -> Any:
    return diffusers.StableDiffusionPipeline.from_pretrained(tiny_stable_diffusion(place))


def _sd2(place: Path) -> Any:
    pipe = _sd15(place)
    config = {**pipe.unet.config, "use_linear_projection": True}
    pipe.unet = diffusers.UNet2DConditionModel.from_config(config)
    pipe.text_encoder = _clip("CLIPTextModel", 32, hidden_act="gelu")
    return pipe


def _sdxl(place: Path) -> Any:
    cls = diffusers.StableDiffusionXLPipeline
    pipe = cls.from_pretrained(tiny_stable_diffusion_xl(place))
    pipe.text_encoder = _clip("CLIPTextModel", 16)
    pipe.text_encoder_2 = _clip("CLIPTextModelWithProjection", 48, hidden_act="gelu")
    return pipe


def _refiner(place: Path) -> Any:
    base = _sdxl(place)
    config = {
        **base.unet.config,
        "cross_attention_dim": 48,
        "projection_class_embeddings_input_dim": 72,
    }
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=diffusers.UNet2DConditionModel.from_config(config),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


def _sd3(place: Path) -> Any:
    pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(tiny_stable_diffusion_3(place))
    config = {**pipe.transformer.config, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
    pipe.transformer = diffusers.SD3Transformer2DModel.from_config(config)
    pipe.text_encoder_2 = _clip("CLIPTextModelWithProjection", 16, hidden_act="gelu")
    return pipe


def _flux(place: Path) -> Any:
    pipe = diffusers.FluxPipeline.from_pretrained(tiny_flux(place))
    config = {**pipe.transformer.config, "guidance_embeds": True}
    pipe.transformer = diffusers.FluxTransformer2DModel.from_config(config)
    return pipe


def _clip(name: str, width: int, **options: Any) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
        **options,
    )
    return getattr(transformers, name)(config)


_MAKERS: dict[str, Callable[[Path], Any]] = {
    "sd15": _sd15,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sdxl-refiner": _refiner,
    "sd3": _sd3,
    "flux1": _flux,
}


class _Made:
    """Pipelines and their single files, made when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, Path] = {}

    def folder(self, family: str) -> Path:
        if family not in self._folders:
            self._folders[family] = _pipeline_of(family, self.root)
        return self._folders[family]

    def file(self, family: str) -> Path:
        file = self.root / f"{family}-single" / "model.safetensors"
        if not file.exists():
            made = diffusers_to_singlefile(self.folder(family), file, dtype="")
            assert made.family == family
        return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    return _Made(tmp_path_factory.mktemp("single"))


def _named_alike(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return tensors; transformers 5.6 and later read a text encoder with or without a prefix."""
    return {
        name.removeprefix("text_model."): tensor.tensor() for name, tensor in checkpoint.items()
    }


@pytest.mark.parametrize("family", _FAMILIES)
def test_there_and_back_is_the_same_pipeline(family: str, made: _Made, tmp_path: Path) -> None:
    source = made.folder(family)
    result = singlefile_to_diffusers(
        made.file(family), tmp_path / "back", config_dir=source, dtype=""
    )
    assert (result["family"], result["extra"], result["absent"]) == (family, (), ())
    for part in LAYOUTS[family].every:
        before = _named_alike(open_checkpoint(source / part.component))
        after = _named_alike(open_checkpoint(tmp_path / "back" / part.component))
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), name
    files = {one.relative_to(source) for one in source.rglob("*") if one.is_file()}
    assert files == {
        one.relative_to(tmp_path / "back")
        for one in (tmp_path / "back").rglob("*")
        if one.is_file()
    }


def _image(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # diffusers 0.42 forgets it for a T5 of a single file
    options: dict[str, Any] = {"height": 32, "width": 32}
    if isinstance(pipe, diffusers.StableDiffusionXLImg2ImgPipeline):
        options = {"image": Image.new("RGB", (32, 32), "teal"), "strength": 1.0}
    return pipe(
        "a cat",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        **options,
    ).images


def _flux_of_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Let diffusers read a FLUX.1 of another size: it knows that of the published one only."""
    entry = loading.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    function = entry["checkpoint_mapping_fn"]
    assert _FLUX_WIDTH in function.__code__.co_consts
    code = function.__code__.replace(
        co_consts=tuple(width if one == _FLUX_WIDTH else one for one in function.__code__.co_consts)
    )
    changed = types.FunctionType(code, function.__globals__)
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", changed)


@pytest.mark.parametrize("family", _FAMILIES)
def test_diffusers_makes_the_same_image_of_the_single_file(
    family: str, made: _Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made.folder(family)
    config = tmp_path / "config"  # without any weights: all must come from the file
    shutil.copytree(source, config, ignore=shutil.ignore_patterns("*.safetensors"))
    if family == "flux1":
        _flux_of_any_width(monkeypatch, 32)
    whole = diffusers.DiffusionPipeline.from_pretrained(source, local_files_only=True)
    single = type(whole).from_single_file(
        str(made.file(family)), config=str(config), local_files_only=True
    )
    assert numpy.array_equal(_image(whole), _image(single))


def test_a_folder_made_here_loads(made: _Made, tmp_path: Path) -> None:
    source = made.folder("sdxl")
    singlefile_to_diffusers(made.file("sdxl"), tmp_path / "back", config_dir=source, dtype="")
    whole = diffusers.DiffusionPipeline.from_pretrained(source)
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert numpy.array_equal(_image(whole), _image(back))


def test_casts_and_says_so(made: _Made, tmp_path: Path) -> None:
    written = convert_diffusers_to_singlefile(made.folder("sd15"), tmp_path / "half.safetensors")
    assert {one.dtype for one in open_checkpoint(written.file.path).values()} == {"F16"}
    source = made.folder("sd15")
    singlefile_to_diffusers(written.file.path, tmp_path / "back", config_dir=source)
    assert {one.dtype for one in open_checkpoint(tmp_path / "back/unet").values()} == {"BF16"}
    config = json.loads((tmp_path / "back/text_encoder/config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_old_names_of_an_autoencoder_are_understood(made: _Made, tmp_path: Path) -> None:
    source = tmp_path / "old"
    shutil.copytree(made.folder("sd15"), source)
    file = source / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = {}
    for name, tensor in safetensors.torch.load_file(file).items():
        for new_name, old_name in old.items():
            name = name.replace(new_name, old_name)
        tensors[name] = tensor
    assert "decoder.mid_block.attentions.0.query.weight" in tensors
    safetensors.torch.save_file(tensors, file)
    old_file, new_file = packed_pipeline(source), packed_pipeline(made.folder("sd15"))
    assert (old_file.extra, old_file.missing) == ((), ())
    for name, recipe in new_file.tensors.items():
        assert torch.equal(old_file.tensors[name].tensor(), recipe.tensor()), name


def test_stable_diffusion_2_leaves_its_last_layer_out(made: _Made, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(made.file("sd2"))
    start = "cond_stage_model.model.transformer.resblocks"
    last = {
        name.replace(f"{start}.1.", f"{start}.2."): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(f"{start}.1.")
    }
    safetensors.torch.save_file({**tensors, **last}, tmp_path / "all.safetensors")
    result = singlefile_to_diffusers(
        tmp_path / "all.safetensors", tmp_path / "back", config_dir=made.folder("sd2")
    )
    assert set(result["extra"]) == set(last)


def test_what_is_not_there_is_named(made: _Made, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(made.file("sd3"))
    given = {name: one for name, one in tensors.items() if ".t5xxl." not in name}
    given["something.else"] = torch.zeros(2)
    safetensors.torch.save_file(given, tmp_path / "small.safetensors")
    config = tmp_path / "config"
    shutil.copytree(made.folder("sd3"), config, ignore=shutil.ignore_patterns("*.safetensors"))
    result = singlefile_to_diffusers(
        tmp_path / "small.safetensors", tmp_path / "back", config_dir=config, dtype=""
    )
    assert result["extra"] == ("something.else",)
    assert result["absent"] == ("text_encoder_3",)
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back", text_encoder_3=None)
    assert back.text_encoder_3 is None
    del given["model.diffusion_model.final_layer.linear.bias"]
    del given["model.diffusion_model.final_layer.linear.weight"]
    safetensors.torch.save_file(given, tmp_path / "damaged.safetensors")
    with pytest.raises(ConversionInputError, match=r"missing: model\.diffusion_model\.final_layer"):
        singlefile_to_diffusers(
            tmp_path / "damaged.safetensors", tmp_path / "never", config_dir=config
        )
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "back",
        "config",
        "damaged.safetensors",
        "small.safetensors",
    ]


def test_a_tensor_without_a_place_is_not_dropped(made: _Made, tmp_path: Path) -> None:
    source = tmp_path / "more"
    shutil.copytree(made.folder("sd15"), source)
    file = source / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({**tensors, "control.weight": torch.ones(2)}, file)
    with pytest.raises(ConversionInputError, match=r"unet/control\.weight"):
        diffusers_to_singlefile(source, tmp_path / "never.safetensors")
    assert not (tmp_path / "never.safetensors").exists()


def test_nothing_is_left_of_what_was_canceled(made: _Made, tmp_path: Path) -> None:
    token = CancelToken()
    token.cancel()
    file = made.file("sd15")
    with pytest.raises(CanceledError):
        diffusers_to_singlefile(made.folder("sd15"), tmp_path / "a.safetensors", token=token)
    with pytest.raises(CanceledError):
        singlefile_to_diffusers(file, tmp_path / "out", config_dir=made.folder("sd15"), token=token)
    assert list(tmp_path.iterdir()) == []


def test_families_are_told_and_checked(made: _Made, tmp_path: Path) -> None:
    with pytest.raises(ConversionInputError, match="'sd15', not 'sdxl-pony'"):
        packed_pipeline(made.folder("sd15"), model_family="sdxl-pony")
    assert packed_pipeline(made.folder("sdxl"), model_family="sdxl-pony").family == "sdxl"
    assert packed_pipeline(made.folder("sd2"), model_family="sd15_sd2").family == "sd2"
    with pytest.raises(NotImplementedFamilyError) as caught:
        singlefile_to_diffusers(made.file("sd15"), tmp_path / "never", model_family="wan21")
    code = "unsupported_family_for_layout_conversion:wan21:singlefile_to_diffusers"
    assert caught.value.code == code
    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    with pytest.raises(NotImplementedFamilyError, match="SanaPipeline"):
        packed_pipeline(other)


def test_without_a_folder_the_tokenizers_are_asked_for(made: _Made, tmp_path: Path) -> None:
    result = singlefile_to_diffusers(made.file("sd15"), tmp_path / "back")
    assert result["pipeline_class"] == "StableDiffusionPipeline"
    assert result["needs"] == ("tokenizer",)
    for part in ("vae", "unet", "text_encoder"):
        config = json.loads((tmp_path / "back" / part / "config.json").read_text())
        assert config.get("_class_name") or config["architectures"]
    with pytest.raises(ConversionInputError, match="config_dir in Python"):
        singlefile_to_diffusers(made.file("sd2"), tmp_path / "never")
