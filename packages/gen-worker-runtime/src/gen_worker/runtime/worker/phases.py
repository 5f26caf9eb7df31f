"""How far the worker has come, for its log and for its orchestrator."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.wire import StartupPhase

if TYPE_CHECKING:
    from gen_worker.runtime.worker.outbox import Outbox

__all__ = ["STARTED_AT", "Dials", "Phases", "log_phase"]

STARTED_AT = time.monotonic()
"""When this process began, near enough: this module is among the first that are imported."""

_log = logging.getLogger("gen_worker.worker")
_to_json = msgspec.json.Encoder(enc_hook=str).encode


def log_phase(phase: str, status: str = "ok", **facts: Any) -> None:
    """Write the log line `worker.startup.phase {json}`."""
    record = {
        "phase": phase,
        "status": status,
        "pid": os.getpid(),
        "uid": getattr(os, "getuid", int)(),
        "gid": getattr(os, "getgid", int)(),
        "cwd": _working_directory(),
        **facts,
    }
    _log.info("worker.startup.phase %s", _to_json(record).decode())


class Phases:
    """The phases of one worker: logged always, and told where somebody has use for them."""

    def __init__(self, outbox: Outbox, worker_id: str) -> None:
        self._outbox = outbox
        self._worker_id = worker_id
        self.address = ""
        """Of the orchestrator that is or was dialed last."""

    def log(self, phase: str, status: str = "ok", **facts: Any) -> None:
        """Note a phase that nobody is connected to hear of."""
        log_phase(
            phase,
            status,
            worker_id=self._worker_id,
            scheduler_addr=self.address,
            elapsed_ms=elapsed_ms(),
            **facts,
        )

    def say(self, phase: str, status: str = "ok", **facts: Any) -> None:
        """Note a phase and tell the orchestrator; one that waits to be told is told once."""
        self.log(phase, status, **facts)
        signal = StartupPhase(
            phase=phase,
            status=status,
            scheduler_addr=self.address,
            elapsed_ms=elapsed_ms(),
            detail=" ".join(f"{name}={value}" for name, value in facts.items()),
        )
        self._outbox.control(signal, replaces=("phase", phase))


class Dials:
    """The attempts to connect: what is new is logged, what happens again and again is counted."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._failures = 0
        self._addresses: set[str] = set()
        self._troubles: set[tuple[str, str]] = set()

    def begin(self, address: str) -> None:
        """Note that an address is dialed."""
        self._phases.address = address
        if address not in self._addresses:
            self._addresses.add(address)
            self._phases.log("scheduler_connecting")

    def fail(self, reason: str) -> None:
        """Note that the address cannot be had."""
        self._failures += 1
        address = self._phases.address
        if (address, reason) not in self._troubles:
            self._troubles.add((address, reason))
            _log.info("cannot connect to %s: %s", address, reason)
        elif self._failures.bit_count() == 1:  # twice as many as the last time
            _log.info("%d attempts to connect have failed", self._failures)

    def succeed(self) -> None:
        """Note that the address that was dialed last is connected."""
        if self._failures:
            address, failures = self._phases.address, self._failures
            _log.info("connected to %s after %d failed attempts", address, failures)
        self._failures = 0
        self._addresses.clear()
        self._troubles.clear()


def elapsed_ms() -> int:
    """Return the milliseconds since this process began."""
    return int((time.monotonic() - STARTED_AT) * 1000)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""
