"""Endpoints that produce weights and datasets.

The package doubles as the decorator of the same name: `@conversion(...)`, `@conversion.function`
and `@conversion.stage` work whether `conversion` came from `from gen_worker import conversion` or
is this module.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gen_worker.endpoint.classes import conversion as _decorator

if TYPE_CHECKING:
    from gen_worker.context import ConversionContext, DatasetContext
    from gen_worker.endpoint.jobs import DEFAULT_KIND, RECOMMENDED_KINDS, training_function
    from gen_worker.types import DatasetRef, DestinationRepo, OutputSpec, ProducedFlavor, SourceRepo

__all__ = [
    "DEFAULT_KIND",
    "RECOMMENDED_KINDS",
    "ConversionContext",
    "DatasetContext",
    "DatasetRef",
    "DestinationRepo",
    "OutputSpec",
    "ProducedFlavor",
    "SourceRepo",
    "training_function",
]

# Loaded at first use: an endpoint with one decorator pays for no more than that.
_MODULES = {
    "ConversionContext": "gen_worker.context",
    "DEFAULT_KIND": "gen_worker.endpoint.jobs",
    "DatasetContext": "gen_worker.context",
    "DatasetRef": "gen_worker.types",
    "DestinationRepo": "gen_worker.types",
    "OutputSpec": "gen_worker.types",
    "ProducedFlavor": "gen_worker.types",
    "RECOMMENDED_KINDS": "gen_worker.endpoint.jobs",
    "SourceRepo": "gen_worker.types",
    "training_function": "gen_worker.endpoint.jobs",
}


class _DecoratorModule(ModuleType):
    """Importing this package rebinds `gen_worker.conversion`, so it must work as the decorator."""

    # The bound method itself: one more frame would hide the line where the decorator stands.
    __call__ = _decorator.__call__
    function = _decorator.function
    stage = _decorator.stage


sys.modules[__name__].__class__ = _DecoratorModule


def _load(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


if not TYPE_CHECKING:  # a type checker would take any name for granted
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
