"""Whether a client is still there, asked of its socket where the event loop cannot tell."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["has_gone"]


def has_gone(transport: asyncio.Transport, *, counts_half_closed: bool) -> bool:
    """Tell whether nobody reads at the other end any more.

    Args:
        transport: An open connection.
        counts_half_closed: Whether a client that will send nothing more counts as gone. A unix
            socket tells it from one that also reads nothing more; TCP cannot.
    """
    signs = select.POLLHUP
    if counts_half_closed:
        signs |= getattr(select, "POLLRDHUP", 0)  # Linux
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), signs)
    return any(events & signs for _, events in poll.poll(0))
