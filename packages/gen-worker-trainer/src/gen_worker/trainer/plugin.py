"""Finds the trainer class that a job names."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

from gen_worker.discovery.importing import put_on_path

__all__ = ["HOOKS", "load_trainer_plugin", "trainer_of"]

HOOKS = (
    "setup",
    "configure",
    "prepare_batch",
    "train_step",
    "state_dict",
    "load_state_dict",
)
_USUAL_NAMES = ("TRAINER", "Trainer", "trainer")


def load_trainer_plugin(import_path: str) -> Any:
    """Return the trainer of `module:symbol`, or of a module that has one.

    A class is called without arguments. Without a symbol it is the first of `TRAINER`, `Trainer`
    and `trainer`, else the one public attribute that has all hooks. The current directory
    and its `src` are looked into first.

    Raises:
        ValueError: The path names nothing, or a module has no trainer, or several.
        TypeError: What it names is no trainer: a hook is missing, it is a function, or it cannot
            be made without arguments.
        ImportError: There is no such module, or importing it fails.
    """
    module_name, colon, symbol = (part.strip() for part in import_path.partition(":"))
    if not module_name or (colon and not symbol):
        raise ValueError(
            f"the trainer {import_path!r} names nothing: write module:Class, such as train:Tuner"
        )
    put_on_path(os.getcwd())
    module = importlib.import_module(module_name)
    found = _named(module, symbol) if symbol else _only(module)
    return trainer_of(found, import_path)


def _named(module: Any, symbol: str) -> Any:
    try:
        return getattr(module, symbol)
    except AttributeError:
        raise ValueError(f"module {module.__name__!r} has no {symbol!r}") from None


def _only(module: Any) -> Any:
    """Return what a module without a symbol means."""
    for name in _USUAL_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    candidates = [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and not _missing(value)
    ]
    if len(candidates) == 1:
        return candidates[0][1]
    if not candidates:
        raise ValueError(
            f"module {module.__name__!r} has no trainer: name one as {module.__name__}:Class, "
            f"with the methods {', '.join(HOOKS)}"
        )
    names = ", ".join(sorted(name for name, _ in candidates))
    raise ValueError(
        f"module {module.__name__!r} has multiple trainer candidates ({names}): name one of them"
    )


def trainer_of(found: Any, name: str) -> Any:
    """Return a trainer, or one of a class.

    Raises:
        TypeError: It is no trainer; `name` says which.
    """
    if inspect.isclass(found):
        _require_no_arguments(found, name)
        found = found()
    elif inspect.isroutine(found):
        raise TypeError(
            f"{name!r} is a function, and plain callables are unsupported: give a class "
            f"with the methods {', '.join(HOOKS)}"
        )
    missing = _missing(found)
    if missing:
        raise TypeError(f"the trainer {name!r} is missing {', '.join(missing)}")
    return found


def _require_no_arguments(cls: type, import_path: str) -> None:
    try:
        inspect.signature(cls).bind()
    except ValueError:  # a class that does not say
        return
    except TypeError as error:
        raise TypeError(
            f"the trainer {import_path!r} needs arguments to be made ({error}): what it needs it "
            "gets in `setup`"
        ) from None


def _missing(value: Any) -> list[str]:
    return [hook for hook in HOOKS if not callable(getattr(value, hook, None))]
