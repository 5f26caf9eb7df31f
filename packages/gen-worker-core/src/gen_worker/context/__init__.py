"""What a handler receives first: who asked, when to stop, where to put files, how to publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.context.call import CancelFlag
from gen_worker.context.request import RequestContext

if TYPE_CHECKING:
    from gen_worker.context.producers import (
        ConversionContext,
        DatasetContext,
        ProducerContext,
        TrainingContext,
    )
    from gen_worker.context.stream import OutputWriter

__all__ = [
    "CancelFlag",
    "ConversionContext",
    "DatasetContext",
    "OutputWriter",
    "ProducerContext",
    "RequestContext",
    "TrainingContext",
]

# Most calls need none of these.
_LATER = {
    "ConversionContext": "gen_worker.context.producers",
    "DatasetContext": "gen_worker.context.producers",
    "OutputWriter": "gen_worker.context.stream",
    "ProducerContext": "gen_worker.context.producers",
    "TrainingContext": "gen_worker.context.producers",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value
