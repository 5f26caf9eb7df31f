"""How a call's exception becomes its failure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cancel import Interrupted
from gen_worker.errors import (
    RefCompatibilitySurprise,
    SettingsError,
    WorkerError,
    classify,
)

if TYPE_CHECKING:
    from types import TracebackType

    from gen_worker.errors import Failure, Origin
    from gen_worker.runtime.engine.calls import RunningCall

__all__ = ["failure_of", "is_canceling", "traceback_of"]


def failure_of(error: BaseException, call: RunningCall) -> Failure:
    """Return what a call reports; a canceled one was canceled, whatever it raised at last."""
    token, origin = call.token, call.origin
    if token.reason is not None:
        return classify(token.error(), origin=origin)
    if call.has_own_models and _is_surprise(error):
        surprise = RefCompatibilitySurprise(str(error)[:_MAX_SURPRISE_CHARS])
        return classify(surprise, origin="input", detail=traceback_of(error))
    failure = _judged(error, origin)
    if origin == "input" and failure.error_type != "internal":
        return failure  # the message says it all
    return msgspec.structs.replace(failure, detail=traceback_of(error))


def _judged(error: BaseException, origin: Origin) -> Failure:
    if origin == "input" and isinstance(error, ValueError) and not isinstance(error, WorkerError):
        # Of a `setup`, a model's loader or the host: it says nothing about the payload.
        unexpected = classify(Exception(), origin=origin)
        return msgspec.structs.replace(unexpected, exception=type(error).__name__)
    return classify(error, origin=origin)


# What loaders and pipelines say about weights that are not theirs.
_SURPRISES = (
    "error(s) in loading state_dict",
    "missing keys",
    "unexpected keys",
    "size mismatch for",
    "cannot load",
    "does not appear to be a valid",
    "cannot instantiate",
    "tried to load but failed",
)
_COMPONENTS = frozenset(
    "text_encoder text_encoder_2 text_encoder_3 unet transformer vae scheduler tokenizer "
    "tokenizer_2 image_encoder prior".split()
)
_MODEL_FILES = (
    "config.json",
    "model_index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model",
    "safetensors",
)
_MAX_SURPRISE_CHARS = 240


def _is_surprise(error: BaseException) -> bool:
    """Tell whether a foreign error means that the caller's own model does not fit the function."""
    if isinstance(error, WorkerError):
        return False
    text = str(error).lower()
    if isinstance(error, KeyError):
        return text.strip("'\"") in _COMPONENTS
    if isinstance(error, OSError) and any(name in text for name in _MODEL_FILES):
        return True
    return any(part in text for part in _SURPRISES)


def is_canceling(error: BaseException) -> bool:
    """Tell whether an exception only says that somebody wanted the call to stop."""
    # A host without an event loop never imports asyncio.
    asyncio = sys.modules.get("asyncio")
    return isinstance(error, Interrupted) or (
        asyncio is not None and isinstance(error, asyncio.CancelledError)
    )


def traceback_of(error: BaseException) -> str:
    """Return the operator's text: the traceback from the author's first frame on."""
    if isinstance(error, SettingsError):
        return "\n".join(error.problems)  # they name files and lines; no code is at fault
    import traceback

    return "".join(traceback.format_exception(type(error), error, _beyond_engine(error)))


def _beyond_engine(error: BaseException) -> TracebackType | None:
    found = error.__traceback__
    engine = __name__.rpartition(".")[0]
    while found is not None and found.tb_frame.f_globals.get("__name__", "").startswith(engine):
        found = found.tb_next
    return found or error.__traceback__
