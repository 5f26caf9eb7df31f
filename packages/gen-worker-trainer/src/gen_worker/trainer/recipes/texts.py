"""What the recipes for texts share: a model of transformers, all of it or a LoRA, and its files."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.errors import ValidationError
from gen_worker.models.loading.libraries import library, quiet
from gen_worker.trainer.gradient import GradientOptions
from gen_worker.trainer.lora import attach_lora, base_model_of, save_lora

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.trainer.steps import StepContext

__all__ = [
    "TextOptions",
    "base_directory",
    "export_trained",
    "length_limit",
    "load_model",
    "trainable",
]

_CARRIED = (
    "1_Pooling",
    "2_Normalize",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
)
"""Files and folders beside a model that say how it is used; neither weights nor configuration."""


class TextOptions(GradientOptions, frozen=True, kw_only=True):
    """Hyperparameters of both recipes for texts, besides those of every `GradientTrainer`."""

    method: Literal["lora", "full"] = "lora"
    """Whether small matrices are trained beside the model's, or the model itself."""
    lora_rank: int = 16
    lora_alpha: float = 0.0
    """What the matrices count, divided by the rank; 0: twice the rank."""
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get matrices; empty: all linear ones but the output."""
    max_length: int = 0
    """Tokens of a text; 0: what the model says, at most 1024."""


def base_directory(ctx: StepContext) -> str:
    """Return where the base model is.

    Raises:
        ValidationError: The job names none, or no model of transformers.
    """
    path = str(ctx.model_handles.get("base_model_dir") or "")
    if not path:
        raise ValidationError(
            "this trainer needs a base model: set inputs.base_model_ref in the job spec",
            path="$.inputs.base_model_ref",
        )
    if not os.path.isfile(os.path.join(path, "config.json")):
        raise ValidationError(
            f"the base model {path!r} has no config.json: it has to be a folder that "
            "transformers can load",
            path="$.inputs.base_model_ref",
        )
    return path


def load_model(kind: str, ctx: StepContext, options: TextOptions, **more: Any) -> tuple[Any, Any]:
    """Return the base model, ready to be trained by the chosen method, and its tokenizer.

    Args:
        kind: Class of transformers, such as `AutoModel`.
        ctx: Of the run.
        options: Of the run.
        more: Further arguments of `from_pretrained`.
    """
    torch, transformers = library("torch"), library("transformers")
    path = base_directory(ctx)
    # What is trained is kept in full precision; what is only read, in that of the computation.
    is_small = options.method == "lora" and not ctx.device.startswith("cpu")
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = narrow.get(options.precision, torch.float32) if is_small else torch.float32
    safe = {"local_files_only": True, "trust_remote_code": False}
    with quiet("transformers"):
        model = getattr(transformers, kind).from_pretrained(path, dtype=dtype, **safe, **more)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **safe)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def length_limit(wanted: int, model: Any, tokenizer: Any, declared: int = 0) -> int:
    """Return how many tokens a text may have.

    Args:
        wanted: Of the options; 0 leaves it to the model.
        model: Has a configuration.
        tokenizer: Says what it was made for.
        declared: What the model's own files say besides; 0: nothing.

    Raises:
        ValidationError: More is wanted than the model has positions for.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or wanted or 1024
    if wanted > positions:
        raise ValidationError(
            f"max_length is {wanted} tokens, the model has positions for {positions}",
            path="$.hyperparams.max_length",
        )
    return wanted or min(declared or 1024, positions, tokenizer.model_max_length)


def trainable(model: Any, ctx: StepContext, options: TextOptions) -> Any:
    """Return the model with what is to be trained of it."""
    if options.method == "full":
        return model.requires_grad_(True)
    return attach_lora(
        model,
        rank=options.lora_rank,
        alpha=options.lora_alpha or 2 * options.lora_rank,
        dropout=options.lora_dropout,
        targets=options.lora_targets or "all-linear",
        base=base_model_of(ctx),
    )


def export_trained(model: Any, tokenizer: Any, base: str, directory: Path) -> dict[str, Any]:
    """Save what users load: an adapter in the layout of peft, or a model like the base.

    Returns:
        What is told of it.
    """
    if hasattr(model, "peft_config"):
        target = directory / "adapter"
        told: dict[str, Any] = save_lora(model, target)
    else:
        target = directory / "model"
        model.save_pretrained(target)
        told = {"primary_path": "model.safetensors", "format": "transformers"}
    _carry(tokenizer, base, target)
    return {**told, "primary_path": f"{target.name}/{told['primary_path']}"}


def _carry(tokenizer: Any, base: str, target: Path) -> None:
    """Put beside exported weights what is needed to use them."""
    tokenizer.save_pretrained(target)
    for name in _CARRIED:
        source = os.path.join(base, name)
        if os.path.isdir(source):
            shutil.copytree(source, target / name, dirs_exist_ok=True)
        elif os.path.isfile(source) and not (target / name).exists():
            shutil.copyfile(source, target / name)
