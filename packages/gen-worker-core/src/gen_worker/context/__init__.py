"""What a handler receives first: who asked, when to stop, where to put files, how to publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.context.call import CancelFlag
from gen_worker.context.request import RequestContext
from gen_worker.lazy import lazy_names

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
    "producers": ("ConversionContext", "DatasetContext", "ProducerContext", "TrainingContext"),
    "stream": ("OutputWriter",),
}

__getattr__, __dir__ = lazy_names(__name__, _LATER)
