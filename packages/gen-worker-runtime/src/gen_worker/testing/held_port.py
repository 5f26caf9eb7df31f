"""A free port that stays free while no server listens on it."""

from __future__ import annotations

import socket
import sys
import weakref

from gen_worker.testing.closing import Closing

__all__ = ["HeldPort"]


class HeldPort(Closing):
    """A port for servers that come and go; the system gives it to nobody else meanwhile.

    It is bound and not listened on, so a server with `SO_REUSEADDR`, which gRPC sets, may still
    have it. Only Linux knows this: elsewhere the port was free and no more is done.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        held = socket.socket(family, kind, protocol)
        self._end = weakref.finalize(self, held.close)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        self.number: int = held.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        """Let anybody have it."""
        self._end()
