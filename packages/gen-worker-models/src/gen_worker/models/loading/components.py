"""Plans of pipelines: each component with its class and place, and those that are missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.formats import check_weight_formats
from gen_worker.models.loading.classes import is_auto, kind_of, name_of, pipeline_parts
from gen_worker.models.loading.errors import AnnotationNeededError, MissingComponentsError
from gen_worker.models.loading.parts import Source, config_at, gguf_part, part_or_none, plain_part
from gen_worker.models.loading.quantized import DENOISERS, quantization_of
from gen_worker.models.loading.values import ComponentPlan, LoadPlan
from gen_worker.models.loading.weights import gguf_file
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SLOT_CLASSES", "component_at", "pipeline_plan"]

SLOT_CLASSES: Mapping[str, tuple[str, str]] = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
}
"""Class of a component, by its name, where its own files do not say one."""

_WITHOUT = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
"""Components that a pipeline that may have none does without when their files are not there."""


def pipeline_plan(source: Source, cls: Any, index: Mapping[str, Any]) -> LoadPlan:
    """Return the plan of a pipeline.

    Raises:
        MissingComponentsError: Components that the class must have are not in the model; all of
            them are named.
        UnknownClassError: The model names a class that is not there.
    """
    concrete = _concrete(source, cls, index)
    parts = pipeline_parts(concrete)
    is_own = index.get("_class_name") == concrete.__name__
    found: dict[str, ComponentPlan] = {}
    missing: list[str] = []
    for name in sorted(parts.needed | _listed(index) & parts.others):
        if name in source.shared or (_is_null(index.get(name)) and name in parts.nullable):
            continue
        component = _component(source, name, index.get(name))
        if component is not None:
            found[name] = component
        elif name in parts.nullable and (name in _WITHOUT or (is_own and name not in index)):
            found[name] = ComponentPlan(name=name, method="absent")
        elif name in parts.needed or not _is_null(index.get(name)):
            missing.append(name)
    if missing:
        _raise_missing(source, concrete, missing, index)
    components = _quantized(source, found)
    return LoadPlan(
        method="pipeline",
        path=source.root,
        cls=cls if is_auto(cls) else concrete,
        components=components,
        index=_normal(index, concrete, components),
        needs_view=not _is_as_written(source, index),
    )


def _concrete(source: Source, cls: Any, index: Mapping[str, Any]) -> Any:
    """Return the class to build: the annotated one unless it is open about which."""
    if cls.__name__ != "DiffusionPipeline" and not is_auto(cls):
        return cls
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise AnnotationNeededError(
            f"model {source.ref!r} does not name its pipeline class: annotate the parameter with "
            "one, as in `pipe: StableDiffusionXLPipeline`",
            ref=source.ref,
        )
    return source.find_class("diffusers", name)


def _is_null(entry: Any) -> bool:
    """Tell whether a model says of a component that it has none."""
    return isinstance(entry, list) and all(item is None for item in entry)


def _listed(index: Mapping[str, Any]) -> set[str]:
    return {name for name, value in index.items() if isinstance(value, (list, dict))}


def _component(source: Source, name: str, entry: Any) -> ComponentPlan | None:
    """Return the plan of one component; None when it is not there."""
    directory, classes = _place(source, name, entry)
    if not directory or not os.path.isdir(directory):
        return None
    if os.path.commonpath((directory, source.root)) != source.root:
        check_weight_formats(directory, source.ref)
    return component_at(source, name, directory, classes)


def component_at(
    source: Source, name: str, directory: str, classes: Sequence[Any] | None = None
) -> ComponentPlan | None:
    """Return the plan of the component in a directory; None when it is not there.

    Args:
        source: The model, or the pipeline it is for.
        name: Of the component.
        directory: Where its files are.
        classes: Library and class; by default those its own configuration names.
    """
    library, class_name = classes if classes else _classes_at(directory)
    if not isinstance(library, str) or not isinstance(class_name, str):
        library, class_name = SLOT_CLASSES.get(name, ("", ""))
        if not library:
            return None
    cls = source.find_class(library, class_name, packages=source.packages)
    if kind_of(cls) not in ("diffusers_model", "transformers_model") and not os.path.isfile(
        os.path.join(directory, "config.json")
    ):
        return plain_part(source, name, cls, directory)
    return part_or_none(source, name, cls, directory, in_pipeline=True) or _gguf_at_root(
        source, name, cls, directory
    )


def _gguf_at_root(source: Source, name: str, cls: Any, directory: str) -> ComponentPlan | None:
    """Return the plan of a denoiser whose GGUF file lies beside `model_index.json`."""
    found = gguf_file(source.root) if name in DENOISERS else ""
    return gguf_part(source, name, cls, found, directory, "") if found else None


def _place(source: Source, name: str, entry: Any) -> tuple[str, list[Any] | None]:
    """Return a component's directory and its `[library, class]`; None where its files say."""
    if isinstance(entry, list) and len(entry) >= 2 and all(isinstance(x, str) for x in entry[:2]):
        return os.path.join(source.root, name), entry[:2]
    if isinstance(entry, dict) and isinstance(entry.get("_cozy_ref"), str):
        place = safe_join(source.models_dir, entry["_cozy_ref"])
        inner = os.path.join(place, name)
        return (inner if os.path.isdir(inner) else place), None
    if isinstance(entry, dict) and isinstance(entry.get("path"), str):
        return os.path.join(source.root, entry["path"]), entry.get("class")
    return "", None


