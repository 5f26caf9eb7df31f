"""Decide what a load does from the annotation, the configurations and the headers; load nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.models.choice import ModelChoice
from gen_worker.models.formats import assert_loadable, check_weight_formats
from gen_worker.models.loading.checkpoints import checkpoint_of, checkpoint_part, family_at
from gen_worker.models.loading.classes import kind_of, name_of, stripped, wants_path
from gen_worker.models.loading.compatibility import as_surprise
from gen_worker.models.loading.components import SLOT_CLASSES, component_at, pipeline_plan
from gen_worker.models.loading.errors import (
    AnnotationNeededError,
    MissingComponentsError,
    ModelLoadError,
    ModelNotFoundError,
    NoProviderError,
    UnsupportedFormatError,
)
from gen_worker.models.loading.libraries import find_class as classes_of_libraries
from gen_worker.models.loading.parts import (
    Source,
    gguf_part,
    model_part,
    part_or_none,
    plain_part,
)
from gen_worker.models.loading.spec_files import index_of
from gen_worker.models.loading.values import ComponentPlan, LoadPlan
from gen_worker.models.loading.view import needs_view
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["plan", "plan_component"]


def plan(
    path: str | os.PathLike[str],
    annotation: Any = None,
    *,
    choice: ModelChoice | None = None,
    parameter: str = "",
    is_setup: bool = False,
    device: str = "cpu",
    shared: Collection[str] = (),
    models_dir: str = "",
    config_dir: str = "",
    has_bf16: bool = True,
    find_class: Callable[..., Any] = classes_of_libraries,
) -> LoadPlan:
    """Decide how a model becomes the object that a parameter wants.

    Reads configurations and headers, checks every header, and imports the library that has the
    class; no tensor is touched.

    Args:
        path: The model: a directory, or one file.
        annotation: Type of the receiving parameter; None, `Any` or empty when it has none.
        choice: What was chosen; its precision, flavor, subfolder and attributes count.
        parameter: Name of the receiving parameter, for messages.
        is_setup: It is one of a class endpoint's `setup`, where no annotation means the path.
        device: Where the model will run, such as `cuda:0`.
        shared: Names of components that `load` will be given.
        models_dir: Where `_cozy_ref` entries point into; the directory around `path` if empty.
        config_dir: Configuration for a checkpoint in one file that comes without.
        has_bf16: Whether the GPU computes in bfloat16.
        find_class: Finds a class by library and name.

    Raises:
        ModelNotFoundError: Nothing is at `path`.
        UnsafeFileFormat: Weights or a configuration need code to be run.
        DamagedFileError: A file does not fit its header.
        ModelLoadError: The files make no such object; subclasses say why.
        RefCompatibilitySurprise: The same, and the caller chose the model.
    """
    try:
        return _plan(
            path,
            stripped(annotation),
            choice or ModelChoice(ref=""),
            parameter=parameter,
            is_setup=is_setup,
            device=device,
            shared=frozenset(shared),
            models_dir=models_dir,
            config_dir=config_dir,
            has_bf16=has_bf16,
            find_class=find_class,
        )
    except ModelLoadError as error:
        if choice is None or not choice.is_callers or error.fits:
            raise
        raise as_surprise(error, choice.ref) from error


def _plan(
    path: str | os.PathLike[str],
    cls: Any,
    choice: ModelChoice,
    *,
    parameter: str,
    is_setup: bool,
    models_dir: str,
    **facts: Any,
) -> LoadPlan:
    ref = choice.ref or os.fspath(path)
    root = _root(os.path.abspath(path), choice, ref)
    if kind_of(cls) == "none" and cls is not None and not wants_path(cls):
        raise NoProviderError(
            f"no injection provider for type {name_of(cls)}: annotate {parameter or 'it'!r} with "
            "a class that has `from_pretrained`, or with `str` for the local path",
            ref=ref,
        )
    _check_formats(root, ref)
    source = Source(
        root=root,
        ref=ref,
        choice=choice,
        models_dir=models_dir or os.path.dirname(root),
        packages=(getattr(cls, "__module__", "").partition(".")[0],) if cls else (),
        **facts,
    )
    is_path = wants_path(cls) or (cls is None and is_setup)
    found = LoadPlan(method="path", path=root, cls=cls) if is_path else _plan_of(source, cls)
    needs = not is_path and os.path.isdir(root) and needs_view(root)
    return msgspec.structs.replace(
        found,
        annotation=cls,
        parameter=parameter,
        ref=ref,
        is_callers=choice.is_callers,
        device=source.device,
        needs_view=found.needs_view or needs,
    )


def plan_component(
    path: str | os.PathLike[str],
    name: str,
    *,
    choice: ModelChoice | None = None,
    device: str = "cpu",
    has_bf16: bool = True,
    find_class: Callable[..., Any] = classes_of_libraries,
) -> LoadPlan:
    """Decide how one component is loaded that belongs to a pipeline put together later.

    For the parts of a `SharedBase`. A model that is a whole pipeline gives its component of that
    name and nothing else of it; the precision is that of a pipeline on `device`.

    Args:
        path: The model: a pipeline, or the component by itself.
        name: Of the component, as the pipeline class calls it.
        choice: As in `plan`.
        device: As in `plan`.
        has_bf16: As in `plan`.
        find_class: As in `plan`.

    Raises:
        MissingComponentsError: The model has no such component.
        Exception: What `plan` raises.
    """
    choice = choice or ModelChoice(ref="")
    ref = choice.ref or os.fspath(path)
    root = _root(os.path.abspath(path), choice, ref)
    _check_formats(root, ref)
    source = Source(
        root=root,
        ref=ref,
        choice=choice,
        device=device,
        has_bf16=has_bf16,
        shared=frozenset(),
        models_dir=os.path.dirname(root),
        config_dir="",
        find_class=find_class,
        packages=(),
    )
    part = _component_named(source, name)
    if part is None:
        raise MissingComponentsError(
            f"model {ref!r} has no component {name!r}: bind one that has it",
            missing=(name,),
            ref=ref,
        )
    return LoadPlan(
        method=part.method,
        path=root,
        cls=part.cls,
        components=(part,),
        ref=ref,
        is_callers=choice.is_callers,
        device=device,
        needs_view=os.path.isdir(root) and needs_view(root),
    )


def _component_named(source: Source, name: str) -> ComponentPlan | None:
    if os.path.isfile(source.root):
        if name not in SLOT_CLASSES:
            return None
        return checkpoint_part(source, source.find_class(*SLOT_CLASSES[name]))
    inner = os.path.join(source.root, name)
    if not os.path.isdir(inner):
        return component_at(source, name, source.root)
    entry = index_of(source).get(name)
    classes = entry[:2] if isinstance(entry, list) else ()
    is_named = len(classes) == 2 and all(isinstance(item, str) for item in classes)
    return component_at(source, name, inner, classes if is_named else None)


def _root(path: str, choice: ModelChoice, ref: str) -> str:
    root = safe_join(path, choice.subfolder) if choice.subfolder else path
    if not os.path.exists(root):
        raise ModelNotFoundError(ref, root)
    return root


def _check_formats(root: str, ref: str) -> None:
    if os.path.isfile(root):
        assert_loadable(root, ref)
        return
    check_weight_formats(root, ref)
    flashpacks = [name for name in os.listdir(root) if name.endswith(".flashpack")]
    if flashpacks or os.path.isdir(f"{root}.flashpack"):
        raise UnsupportedFormatError(
            f"model {ref!r} is in the FlashPack format, which is not read: publish it as "
            "safetensors",
            ref=ref,
        )


def _plan_of(source: Source, cls: Any) -> LoadPlan:
    index = index_of(source)
    cls = cls or _class_by_content(source, index)
    kind = kind_of(cls)
    if kind in ("pipeline", "auto_pipeline"):
        if index:
            return pipeline_plan(source, cls, index)
        return _one(source, cls, checkpoint_part(source, cls))
    if kind in ("diffusers_model", "transformers_model"):
        part = _weights_here(source, cls) or _component_of(source, cls, index)
        return _one(source, cls, part or checkpoint_part(source, cls))
    if kind == "part":
        return _one(source, cls, _component_of(source, cls, index) or plain_part(source, "", cls))
    if kind == "file":
        return _one(source, cls, checkpoint_part(source, cls))
    part = ComponentPlan(name="", cls=cls, method="pretrained", path=source.root)
    return _one(source, cls, part)


def _one(source: Source, cls: Any, part: ComponentPlan) -> LoadPlan:
    return LoadPlan(method=part.method, path=source.root, cls=cls, components=(part,))


def _class_by_content(source: Source, index: Mapping[str, Any]) -> Any:
    """Return the class that loads a model whose parameter names none."""
    name = index.get("_class_name")
    if isinstance(name, str):
        return source.find_class("diffusers", name)
    config = source.config()
    name = config.get("_class_name")
    if isinstance(name, str):
        return source.find_class("diffusers", name)
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return source.find_class("transformers", names[0])
    family = family_at(checkpoint_of(source))
    if family is not None:
        return source.find_class("diffusers", family.pipeline or family.component)
    raise AnnotationNeededError(
        f"model {source.ref!r} does not say which class loads it: annotate the parameter with one, "
        "as in `pipe: StableDiffusionXLPipeline`",
        ref=source.ref,
    )


def _weights_here(source: Source, cls: Any) -> ComponentPlan | None:
    """Return the plan of a model whose files are at the root; None when they are not."""
    if os.path.isfile(source.root):
        is_gguf = source.root.lower().endswith(".gguf") and kind_of(cls) == "transformers_model"
        return gguf_part(source, "", cls, source.root, "", "") if is_gguf else None
    return part_or_none(source, "", cls, source.root)


def _component_of(source: Source, cls: Any, index: Mapping[str, Any]) -> ComponentPlan | None:
    """Return the plan of the one component of a pipeline that is of this class."""
    for name, value in index.items():
        directory = os.path.join(source.root, name)
        if not isinstance(value, list) or not os.path.isdir(directory):
            continue
        if not all(isinstance(item, str) for item in value):
            continue
        found = source.find_class(*value[:2], packages=source.packages)
        if issubclass(found, cls):
            part = model_part if os.path.isfile(f"{directory}/config.json") else plain_part
            return part(source, "", cls, directory)
    return None
