"""LoRAs that the platform puts over a model for one request, without the author's doing."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError
from gen_worker.models.lora.adapters import adapter_file, read_adapter
from gen_worker.models.lora.attaching import attached

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from gen_worker.models.choice import LoraChoice

__all__ = ["attach_overlays", "overlay_names"]


def overlay_names(count: int, *, request_id: str, parameter: str) -> list[str]:
    """Return the adapters' names: unique in the process, so that two requests never meet."""
    return [f"cozy_lora_{request_id}_{parameter}_{index}" for index in range(count)]


@contextlib.contextmanager
def attach_overlays(
    pipeline: Any,
    loras: Sequence[LoraChoice],
    paths: Sequence[str | os.PathLike[str]],
    *,
    request_id: str,
    parameter: str,
) -> Iterator[Any]:
    """Attach the LoRAs of a choice for the length of a call; yields the pipeline.

    Another call's overlays over the same pipeline wait until this one is over. The block may be
    entered in one thread and left in another. Whether the binding allows LoRAs was checked when the
    choice was made.

    Args:
        pipeline: The leased object of the parameter.
        loras: `ModelChoice.loras`.
        paths: Where each of them is now: a directory or a file.
        request_id: Of the call.
        parameter: The receiving parameter.

    Raises:
        ValidationError: One is not for this pipeline, or its directory has no safetensors file.
    """
    if len(paths) != len(loras):
        raise ValidationError(f"{len(loras)} LoRAs were chosen, {len(paths)} are here")
    # peft takes a dot in a name for the next level of modules.
    names = overlay_names(len(loras), request_id=request_id.replace(".", "_"), parameter=parameter)
    adapters = [
        read_adapter(adapter_file(path, lora.ref), name=name, weight=lora.weight, ref=lora.ref)
        for lora, path, name in zip(loras, paths, names, strict=True)
    ]
    if not adapters:
        yield pipeline
        return
    with _gate(pipeline), attached(pipeline, adapters, request_id):
        yield pipeline


# Plain locks, because whoever attaches need not be the thread that detaches. Not the pipeline's own
# lock: that is the author's to take inside the call.
_gates: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def _gate(pipeline: Any) -> AbstractContextManager[Any]:
    with _guard:
        try:
            return _gates.setdefault(pipeline, threading.Lock())
        except TypeError:  # no weak references; `attached` refuses whatever is no pipeline
            return contextlib.nullcontext()
