"""LoRAs for the components of a pipeline, and the files that users of what was trained load."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.models.loading.libraries import library
from gen_worker.trainer.data.order import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gen_worker.trainer.recipes.diffusion.families import Family
    from gen_worker.trainer.recipes.diffusion.options import DiffusionOptions
    from gen_worker.trainer.steps import StepContext

__all__ = ["attach_lora", "export"]

_CLIP_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
_WEIGHTS = "pytorch_lora_weights.safetensors"


def attach_lora(
    name: str, module: Any, targets: Sequence[str] | None, options: DiffusionOptions
) -> None:
    """Put matrices beside those of a component; they alone are trained.

    Args:
        name: Of the component.
        module: Of diffusers or transformers.
        targets: Layers; None: those of attention in CLIP.
        options: Of the run; its targets are the denoiser's.
    """
    torch = library("torch")
    chosen = (options.lora_targets or targets) if targets else _CLIP_TARGETS
    config = library("peft").LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha or options.lora_rank,
        init_lora_weights="gaussian",
        target_modules=list(chosen),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("lora", name, options.seed))
        module.add_adapter(config)
    # What is trained is kept in full precision, whatever is only read.
    library("diffusers.training_utils").cast_training_params(module, torch.float32)


def export(
    pipeline: Any,
    family: Family,
    trained: Sequence[str],
    directory: Path,
    ctx: StepContext,
    options: DiffusionOptions,
) -> dict[str, Any]:
    """Write what was trained, in the layout of diffusers.

    Returns:
        Its main file, and what it was made from.
    """
    base = str(ctx.model_handles.get("base_model_ref") or "")
    told = {"method": options.method, "base_model_ref": base, "components": list(trained)}
    if options.method == "full":
        for name in trained:
            getattr(pipeline, name).save_pretrained(directory / name)
        weights = "diffusion_pytorch_model.safetensors"
        return {**told, "primary_path": os.path.join(family.denoiser, weights)}
    peft, utils = library("peft"), library("diffusers.utils")
    layers: dict[str, Any] = {}
    for name in trained:
        module = getattr(pipeline, name)
        matrices = peft.get_peft_model_state_dict(module)
        if name != "transformer":
            matrices = utils.convert_state_dict_to_diffusers(matrices)
        layers[f"{name}_lora_layers"] = matrices
        config = module.peft_config["default"].to_dict()
        layers[f"{name}_lora_adapter_metadata"] = {
            # The order of a set is another in each process, and files are compared by their bytes.
            key: sorted(value) if isinstance(value, set) else value
            for key, value in config.items()
        }
    pipeline.save_lora_weights(directory, **layers)
    return {**told, "primary_path": _WEIGHTS}
