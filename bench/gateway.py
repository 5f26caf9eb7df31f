"""What 200 workers cost the scheduler's gateway: idle, and at 1,000 jobs per second.

The peer is the least server that gives jobs to workers over the same protocol. Both run in
processes of their own, each with 200 simulated workers in another.

    python bench/gateway.py [--save]
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from peers.served import Bar, Bars, main

from gen_worker.runtime.scheduler.gateway import Gateway
from gen_worker.runtime.wire import JobRequest, JobResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.gateway import Session
    from gen_worker.runtime.wire import Message, Registration

PAYLOAD = b"\x81\xa4text\xabhello world"


class Bare:
    """The gateway, and behind it a handler that only passes answers on."""

    def __init__(self) -> None:
        self.gateway = Gateway("127.0.0.1:0", self)
        self.sessions: list[Session] = []
        self.waiting: dict[str, Callable[[], None]] = {}

    async def start(self) -> str:
        await self.gateway.start()
        return self.gateway.address

    async def stop(self) -> None:
        await self.gateway.stop()

    def connected(self) -> int:
        return min(len(self.sessions), self.gateway.statistics().streams // 3)

    def submit(self, number: int, answered: Callable[[], None]) -> None:
        request = JobRequest(request_id=f"job-{number}", function="echo-sync", payload=PAYLOAD)
        self.waiting[request.request_id] = answered
        assert self.sessions[number % len(self.sessions)].send(request)

    # As the gateway's handler.

    def registered(self, session: Session, registration: Registration) -> None:
        self.sessions.append(session)

    def heartbeat(self, session: Session, registration: Registration) -> None:
        """Nothing follows from it."""

    def heard(self, session: Session, message: Message) -> None:
        if isinstance(message, JobResult):
            self.waiting.pop(message.request_id)()

    def lost(self, session: Session, reason: str) -> None:
        """Nothing follows from it."""


if __name__ == "__main__":
    main(__file__, "gateway", Bare, Bars(idle=Bar(3, 1.5, "%")))
