"""Plans of single objects: a model with its weights, or a tokenizer, processor or scheduler."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gen_worker.models.choice import ModelChoice
from gen_worker.models.formats import read_gguf_header
from gen_worker.models.formats.configs import read_config, sanitize_config
from gen_worker.models.loading.classes import kind_of, name_of
from gen_worker.models.loading.dtypes import (
    FLOAT_DTYPES,
    default_dtype,
    dtype_of_choice,
    preferred_variants,
)
from gen_worker.models.loading.errors import MissingComponentsError
from gen_worker.models.loading.quantized import packages_needed
from gen_worker.models.loading.values import ComponentPlan
from gen_worker.models.loading.weights import find_weights, gguf_file, size_bytes_of

__all__ = ["Source", "gguf_part", "model_part", "part_or_none", "plain_part"]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files and everything its caller said about the load."""

    root: str
    ref: str
    choice: ModelChoice
    device: str
    has_bf16: bool
    shared: frozenset[str]
    models_dir: str
    config_dir: str
    find_class: Callable[..., Any]
    packages: tuple[str, ...]

    def config(self, directory: str = "") -> dict[str, Any]:
        """Return the sanitised `config.json` of a directory; empty when there is none."""
        return config_at(directory or self.root, "config.json")

    def dtype_for(self, variant: str) -> str:
        """Return the precision of weights of diffusers that come in this variant."""
        wished = dtype_of_choice(self.choice)
        return wished or default_dtype(variant, self.device, has_bf16=self.has_bf16)


@functools.lru_cache(maxsize=256)
def _config_at(path: str, mtime_ns: int) -> dict[str, Any]:
    config = sanitize_config(read_config(path))[0]
    return config if isinstance(config, dict) else {}


def config_at(directory: str, name: str) -> dict[str, Any]:
    """Return a sanitised configuration; empty when there is none."""
    path = os.path.join(directory, name)
    if not os.path.isfile(path):
        return {}
    return dict(_config_at(path, os.stat(path).st_mtime_ns))


def part_or_none(
    source: Source, name: str, cls: Any, directory: str, *, in_pipeline: bool = False
) -> ComponentPlan | None:
    """Return the plan of a model in `directory`; None when it has no weights there."""
    weights = find_weights(directory, preferred_variants(source.choice))
    config = source.config(directory)
    if weights is None:
        gguf = gguf_file(directory)
        return gguf_part(source, name, cls, gguf, directory, "") if gguf else None
    dtype = _dtype(source, cls, weights.variant, config, in_pipeline=in_pipeline)
    return ComponentPlan(
        name=name,
        cls=cls,
        method="model",
        path=directory,
        weights=weights.files,
        variant=weights.variant,
        dtype=dtype,
        size_bytes=size_bytes_of(weights.headers, "" if _is_quantized(config) else dtype),
        packages=packages_needed(config),
    )


def _dtype(
    source: Source, cls: Any, variant: str, config: Mapping[str, Any], *, in_pipeline: bool
) -> str:
    if kind_of(cls) == "transformers_model" and not in_pipeline:
        return dtype_of_choice(source.choice)  # else what its configuration says
    return source.dtype_for(variant)


def _is_quantized(config: Mapping[str, Any]) -> bool:
    return bool(config.get("quantization_config"))


def model_part(source: Source, name: str, cls: Any, directory: str) -> ComponentPlan:
    """Return the plan of a model in `directory`.

    Raises:
        MissingComponentsError: It has no weights there.
    """
    part = part_or_none(source, name, cls, directory)
    if part is None:
        raise MissingComponentsError(
            f"model {source.ref!r} has no safetensors weights of {name_of(cls)} in "
            f"{os.path.relpath(directory, source.root)!r}: publish them again",
            missing=(name or "weights",),
            ref=source.ref,
        )
    return part


def plain_part(source: Source, name: str, cls: Any, directory: str = "") -> ComponentPlan:
    """Return the plan of an object without weights."""
    place = directory or source.root
    gguf = gguf_file(place) if _may_be_in_gguf(cls, place) else ""
    if gguf:
        read_gguf_header(gguf)
    weights = (gguf,) if gguf else ()
    return ComponentPlan(name=name, cls=cls, method="part", path=place, weights=weights)


def _may_be_in_gguf(cls: Any, directory: str) -> bool:
    """Tell whether a tokenizer that has no file of its own could be inside a GGUF file."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    is_tokenizer = "Tokenizer" in getattr(cls, "__name__", "")
    return is_tokenizer and not any(os.path.isfile(os.path.join(directory, x)) for x in names)


def gguf_part(
    source: Source, name: str, cls: Any, file: str, config_path: str, config_repo: str
) -> ComponentPlan:
    """Return the plan of a model whose weights are in a GGUF file."""
    tensors = read_gguf_header(file).tensors.values()
    size = sum(tensor.end - tensor.start for tensor in tensors)
    is_transformers = kind_of(cls) == "transformers_model"
    dtype = dtype_of_choice(source.choice) if is_transformers else source.dtype_for("")
    if is_transformers:  # which unpacks the tensors; diffusers keeps them packed
        elements = sum(math.prod(tensor.shape) for tensor in tensors)
        size = elements * FLOAT_DTYPES[dtype or "float32"]
    return ComponentPlan(
        name=name,
        cls=cls,
        method="gguf",
        path=os.path.dirname(file),
        weights=(file,),
        dtype=dtype,
        size_bytes=size,
        config_path=config_path,
        config_repo=config_repo,
        packages=("gguf",),
    )
