"""Plans of checkpoints: all of a pipeline, or one component, in one file."""

from __future__ import annotations

import os
from typing import Any

from gen_worker.models.formats import check_weight_formats, read_header
from gen_worker.models.loading.classes import kind_of, name_of
from gen_worker.models.loading.errors import MissingComponentsError, UnsupportedFormatError
from gen_worker.models.loading.families import Family, family_of
from gen_worker.models.loading.parts import Source, config_at, gguf_part
from gen_worker.models.loading.values import ComponentPlan
from gen_worker.models.loading.weights import gguf_file, size_bytes_of

__all__ = ["checkpoint_of", "checkpoint_part", "family_at"]

_SUFFIX = ".safetensors"


def checkpoint_of(source: Source) -> str:
    """Return the one weights file of a model without configuration; empty when there is none."""
    if os.path.isfile(source.root):
        return source.root
    names = [name for name in os.listdir(source.root) if name.lower().endswith(_SUFFIX)]
    if len(names) == 1:
        return os.path.join(source.root, names[0])
    return "" if names else gguf_file(source.root)


def family_at(file: str) -> Family | None:
    """Return the family of a checkpoint file; None when it is none, or of no known family."""
    return family_of(read_header(file).tensors) if file.lower().endswith(_SUFFIX) else None


def checkpoint_part(source: Source, cls: Any) -> ComponentPlan:
    """Return the plan of a checkpoint in one file."""
    file = checkpoint_of(source)
    if not file or not callable(getattr(cls, "from_single_file", None)):
        raise MissingComponentsError(
            f"model {source.ref!r} has no weights that {name_of(cls)} could load: "
            f"{_what_is_missing(source)}",
            missing=("weights",),
            ref=source.ref,
        )
    is_gguf = file.lower().endswith(".gguf")
    if is_gguf and kind_of(cls) == "pipeline":
        raise UnsupportedFormatError(
            f"model {source.ref!r} is a GGUF file, which holds one component: annotate with its "
            "class, or publish it in the folder of its pipeline",
            ref=source.ref,
        )
    config, repo = _config_for(source, file)
    if is_gguf:
        return gguf_part(source, "", cls, file, config, repo)
    header = read_header(file)
    dtype = source.dtype_for("")
    return ComponentPlan(
        name="",
        cls=cls,
        method="file",
        path=file,
        weights=(file,),
        dtype=dtype,
        size_bytes=size_bytes_of((header,), dtype),
        config_path=config,
        config_repo=repo,
    )


def _what_is_missing(source: Source) -> str:
    if os.path.isfile(source.root):
        return "it is one file, and that class has no `from_single_file`"
    return "it has neither model_index.json nor one safetensors or GGUF file"


def _config_for(source: Source, file: str) -> tuple[str, str]:
    """Return the directory with the configuration, else the repository that would have it."""
    folder = os.path.dirname(file)
    for candidate in (source.config_dir, folder):
        if candidate and any(
            os.path.isfile(os.path.join(candidate, name))
            for name in ("model_index.json", "config.json")
        ):
            _check_config(source, candidate)
            return candidate, ""
    family = family_at(file)
    return "", family.config_repo if family else ""


def _check_config(source: Source, directory: str) -> None:
    """Check the configuration beside a checkpoint: diffusers imports whatever it names."""
    check_weight_formats(directory, source.ref)
    for value in config_at(directory, "model_index.json").values():
        if isinstance(value, list) and all(isinstance(item, str) for item in value[:2]):
            source.find_class(*value[:2], packages=source.packages)
