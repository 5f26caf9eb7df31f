"""What a class is to the loader, told by its bases' names: no library has to be imported for it."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

__all__ = [
    "ClassKind",
    "is_auto",
    "kind_of",
    "name_of",
    "pipeline_parts",
    "stripped",
    "wants_path",
]

ClassKind = Literal[
    "pipeline",  # of diffusers: assembled from components
    "auto_pipeline",  # AutoPipelineFor…: makes one of its own out of another pipeline
    "diffusers_model",
    "transformers_model",
    "part",  # tokenizer, processor, scheduler of these libraries
    "pretrained",  # any other class with `from_pretrained`
    "file",  # only `from_single_file`
    "none",
]

_KINDS: dict[tuple[str, str], ClassKind] = {
    ("diffusers", "DiffusionPipeline"): "pipeline",
    ("diffusers", "AutoPipelineForText2Image"): "auto_pipeline",
    ("diffusers", "AutoPipelineForImage2Image"): "auto_pipeline",
    ("diffusers", "AutoPipelineForInpainting"): "auto_pipeline",
    ("diffusers", "ModelMixin"): "diffusers_model",
    ("diffusers", "AutoModel"): "diffusers_model",
    ("diffusers", "SchedulerMixin"): "part",
    ("transformers", "PreTrainedModel"): "transformers_model",
    ("transformers", "_BaseAutoModelClass"): "transformers_model",
}


def stripped(annotation: Any) -> Any:
    """Return the type an annotation stands for; None when it says nothing.

    `Annotated[T, …]` and `T | None` stand for `T`.
    """
    if get_origin(annotation) is Annotated:
        return stripped(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [item for item in get_args(annotation) if item is not type(None)]
        return stripped(members[0]) if len(members) == 1 else annotation
    origin = get_origin(annotation)
    if isinstance(origin, type):
        return origin
    says_nothing = (
        annotation in (None, type(None), Any, object) or name_of(annotation) == "inspect._empty"
    )
    return None if says_nothing else annotation


def wants_path(annotation: Any) -> bool:
    """Tell whether the parameter receives the local directory itself."""
    return annotation is str or (
        isinstance(annotation, type) and name_of(annotation) in _PATH_CLASSES
    )


# `pathlib` is not imported for it; its module's name changes between versions.
_PATH_CLASSES = frozenset(
    f"{module}.{name}"
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PurePath", "PosixPath", "WindowsPath")
) | {"os.PathLike"}


def kind_of(cls: Any) -> ClassKind:
    """Tell how a class is loaded."""
    for base in getattr(cls, "__mro__", ()):
        library = base.__module__.partition(".")[0]
        kind = _KINDS.get((library, base.__name__))
        if kind is not None:
            return kind
    if callable(getattr(cls, "from_pretrained", None)):
        library = getattr(cls, "__module__", "").partition(".")[0]
        return "part" if library in ("diffusers", "transformers") else "pretrained"
    return "file" if callable(getattr(cls, "from_single_file", None)) else "none"


def is_auto(cls: Any) -> bool:
    """Tell whether the class makes objects of other classes, so that none is its instance."""
    library = getattr(cls, "__module__", "").partition(".")[0]
    return library in ("diffusers", "transformers") and bool(_AUTO.match(cls.__name__))


_AUTO = re.compile("Auto[A-Z]")  # not AutoencoderKL


def name_of(cls: Any) -> str:
    """Return a class's full name for messages."""
    module = getattr(cls, "__module__", "")
    name = getattr(cls, "__qualname__", None)
    return f"{module}.{name}" if name else repr(cls)


class Parts(NamedTuple):
    """What the constructor of a pipeline class takes."""

    needed: frozenset[str]
    """Without a default."""
    others: frozenset[str]
    """Options, and components with a default."""
    nullable: frozenset[str]
    """Components that may be None."""


def pipeline_parts(cls: Any) -> Parts:
    """Read what a pipeline class takes from its constructor."""
    import inspect

    parameters = inspect.signature(cls.__init__).parameters
    named = {
        name: parameter
        for name, parameter in list(parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    needed = frozenset(name for name, item in named.items() if item.default is item.empty)
    nullable = frozenset(getattr(cls, "_optional_components", ()))
    return Parts(needed, frozenset(named) - needed, nullable)
