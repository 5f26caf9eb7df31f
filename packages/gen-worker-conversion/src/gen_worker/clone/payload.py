"""What a job asks an import for, checked before anything is fetched; all mistakes at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from gen_worker.context.publishing import checked_tags
from gen_worker.conversion.vocabulary import (
    GGUF_TYPES,
    is_concrete_dtype,
    is_fuzzy_bitwidth,
    normalize_dtype,
)
from gen_worker.errors import ValidationError

__all__ = ["CloneOutput", "CloneRequest", "read_request"]

_DESTINATION = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}/[a-z0-9][a-z0-9.-]{0,127}")
_LAYOUTS = ("", "diffusers", "singlefile", "aio")
_FILE_TYPES = ("", "safetensors", "flashpack", "gguf", "bin")
_QUANTIZED = ("transformer", "text_encoder")


class CloneOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One flavor that is asked for."""

    dtype: str
    """A precision or so many bits, as `4bit`."""
    file_layout: str = ""
    """`diffusers`, `singlefile`; empty keeps that of the source."""
    file_type: str = "safetensors"

    @property
    def label(self) -> str:
        """Return what reports call it: `<dtype>-<layout>-<type>`."""
        parts = (self.dtype.replace(":", "-"), self.file_layout, self.file_type)
        return "-".join(part for part in parts if part)


class CloneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A job's payload, read."""

    destination: str
    tags: tuple[str, ...] = ()
    outputs: tuple[CloneOutput, ...] = ()
    """Empty when nothing is asked for."""
    huggingface_repo: str = ""
    source_revision: str = ""
    civitai_model_version_id: str = ""
    civitai_file_id: str = ""
    source_dtype_preference: tuple[str, ...] = ()
    gguf_quant: str = ""
    quantize_components: tuple[str, ...] = _QUANTIZED
    """Beginnings of names; `all` means every one."""
    overwrite_repo: bool = False
    allow_large: bool = False
    output_ref: str = ""


def read_request(payload: Any, *, provider: str) -> CloneRequest:
    """Read a payload: a record, or a struct with the same fields.

    Args:
        payload: What the job sent; fields that importing does not know are not looked at.
        provider: `hf` or `civitai`.

    Raises:
        ValidationError: It cannot be done as asked; names every mistake.
    """
    raw = payload if isinstance(payload, Mapping) else msgspec.to_builtins(payload)
    if not isinstance(raw, Mapping):
        raise ValidationError(f"the payload must be an object, not {type(payload).__name__}")
    mistakes: list[str] = []
    fields: dict[str, Any] = {
        "destination": _destination(raw, mistakes),
        "tags": _tags(raw, mistakes),
        "outputs": _outputs(raw, mistakes),
        **_source(raw, provider, mistakes),
        "source_dtype_preference": _texts(raw.get("source_dtype_preference")),
        "gguf_quant": _text(raw.get("gguf_quant")),
        "quantize_components": _texts(raw.get("quantize_components")) or _QUANTIZED,
        "overwrite_repo": raw.get("overwrite_repo") is True,
        "allow_large": raw.get("allow_large") is True,
        "output_ref": _text(raw.get("output_ref")),
    }
    unknown = [x for x in fields["source_dtype_preference"] if not is_concrete_dtype(x)]
    if unknown:
        mistakes.append(f"source_dtype_preference has {unknown[0]!r}, which is no precision")
    if mistakes:
        raise ValidationError("; ".join(mistakes))
    return CloneRequest(**fields)


def _destination(raw: Mapping[str, Any], mistakes: list[str]) -> str:
    given = raw.get("destination_repo") or raw.get("destination")
    text = _text(given.get("ref") if isinstance(given, Mapping) else given)
    if not _DESTINATION.fullmatch(text):
        mistakes.append(
            f"destination_repo is {text!r:.200}: write it as 'owner/repo' in lower case, of "
            "letters, digits, '.' and '-'"
        )
    return text


def _tags(raw: Mapping[str, Any], mistakes: list[str]) -> tuple[str, ...]:
    try:
        return tuple(checked_tags(raw.get("destination_repo_tags")))
    except ValidationError as error:
        mistakes.append(str(error))
        return ()


def _source(raw: Mapping[str, Any], provider: str, mistakes: list[str]) -> dict[str, str]:
    if raw.get("source_url"):
        mistakes.append("source_url is not taken: name a repository or a version id")
    if provider == "hf":
        repo = _text(raw.get("huggingface_repo"))
        if not repo:
            mistakes.append("huggingface_repo is missing: give 'owner/repo'")
        return {"huggingface_repo": repo, "source_revision": _text(raw.get("source_revision"))}
    names = ("civitai_model_version_id", "civitai_file_id")
    found = {name: _text(raw.get(name)) for name in names}
    wrong = [name for name, value in found.items() if value and not re.fullmatch(r"\d+", value)]
    mistakes.extend(f"{name} is {found[name]!r}, which is no number" for name in wrong)
    if not found["civitai_model_version_id"]:
        mistakes.append("civitai_model_version_id is missing: give the number of a version")
    return found


def _outputs(raw: Mapping[str, Any], mistakes: list[str]) -> tuple[CloneOutput, ...]:
    given = raw.get("outputs") or []
    entries = given if isinstance(given, list) else [given]
    layout = _text(raw.get("target_layout"))
    entries = [*entries, *({"save_format": text} for text in raw.get("save_formats") or ())]
    found: dict[CloneOutput, None] = {}
    for number, entry in enumerate(entries):
        output = _output(entry, layout, f"outputs[{number}]", mistakes)
        if output is not None:
            found[output] = None
    return tuple(found)


def _output(entry: Any, layout: str, where: str, mistakes: list[str]) -> CloneOutput | None:
    if isinstance(entry, str):
        entry = {"dtype": entry}
    if not isinstance(entry, Mapping):
        mistakes.append(f"{where} is no object: give {{'dtype': 'bf16'}}")
        return None
    entry = {**(entry.get("attributes") or {}), **entry}
    dtype = _text(entry.get("dtype")).lower()
    file_type = _text(entry.get("file_type")).lower()
    older = _text(entry.get("save_format")).lower()
    if older == "flashpack":
        dtype, file_type = dtype or "bf16", "flashpack"
    elif older:
        dtype = older
    if dtype.startswith("gguf:") or normalize_dtype(dtype) in GGUF_TYPES:
        file_type = "gguf"
    token, file_layout = normalize_dtype(dtype), _text(entry.get("file_layout")).lower() or layout
    if not is_concrete_dtype(token) and not is_fuzzy_bitwidth(token):
        mistakes.append(
            f"{where} asks for {dtype!r:.80}, which is no precision: give one such as 'bf16', "
            "'q4_k_m' or '4bit'"
        )
    if file_layout not in _LAYOUTS or file_type not in _FILE_TYPES:
        mistakes.append(
            f"{where} asks for {file_layout or file_type!r}: layouts are diffusers and "
            "singlefile, types safetensors and gguf"
        )
    file_layout = "singlefile" if file_layout == "aio" else file_layout
    return CloneOutput(dtype=token, file_layout=file_layout, file_type=file_type or "safetensors")


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    return tuple(_text(item) for item in value or () if _text(item))


def _text(value: Any) -> str:
    is_plain = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value).strip() if is_plain else ""
