"""The token that one call has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cancel import CancelToken

if TYPE_CHECKING:
    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.engine.calls import RunningCall

__all__ = ["CallToken"]


class CallToken(CancelToken):
    """A token that knows its call, which saves the call a callback.

    Every call that brings no token gets one; a transport that wants to know it beforehand makes one
    and submits its call with it.
    """

    __slots__ = ("call",)

    call: RunningCall | None
    """Set by the call; missing before it, and None once it has ended."""

    def cancel(self, reason: CancelReason = "caller") -> bool:
        is_first = True  # as it is when a callback raises
        try:
            is_first = super().cancel(reason)
        finally:
            call = getattr(self, "call", None)
            if is_first and call is not None:
                call.notice_cancel()
        return is_first
