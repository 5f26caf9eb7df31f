"""Checkpoints in one file: safetensors as they were first published, and GGUF."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_worker.models.formats import DamagedFileError
from gen_worker.models.loading import (
    ConfigNeededError,
    MissingComponentsError,
    UnsupportedFormatError,
    build_function_owned_pipeline,
    class_named,
    load,
    plan,
    plan_component,
)

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("gguf")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of diffusers with NumPy 2, and of it and transformers reading GGUF; not of ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]


def pixels(pipeline: Any, size: int = 32) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "height": size, "width": size, "output_type": "np"}
    return pipeline("a horse", generator=generator, **options).images[0]


def configuration_of(folder: Path, target: Path) -> Path:
    """Copy a model without its weights."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(folder, target, ignore=ignore))


def test_a_checkpoint_in_one_file_makes_the_same_image(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    from gen_worker.models.tiny import to_single_file

    folder = models("stable_diffusion")
    whole = load(plan(folder)).object
    file = Path(to_single_file(tmp_path / "sd.safetensors", whole))
    config = configuration_of(folder, tmp_path / "config")
    made = plan(file, config_dir=str(config))
    assert made.method == "file"
    assert made.cls is diffusers.StableDiffusionPipeline
    loaded = load(made)
    assert loaded.is_pipeline
    assert set(loaded.components) >= {"unet", "vae", "text_encoder"}
    assert (pixels(loaded.object) == pixels(whole)).all()
    with pytest.raises(ConfigNeededError) as caught:
        load(plan(file, diffusers.StableDiffusionPipeline))
    assert caught.value.config_repo == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_a_language_model_in_gguf_is_the_same_model(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    from gen_worker.models.tiny import tiny_llama_gguf

    folder = models("llama")
    tiny_llama_gguf(tmp_path / "tiny.gguf", folder)
    made = plan(tmp_path, transformers.AutoModelForCausalLM)
    assert made.method == "gguf"
    model = load(made).object
    assert plan(tmp_path / "tiny.gguf", transformers.LlamaForCausalLM).method == "gguf"
    tokenizer = load(plan(tmp_path, transformers.AutoTokenizer)).object
    original = load(plan(folder)).object
    tokens = load(plan(folder, transformers.AutoTokenizer)).object(
        "once upon a time", add_special_tokens=False, return_tensors="pt"
    )
    theirs = tokenizer("once upon a time", add_special_tokens=False, return_tensors="pt")
    assert theirs["input_ids"].tolist() == tokens["input_ids"].tolist()
    with torch.no_grad():
        assert torch.allclose(model(**tokens).logits, original(**tokens).logits, atol=1e-4)


def test_a_pipeline_with_its_transformer_in_gguf(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    from gen_worker.models.tiny import tiny_flux_gguf

    folder = models("flux")
    root = Path(shutil.copytree(folder, tmp_path / "model"))
    (root / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    file = Path(tiny_flux_gguf(root / "transformer" / "tiny.gguf", folder / "transformer"))
    made = plan(root, diffusers.FluxPipeline)
    part = next(part for part in made.components if part.name == "transformer")
    assert part.method == "gguf"
    assert part.size_bytes < file.stat().st_size
    near = pixels(load(made).object, 16)
    exact = pixels(load(plan(folder)).object, 16)
    assert near.var() > 0
    assert abs(near - exact).mean() < 0.1
    with pytest.raises(UnsupportedFormatError, match="holds one component"):
        plan(file, diffusers.FluxPipeline)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DamagedFileError):
        plan(root, diffusers.FluxPipeline)


def test_a_variant_over_a_shared_base(models: Callable[..., Path], tmp_path: Path) -> None:
    folder = models("stable_diffusion")
    tuned = configuration_of(models("stable_diffusion", seed=5) / "unet", tmp_path / "unet-only")
    weights = "diffusion_pytorch_model.safetensors"
    shutil.copy(models("stable_diffusion", seed=5) / "unet" / weights, tuned / weights)
    names = ("vae", "text_encoder", "tokenizer", "scheduler")
    shared = {name: load(plan_component(folder, name)).object for name in names}
    unet = load(plan_component(tuned, "unet")).object
    cls = class_named("diffusers.StableDiffusionPipeline")
    made = build_function_owned_pipeline(shared, cls, unet=unet)
    other = build_function_owned_pipeline(shared, cls, unet=unet)
    assert made.vae is other.vae is shared["vae"]
    assert made.scheduler is not other.scheduler
    assert (pixels(made) != pixels(load(plan(folder)).object)).any()
    assert (pixels(made) == pixels(other)).all()
    assert unet.dtype == shared["text_encoder"].dtype == torch.float32
    with pytest.raises(MissingComponentsError, match="'unet'"):
        build_function_owned_pipeline(shared, cls)
    with pytest.raises(MissingComponentsError, match="text_encoder_3"):
        plan_component(folder, "text_encoder_3")
