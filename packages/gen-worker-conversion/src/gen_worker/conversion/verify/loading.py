"""Whether a component loads: its declared class, made on the meta device from its configuration.

No weight is read and no memory taken. Names that the class wants and the source lacked as well are
the source's own affair, and so is a class that nothing here has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.hf_classes import class_of_config, libraries_view
from gen_worker.models.formats.configs import read_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy.tensor import Checkpoint

__all__ = ["load_problems"]

_LATER_DROPPED = ("text_model.", "vision_model.")
"""Beginnings of saved names that classes of transformers 5 lack; it reads both."""


def load_problems(
    component: str, directory: str, made: Checkpoint, source: tuple[str, Checkpoint] | None
) -> tuple[str, list[str]]:
    """Make a component's class and compare what it wants with what is there.

    Args:
        component: Name for messages; empty for a model in one folder.
        directory: With its `config.json`; without one nothing is declared and nothing is checked.
        made: The output's tensors under the source's names.
        source: Directory and tensors of the source's component; None when there is none.

    Returns:
        The name of the class, and what is wrong.
    """
    where = component or os.path.basename(directory)
    found = _checked(directory, made)
    if not found.failure and not found.unlike:
        return found.class_name, []
    own = _checked(*source) if source is not None else _Checked()
    if found.failure:
        # Of an architecture that the libraries here do not know, nothing can be said.
        return "", [] if own.failure else [f"component {where} {found.failure}"]
    return found.class_name, [
        f"component {where} ({found.class_name}): {text}"
        for text in sorted(found.unlike - own.unlike)
    ]


class _Checked(NamedTuple):
    """A component beside the class that its configuration declares."""

    class_name: str = ""
    """Empty where nothing is declared."""
    failure: str = ""
    """Why there is no such class."""
    unlike: frozenset[str] = frozenset()
    """What it wants and is not there, and the other way round."""


def _checked(directory: str, checkpoint: Checkpoint) -> _Checked:
    config = _config(directory)
    if not config:
        return _Checked()
    try:
        cls = class_of_config(config, directory)
        wanted = _wanted(cls, directory)
    except ConversionInputError as error:
        return _Checked(failure=f"names no class that can load it: {error}")
    except Exception as error:  # whatever a foreign constructor thinks of this configuration
        return _Checked(failure=f"does not load from its configuration: {error!s:.300}")
    return _Checked(cls.__name__, "", frozenset(_unlike(wanted, checkpoint)))


def _config(directory: str) -> dict[str, Any]:
    path = os.path.join(directory, "config.json")
    found = read_config(path) if os.path.isfile(path) else {}
    return found if isinstance(found, dict) else {}


class _Wanted:
    """What a class loads."""

    def __init__(self, module: Any) -> None:
        self.shapes = {name: tuple(one.shape) for name, one in module.state_dict().items()}
        self.prefix = f"{getattr(module, 'base_model_prefix', '') or '?'}."
        tied = getattr(module, "_tied_weights_keys", None) or ()
        self.optional = frozenset(tied)


def _wanted(cls: Any, directory: str) -> _Wanted:
    import torch  # type: ignore[import-not-found,unused-ignore]

    with libraries_view(directory) as place:
        if hasattr(cls, "load_config"):  # of diffusers
            config = {**cls.load_config(place, local_files_only=True)}
            config.pop("quantization_config", None)
            with torch.device("meta"):
                return _Wanted(cls.from_config(config))
        from gen_worker.models.loading.libraries import library

        described = library("transformers").AutoConfig.from_pretrained(place, local_files_only=True)
    if hasattr(described, "quantization_config"):
        del described.quantization_config
    with torch.device("meta"):
        if hasattr(cls, "_model_mapping"):  # one of the automatic classes
            return _Wanted(cls.from_config(described))
        return _Wanted(cls(described))


def _unlike(wanted: _Wanted, checkpoint: Checkpoint) -> set[str]:
    shapes: Mapping[str, tuple[int, ...]] = {
        _name_in(wanted, name): one.shape for name, one in checkpoint.items()
    }
    missing = wanted.shapes.keys() - shapes.keys() - wanted.optional
    texts = {f"tensor {name} is missing" for name in missing}
    texts |= {f"tensor {name} is unknown to it" for name in shapes.keys() - wanted.shapes.keys()}
    return texts | {
        f"tensor {name} is {list(shapes[name])}, it wants {list(shape)}"
        for name, shape in wanted.shapes.items()
        if name in shapes and shapes[name] != shape
    }


def _name_in(wanted: _Wanted, name: str) -> str:
    """Return a tensor's name as the class has it, which may be a part of the saved model."""
    if name in wanted.shapes:
        return name
    for prefix in (wanted.prefix, *_LATER_DROPPED):
        if name.startswith(prefix) and name[len(prefix) :] in wanted.shapes:
            return name[len(prefix) :]
    return f"{wanted.prefix}{name}" if f"{wanted.prefix}{name}" in wanted.shapes else name