def _classes_at(directory: str) -> tuple[Any, Any]:
    """Return library and class of a component, as its own configuration names them."""
    scheduler = config_at(directory, "scheduler_config.json").get("_class_name")
    if scheduler:
        return "diffusers", scheduler
    config = config_at(directory, "config.json")
    if config.get("_class_name"):
        return "diffusers", config["_class_name"]
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return "transformers", architectures[0]
    tokenizer = config_at(directory, "tokenizer_config.json").get("tokenizer_class")
    if tokenizer:
        return "transformers", tokenizer
    processor = config_at(directory, "preprocessor_config.json")
    name = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    return "transformers", name


def _raise_missing(source: Source, cls: Any, missing: list[str], index: Mapping[str, Any]) -> None:
    named = index.get("_class_name")
    other = (
        f", which says that it is a {named!r}"
        if isinstance(named, str) and named != cls.__name__
        else ""
    )
    raise MissingComponentsError(
        f"model {source.ref!r}{other} lacks components of {name_of(cls)}: "
        f"{', '.join(map(repr, missing))}: publish the model with them, or bind one that has them",
        missing=missing,
        ref=source.ref,
    )


def _quantized(source: Source, found: Mapping[str, ComponentPlan]) -> tuple[ComponentPlan, ...]:
    """Add to each component how it is quantized while it is loaded."""
    models = {name: part for name, part in found.items() if part.method == "model"}
    quantization = quantization_of(
        source.choice,
        {name: part.variant for name, part in models.items()},
        [source.config(part.path) for part in models.values()],
    )
    return tuple(
        msgspec.structs.replace(part, quantization=quantization[name])
        if name in quantization
        else part
        for name, part in found.items()
    )


def _normal(
    index: Mapping[str, Any], cls: Any, components: tuple[ComponentPlan, ...]
) -> dict[str, Any]:
    """Return `model_index.json` as diffusers understands it."""
    normal = {name: value for name, value in index.items() if not isinstance(value, dict)}
    normal["_class_name"] = cls.__name__
    for part in components:
        if part.cls is None:
            normal[part.name] = [None, None]
        elif isinstance(index.get(part.name), dict):
            normal[part.name] = [part.cls.__module__.partition(".")[0], part.cls.__name__]
    return normal


def _is_as_written(source: Source, index: Mapping[str, Any]) -> bool:
    """Tell whether `model_index.json` on disk is what diffusers may read."""
    return os.path.isfile(os.path.join(source.root, "model_index.json")) and not any(
        isinstance(value, dict) for value in index.values()
    )
