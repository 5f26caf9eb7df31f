"""Whether an adapter belongs to a pipeline, told before anything of the pipeline is touched."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.models.lora.adapters import Adapter

__all__ = ["check_fits", "targets_of"]

_SUFFIX = re.compile(
    r"\.(lora_(down|up|A|B)(\.weight|\.bias)?|lora\.(down|up)\.weight"
    r"|lora_linear_layer\.(down|up)\.weight|alpha|lora_magnitude_vector(\.weight)?|dora_scale)$"
)
# How diffusers converts the attention layers of kohya's format.
_PROCESSOR = re.compile(r"(.+)\.processor\.(to_\w+)_lora\.(?:down|up)\.weight")
_SHOWN = 5


def targets_of(keys: Iterable[str]) -> set[str]:
    """Return the modules that the keys of an adapter are about."""
    return {_target(key) for key in keys if _SUFFIX.search(key) or _PROCESSOR.fullmatch(key)}


def _target(key: str) -> str:
    found = _PROCESSOR.fullmatch(key)
    if not found:
        return _SUFFIX.sub("", key)
    layer = "to_out.0" if found[2] == "to_out" else found[2]
    return f"{found[1]}.{layer}"


def check_fits(pipeline: Any, adapter: Adapter) -> None:
    """Check that the pipeline has every module that an adapter changes.

    The pipeline's own conversion is asked, so all formats are understood that it can load.

    Raises:
        ValidationError: The file is no adapter, or of another kind of model; up to five of the
            modules that are not there are named.
    """
    name = adapter.ref or adapter.name
    targets = targets_of(adapter.tensors)
    if not targets:
        raise ValidationError(
            f"LoRA {name!r} has no tensors of an adapter (*.lora_A.weight, *.lora_down.weight)"
        )
    converted = targets_of(_converted(pipeline, adapter.tensors, name))
    known = _modules(pipeline)
    absent = sorted(target for target in converted if not _is_known(target, known))
    if absent or not converted:
        shown = ", ".join(map(repr, absent[:_SHOWN])) or "all of its tensors"
        rest = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise ValidationError(
            f"LoRA {name!r} does not fit {type(pipeline).__name__}: it changes {shown}{rest}, "
            "which this model does not have: use one that was made for it"
        )


def _converted(pipeline: Any, tensors: Mapping[str, Any], name: str) -> Iterable[str]:
    """Return an adapter's keys as the pipeline names its own modules."""
    convert = getattr(pipeline, "lora_state_dict", None)
    if not callable(convert):
        return tensors
    options = {"unet_config": pipeline.unet.config} if _wants_unet_config(convert) else {}
    try:
        found = convert(dict(tensors), **options)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RuntimeError) as error:
        raise ValidationError(
            f"LoRA {name!r} is in no format that {type(pipeline).__name__} reads: {error}"
        ) from error
    found = found[0] if isinstance(found, tuple) else found
    return list(found)


def _wants_unet_config(convert: Any) -> bool:
    """Tell whether the conversion maps the blocks of a UNet, as that of SDXL does."""
    owner = getattr(convert, "__self__", None)
    return getattr(owner, "unet_name", "") == "unet" and "XL" in getattr(owner, "__name__", "")


def _modules(pipeline: Any) -> set[str]:
    """Return the names of all modules, as `component.path`."""
    known: set[str] = set()
    for name, part in getattr(pipeline, "components", {}).items():
        if callable(getattr(part, "named_modules", None)):
            known.update(f"{name}.{path}" for path, _ in part.named_modules())
        elif callable(getattr(part, "state_dict", None)):
            known.update(f"{name}.{key.rpartition('.')[0]}" for key in part.state_dict())
    return known


def _is_known(target: str, known: set[str]) -> bool:
    # transformers moved the modules of CLIP one level up; its loader maps the older names.
    shorter = target.replace(".text_model.", ".", 1)
    return target in known or shorter in known or f"{target}.base_layer" in known
