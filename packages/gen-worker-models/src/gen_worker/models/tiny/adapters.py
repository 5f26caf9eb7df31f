"""A LoRA for one of the tiny pipelines."""

from __future__ import annotations

import os
from typing import Any

from gen_worker.models.loading.libraries import library

__all__ = ["tiny_lora"]


def tiny_lora(
    directory: str | os.PathLike[str],
    pipeline: Any,
    *,
    seed: int = 1,
    rank: int = 2,
    targets: tuple[str, ...] = ("to_q", "to_v"),
) -> str:
    """Save a LoRA for a pipeline's denoiser, made by peft; return the file.

    Args:
        directory: Where `pytorch_lora_weights.safetensors` goes.
        pipeline: A live pipeline of diffusers; it is the same afterwards.
        seed: Of the adapter's weights.
        rank: Of the adapter.
        targets: Names of the layers it changes.
    """
    torch, peft = library("torch"), library("peft")
    component = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
    model = getattr(pipeline, component)
    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights=False
    )
    torch.manual_seed(seed)
    model.add_adapter(config, adapter_name="made")
    layers = peft.get_peft_model_state_dict(model, adapter_name="made")
    # From a generator: what peft draws by itself is too small to be seen in an image.
    generator = torch.Generator().manual_seed(seed)
    layers = {key: torch.randn(x.shape, generator=generator) for key, x in layers.items()}
    model.unload_lora()
    path = os.fspath(directory)
    pipeline.save_lora_weights(path, **{f"{component}_lora_layers": layers})
    return os.path.join(path, "pytorch_lora_weights.safetensors")
