"""Puts an adapter into a model: into which layers, and what of the model is trained then."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.trainer.steps import StepContext

__all__ = [
    "ADAPTER",
    "BaseModel",
    "attach_lora",
    "base_model_of",
    "default_targets",
    "put_in",
    "trainable_names",
]

ADAPTER = "default"
"""What peft calls an adapter that nobody has named."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of attention in models of diffusers, which its own training scripts adapt."""


class BaseModel(NamedTuple):
    """What an adapter belongs to; kept in its files."""

    ref: str = ""
    revision: str = ""


def base_model_of(ctx: StepContext) -> BaseModel:
    """Return what a job has as its base model, with the revision that its ref names after `@`."""
    ref, _, revision = str(ctx.model_handles.get("base_model_ref") or "").partition("@")
    return BaseModel(ref, revision)


def default_targets(model: Any) -> list[str] | Literal["all-linear"]:
    """Return the names of the layers that are usually adapted in a model of this architecture."""
    from peft.utils.constants import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN,
    )

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in KNOWN:
        return list(KNOWN[kind])
    names = [name for name, _ in model.named_modules()]
    found = [target for target in _ATTENTION if any(one.endswith(f".{target}") for one in names)]
    return found or "all-linear"


def attach_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: float = 0.0,
    dropout: float = 0.0,
    targets: Sequence[str] | str = (),
    init: bool | str = True,
    base: BaseModel | None = None,
    **options: Any,
) -> Any:
    """Put an adapter into a model, in its place; from here on nothing else of it is trained.

    What is trained is in fp32, whatever the model is in.

    Args:
        model: Of transformers, of diffusers, or any module.
        rank: Of the two matrices of each layer.
        alpha: Their product counts `alpha / rank`; 0 is `rank`.
        dropout: Of what the adapter sees.
        targets: Names of layers, or an expression; empty: what is usual for the architecture.
        init: What peft offers as `init_lora_weights`; the adapter begins without effect, but for
            some of these.
        base: What the model is.
        options: What else `peft.LoraConfig` takes, such as `use_dora` or `task_type`.

    Returns:
        The model.

    Raises:
        ValueError: An option is not known, a number is impossible, or no layer has such a name.
        ImportError: peft is not installed.
    """
    make = _lora_config()
    known = list(inspect.signature(make).parameters)
    problems = [f"there is no option {name!r}" for name in options if name not in known]
    if rank < 1:
        problems.append(f"rank must be at least 1, it is {rank!r}")
    if not 0 <= dropout < 1:
        problems.append(f"dropout must be from 0 to below 1, it is {dropout!r}")
    if problems:
        raise ValueError(
            f"the adapter cannot be made: {'; '.join(problems)}. Options besides rank, alpha, "
            f"dropout, targets, init and base are those of peft.LoraConfig: {', '.join(known)}"
        )
    chosen = targets or default_targets(model)
    ref, revision = base or BaseModel()
    config = make(
        r=rank,
        lora_alpha=alpha or rank,
        lora_dropout=dropout,
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
        init_lora_weights=init,
        base_model_name_or_path=ref or None,
        revision=revision or None,
        **options,
    )
    return put_in(model, config)


def put_in(model: Any, config: Any) -> Any:
    """Put an adapter of this configuration into a model, and return the model."""
    from peft import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        inject_adapter_in_model,
    )

    base = config.base_model_name_or_path
    add = getattr(model, "add_adapter", None)  # both libraries keep note of it then
    if callable(add):
        add(config, adapter_name=ADAPTER)
    else:
        inject_adapter_in_model(config, model, ADAPTER)
    # They name the directory that the model was loaded from, which means nothing elsewhere.
    model.peft_config[ADAPTER].base_model_name_or_path = base
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def trainable_names(model: Any) -> list[str]:
    """Return the names of the parameters that are trained."""
    return [name for name, one in model.named_parameters() if one.requires_grad]


def _lora_config() -> Any:
    try:
        from peft import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            LoraConfig,
        )
    except ImportError as error:
        raise ImportError('adapters need peft: install "gen-worker[torch]"') from error
    return LoraConfig
