"""Time as the hub's client sees it, so that tests need not wait."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken

__all__ = ["SYSTEM_CLOCK", "Clock"]


def _sleep(seconds: float, token: CancelToken | None) -> None:
    if token is None:
        time.sleep(seconds)
        return
    token.wait(seconds)
    token.raise_if_canceled()


class Clock(NamedTuple):
    """What polling and backing off need of the world."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float, CancelToken | None], None] = _sleep
    """Waits; raises `CanceledError` once the token, if any, is canceled."""
    random: Callable[[], float] = random.random
    """At least 0 and below 1."""


SYSTEM_CLOCK = Clock()
