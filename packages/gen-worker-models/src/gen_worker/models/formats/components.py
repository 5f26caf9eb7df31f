"""What the configuration of a model says about its parts and about code that it brings."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["component_names", "components_of", "own_code_of"]

_NO_PIPELINE = re.compile(
    r"""custom_pipeline_path:[ \t]+(null|~|''|"")[ \t]*(\#.*)?$""", re.MULTILINE
)
"""Nothing else is taken for an empty value: YAML has many ways to write one in the next line."""
_SPEC_FILES = ("cozy.pipeline.lock.yaml", "cozy.pipeline.yaml")


def components_of(directory: str) -> tuple[str, ...]:
    """Return the components that `model_index.json` names and that have a directory."""
    names = component_names(_pipeline_index(directory))
    return tuple(name for name in names if os.path.isdir(os.path.join(directory, name)))


def component_names(index: object) -> tuple[str, ...]:
    """Return the components that a decoded `model_index.json` says the model has."""
    if not isinstance(index, dict):
        return ()
    return tuple(
        name
        for name, value in index.items()
        if isinstance(name, str) and not name.startswith("_") and _is_component(value)
    )


def _pipeline_index(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, "model_index.json")
    index = read_config(path) if os.path.isfile(path) else {}
    return index if isinstance(index, dict) else {}


def _is_component(value: object) -> bool:
    return isinstance(value, list) and len(value) >= 2 and isinstance(value[1], str)


def own_code_of(directory: str) -> tuple[str, ...]:
    """Return, in words, where the configuration cannot do without Python of the model itself.

    A model that merely has `auto_map` is not among them: without it the libraries take their own
    class for the architecture, or say that there is none.
    """
    return (*_own_classes(directory), *_spec_files(directory))


def _own_classes(directory: str) -> Iterator[str]:
    """Yield what diffusers would import from the snapshot: `[module, class]` of a file in it."""
    for name, value in _pipeline_index(directory).items():
        module = value[0] if isinstance(value, list) and value else None
        if not isinstance(module, str):
            continue
        places = (f"{module}.py", f"{name}/{module}.py")
        here = [place for place in places if os.path.isfile(os.path.join(directory, place))]
        if here:
            yield f"{here[0]!r} for {name!r} of 'model_index.json'"


def _spec_files(directory: str) -> Iterator[str]:
    for name in _SPEC_FILES:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and "custom_pipeline" in _NO_PIPELINE.sub("", _text(path)):
            yield f"the custom pipeline of {name!r}"


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 20)
