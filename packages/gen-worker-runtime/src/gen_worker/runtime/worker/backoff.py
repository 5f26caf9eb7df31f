"""How long to wait before the next attempt to connect."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Backoff"]

_MAX_DOUBLINGS = 64


class Backoff(NamedTuple):
    """Doubling waits with a bound, and a random part so that workers do not return in step."""

    base_s: float = 0.1
    cap_s: float = 1.0
    """No wait is longer, its random part included."""
    jitter_s: float = 0.1

    def delay_s(self, failures: int, random: Callable[[], float]) -> float:
        """Return the wait after so many failures in a row, in seconds.

        Args:
            failures: At least 1.
            random: Gives numbers from 0 up to 1.
        """
        jitter_s = min(self.jitter_s, self.cap_s)
        doubled_s = self.base_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(doubled_s, self.cap_s - jitter_s) + random() * jitter_s
