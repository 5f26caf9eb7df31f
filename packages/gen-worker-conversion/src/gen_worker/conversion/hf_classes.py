"""The classes of diffusers and transformers that configurations name, and what they may read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.models.loading.libraries import library

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["class_of_config", "libraries_view"]


def class_of_config(config: Mapping[str, Any], path: str) -> Any:
    """Return the class that a `config.json` describes.

    `_class_name` or `class_name` of diffusers, else of transformers; the first of `architectures`;
    the automatic model for a `model_type`.

    Raises:
        ConversionInputError: It names none that the libraries have.
        MissingPackageError: They are not installed.
    """
    own = config.get("_class_name") or config.get("class_name")
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    for module, name in (("diffusers", own), ("transformers", own), ("transformers", first)):
        found = _public_class(module, name)
        if found is not None:
            return found
    if config.get("model_type"):
        return library("transformers").AutoModel
    raise ConversionInputError(
        f"{path!r} has no configuration that names a class of diffusers or transformers: give the "
        "class, or read its tensors with iter_tensors",
        file=path,
    )


def _public_class(module: str, name: object) -> Any:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        return None
    found = getattr(library(module), name, None)
    return found if isinstance(found, type) else None


@contextlib.contextmanager
def libraries_view(path: str) -> Iterator[str]:
    """Give the directory that a library is sent to: without code and pickles, configs sanitised."""
    from gen_worker.models.loading.view import Sight

    sight = Sight({})
    try:
        yield sight.of(path)
    finally:
        sight.close()
