"""The model libraries: found when they are needed, kept from running foreign code."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from gen_worker.models.loading.errors import MissingPackageError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["class_named", "find_class", "library", "quiet"]

_INSTALL = {
    "torch": "gen-worker[torch]",
    "diffusers": "gen-worker[torch]",
    "transformers": "gen-worker[torch]",
    "accelerate": "gen-worker[torch]",
}


def library(name: str) -> Any:
    """Import a library of models.

    Raises:
        MissingPackageError: It is not installed.
    """
    # Read by diffusers when it is imported: not even a forgotten argument can allow remote code.
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = error.name or name
        raise MissingPackageError(
            f"loading this model needs {package!r}: install {_INSTALL.get(package, package)!r}",
            package=package,
        ) from error


def find_class(library_name: str, class_name: str, packages: tuple[str, ...] = ()) -> Any:
    """Return the class that a configuration names.

    A configuration must not make us import whatever is installed, so only these are looked into:
    diffusers and the modules of its pipelines, transformers, and `packages`.

    Args:
        library_name: As in `model_index.json`.
        class_name: Of the class.
        packages: Top-level packages of the author's own annotation.

    Raises:
        UnknownClassError: There is no such class.
        MissingPackageError: The library is not installed.
    """
    found = None
    if class_name.isidentifier() and not class_name.startswith("_"):
        if library_name == "transformers":
            found = _in_transformers(class_name)
        elif library_name == "diffusers":
            found = getattr(library("diffusers"), class_name, None)
        elif library_name.partition(".")[0] in packages:
            found = getattr(importlib.import_module(library_name), class_name, None)
        elif library_name.isidentifier() and not library_name.startswith("_"):
            module = getattr(library("diffusers").pipelines, library_name, None)
            found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise UnknownClassError(
            f"the model names the class {class_name!r} of {library_name!r}, which is not there: "
            "upgrade that library, or annotate the parameter with the class to load",
            library=library_name,
            class_name=class_name,
        )
    return found


def class_named(name: str) -> Any:
    """Return the class an author named in full, such as `diffusers.FluxPipeline`.

    Raises:
        UnknownClassError: There is no such class.
        MissingPackageError: Its package is not installed.
    """
    module, _, class_name = name.rpartition(".")
    found = getattr(library(module), class_name, None) if module else None
    if not isinstance(found, type):
        raise UnknownClassError(
            f"there is no class {name!r}: name it in full, as in 'diffusers.FluxPipeline'",
            library=module,
            class_name=class_name,
        )
    return found


def _in_transformers(class_name: str) -> Any:
    transformers = library("transformers")
    found = getattr(transformers, class_name, None)
    if found is None and class_name.endswith("FeatureExtractor"):  # their name before version 5
        renamed = class_name.removesuffix("FeatureExtractor") + "ImageProcessor"
        found = getattr(transformers, renamed, None)
    return found


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep the progress bars of these libraries off the terminal; ours tells of the whole load."""
    switched = []
    for name in names:
        log = importlib.import_module(f"{name}.utils.logging")
        if log.is_progress_bar_enabled():
            log.disable_progress_bar()
            switched.append(log)
    try:
        yield
    finally:
        for log in switched:
            log.enable_progress_bar()
