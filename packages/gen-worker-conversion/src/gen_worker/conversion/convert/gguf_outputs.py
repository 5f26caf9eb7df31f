"""What becomes one GGUF model: language models, denoisers, LoRAs, and GGUF files themselves."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from gen_worker.conversion.convert.gguf_facts import gguf_files
from gen_worker.conversion.convert.outputs import Output
from gen_worker.conversion.convert.targets import KEEP
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import gguf_header
from gen_worker.conversion.gguf.overrides import with_overrides
from gen_worker.conversion.lazy import open_checkpoint

if TYPE_CHECKING:
    from gen_worker.conversion.convert.targets import Target
    from gen_worker.conversion.convert.values import ConversionRequest, GgufOptions
    from gen_worker.conversion.gguf.importance import Importance
    from gen_worker.conversion.gguf.models import GgufPlan
    from gen_worker.conversion.source import Source

__all__ = ["gguf_output"]

_PART = re.compile(r"-\d{5}-of-\d{5}$")


def gguf_output(request: ConversionRequest, source: Source, target: Target) -> Output:
    """Return the one component of a GGUF output; only headers and configurations are read.

    Raises:
        ConversionInputError: This target cannot be made of this source, or an option is for
            another kind of source.
        DamagedFileError: A file is damaged.
    """
    kind, name, part = _kind(request, source)
    _check(request, kind, target)
    plan = _plan(kind, name, part, request.gguf, target.token)
    metadata = with_overrides(plan.metadata, request.gguf.metadata)
    from gen_worker.conversion.gguf.writing import entry_of

    heads = {key: entry_of(tensor) for key, tensor in plan.tensors.items()}
    gguf_header(metadata, heads, max_name_bytes=plan.max_name_bytes)  # refuses what it cannot
    is_kept = target.token == KEEP
    return Output(
        "",
        "gguf",
        open_checkpoint(part),
        plan.tensors,
        "",
        name if is_kept else f"{name}-{target.token.upper()}",
        metadata,
        max_name_bytes=plan.max_name_bytes,
        is_whole_model=True,
        reasons={} if is_kept else _reasons(plan, target.token),
        attributes={} if plan.wanted.is_plain else _told(target),
    )


def _kind(request: ConversionRequest, source: Source) -> tuple[str, str, str]:
    """Return what a source is, the name of a file of it, and where its weights are."""
    name, path = source.path.name, os.fspath(source.path)
    if source.file_layout == "diffusers":
        component = _denoiser(request, source)
        return "denoiser", f"{name}-{component}", os.path.join(path, component)
    if os.path.isfile(os.path.join(path, "adapter_config.json")):
        return "LoRA", name, path
    files = gguf_files(path)
    if files:
        first = path if os.path.isfile(path) else files[0]
        return "GGUF file", _PART.sub("", os.path.splitext(os.path.basename(first))[0]), first
    if os.path.isfile(os.path.join(path, "config.json")):
        return "language model", name, path
    raise ConversionInputError(
        f"{request.source!r} is no folder of a language model, a sentence encoder, a LoRA of peft "
        "or a pipeline: GGUF files are made of those",
        step="gguf",
    )


def _check(request: ConversionRequest, kind: str, target: Target) -> None:
    """Refuse options that mean nothing for a source: none is passed over in silence."""
    options = request.gguf
    is_packed = kind in ("language model", "GGUF file") and target.token != KEEP
    wrong = {
        "an importance matrix": bool(options.importance) and not is_packed,
        "a base model": bool(options.base) and kind != "LoRA",
        "patterns of tensors to keep": bool(request.keep),
        f"{target.name!r}": target.token == KEEP and kind != "GGUF file",
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise ConversionInputError(
                f"{request.source!r} is a {kind}, whose GGUF file as {target.name!r} has no use "
                f"for {what}: leave it out, or choose another type",
                step="gguf",
            )


def _plan(kind: str, name: str, part: str, options: GgufOptions, token: str) -> GgufPlan:
    from gen_worker.conversion.gguf.adapters import plan_lora
    from gen_worker.conversion.gguf.diffusion import plan_diffusion_model
    from gen_worker.conversion.gguf.files import plan_gguf_copy, plan_gguf_file
    from gen_worker.conversion.gguf.models import plan_language_model

    if kind == "denoiser":
        return plan_diffusion_model(part, token, name=name)
    if kind == "LoRA":
        return plan_lora(part, token, base=options.base, name=name)
    if token == KEEP:
        return plan_gguf_copy(part)
    importance = _importance(options)
    if kind == "GGUF file":
        return plan_gguf_file(part, token, importance=importance)
    return plan_language_model(part, token, name=name, importance=importance)


def _importance(options: GgufOptions) -> Importance | None:
    if not options.importance:
        return None
    from gen_worker.conversion.gguf.importance import read_importance

    return read_importance(options.importance)


def _reasons(plan: GgufPlan, token: str) -> dict[str, str]:
    """Return why tensors have other types than most, by name."""
    narrow = {one.tensor: f"rows of {one.columns} fit no {one.wanted}" for one in plan.fallbacks}
    return {
        tensor: narrow.get(tensor, f"{kind} by the rules for {token}")
        for tensor, kind in plan.types.items()
        if kind != plan.wanted.base
    }


def _denoiser(request: ConversionRequest, source: Source) -> str:
    """Return the component of a pipeline that one GGUF file is made of."""
    wanted = request.components or [n for n in ("transformer", "unet") if n in source.components]
    if len(wanted) != 1:
        raise ConversionInputError(
            f"a GGUF file has one component of a pipeline, not {', '.join(wanted) or 'none'}: "
            "name one",
            step="gguf",
        )
    return wanted[0]


def _told(target: Target) -> dict[str, str]:
    return {"quantization_method": target.token, "quantization_library": "llama-cpp"}
