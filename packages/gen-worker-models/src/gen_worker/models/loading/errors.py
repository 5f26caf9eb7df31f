"""How loading fails: every reason has a class, and its facts are fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import FatalError, ModelResolutionError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AnnotationNeededError",
    "ComponentLoadError",
    "ConfigNeededError",
    "MissingComponentsError",
    "MissingPackageError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NoProviderError",
    "PipelineLoaderError",
    "TypeMismatchError",
    "UnknownClassError",
    "UnsupportedFormatError",
]


class ModelLoadError(FatalError, ValueError):
    """The files of a model are here and make no object of the wanted type."""

    fits: bool = False
    """False: another model is needed. True: the model is right and this host lacks something."""
    axis: str = "weights"
    """What does not fit, as the caller who chose the model is told."""

    def __init__(self, message: str, *, ref: str = "") -> None:
        super().__init__(message)
        self.ref = ref


PipelineLoaderError = ModelLoadError
"""Older name."""


class ModelNotFoundError(ModelResolutionError):
    """There is nothing at the path a model should be loaded from."""

    def __init__(self, model_id: str, path: str) -> None:
        super().__init__(f"model {model_id!r} is not at {path!r}: fetch it again")
        self.model_id = model_id
        self.path = path


class NoProviderError(ModelLoadError):
    """The annotated type cannot be made from a model."""

    fits = True


class AnnotationNeededError(ModelLoadError):
    """The model does not say which class loads it, and the parameter does not either."""


class TypeMismatchError(ModelLoadError):
    """The loaded object is no instance of the annotated type."""

    axis = "pipeline_class"


class UnknownClassError(ModelLoadError):
    """The model names a class that no library here has."""

    axis = "pipeline_class"

    def __init__(self, message: str, *, library: str, class_name: str, ref: str = "") -> None:
        super().__init__(message, ref=ref)
        self.library = library
        self.class_name = class_name


class MissingComponentsError(ModelLoadError):
    """Parts of a pipeline are not in the model."""

    axis = "components"

    def __init__(self, message: str, *, missing: Sequence[str], ref: str = "") -> None:
        """Keep what is missing.

        Args:
            message: What is missing of which model, and what to do.
            missing: Names of the components.
            ref: The model as its binding names it.
        """
        super().__init__(message, ref=ref)
        self.missing = tuple(missing)


class UnsupportedFormatError(ModelLoadError):
    """The model is in a format that is not read here, such as FlashPack."""

    axis = "format"


class ConfigNeededError(ModelLoadError):
    """A checkpoint in one file comes without the configuration of its parts."""

    axis = "layout"

    def __init__(self, message: str, *, config_repo: str, ref: str = "") -> None:
        """Keep where the configuration could come from.

        Args:
            message: What is missing and what to do.
            config_repo: Hugging Face repository whose configuration fits; empty when unknown.
            ref: The model as its binding names it.
        """
        super().__init__(message, ref=ref)
        self.config_repo = config_repo


class MissingPackageError(ModelLoadError):
    """Loading needs a package that is not installed here."""

    fits = True

    def __init__(self, message: str, *, package: str, ref: str = "") -> None:
        super().__init__(message, ref=ref)
        self.package = package


class ComponentLoadError(ModelLoadError):
    """A library could not load one part; its own error is the cause."""

    def __init__(self, message: str, *, component: str, ref: str = "") -> None:
        super().__init__(message, ref=ref)
        self.component = component
