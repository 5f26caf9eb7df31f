"""What an error tells of the call that failed, and letting go of what the error keeps alive."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Any

from gen_worker.models.residency.weights import modules_of

__all__ = ["failed_component", "release_frames"]

_IS_FUNCTION = 1  # inspect.CO_OPTIMIZED
_CAN_WAIT = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR


def failed_component(pipeline: Any, error: BaseException) -> str:
    """Return which component of a pipeline ran when an error was raised; empty when unknown."""
    owners = {
        id(part): name
        for name, module in modules_of(pipeline).items()
        if callable(getattr(module, "modules", None))
        for part in module.modules()
    }
    found = ""
    # The first frame is the one that caught the error: its own locals hold that very error.
    first = error.__traceback__
    for frame, _ in traceback.walk_tb(first.tb_next if first else None):
        code = frame.f_code
        if not code.co_flags & _IS_FUNCTION or code.co_varnames[:1] != ("self",):
            continue
        values = frame.f_locals
        found = owners.get(id(values.get("self")), found)
        if isinstance(values, dict):  # a copy, up to CPython 3.12, that would outlive the frame
            values.clear()
    return found


def release_frames(error: BaseException) -> None:
    """Let go of the tensors that an error's frames hold; the text of its traceback stays."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:  # `raise … from` can make a circle
        seen.append(found)
        for frame, _ in traceback.walk_tb(found.__traceback__):
            # Before 3.13 this would end a coroutine that waits, and whoever awaits us is one.
            if sys.version_info >= (3, 13) or not frame.f_code.co_flags & _CAN_WAIT:
                with suppress(RuntimeError):  # it runs, or waits
                    frame.clear()
        found = found.__cause__ or found.__context__
