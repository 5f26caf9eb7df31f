"""What a run says of itself: one JSON line per event, in a file and in the log."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.masking import without_credentials
from gen_worker.trainer.metrics import nonfinite_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.trainer.cancel import RuntimeCancelPolicy

__all__ = ["SCHEMA", "LocalTrainingReporter"]

SCHEMA = "trainer_event.v1"

_TAIL_BYTES = 64 * 1024
_log = logging.getLogger("gen_worker.trainer")
_encode = msgspec.json.Encoder(order="sorted", enc_hook=str).encode


class LocalTrainingReporter:
    """Writes events, and asks a policy whether to stop.

    An attempt ends with one event, `completed` or `failed`; what is said after that is not written.
    The numbers of the lines go on where an earlier attempt has ended, whatever it was killed at.
    """

    def __init__(
        self,
        events_path: str | os.PathLike[str] | None = None,
        *,
        cancel_policy: RuntimeCancelPolicy | None = None,
        request_id: str = "",
        events_version: int = 1,
        observer: Callable[[dict[str, Any]], object] | None = None,
        is_heard: bool = True,
    ) -> None:
        """Begin; the folder of the file is made.

        Args:
            events_path: Where lines are appended; None only logs them.
            cancel_policy: Says whether to stop; None never does.
            request_id: Of the job; by default what `started` says.
            events_version: 2 says `canceled` of a run that was, instead of `failed`, and `phase`.
            observer: Given every event once it is written, by the thread that writes it: it has to
                return at once, and must not raise.
            is_heard: Whether anything is written or logged; False for all but one of the processes
                that train together.
        """
        self.completed_step: int | None = None
        self.final_checkpoint: str | None = None
        self.failed_step: int | None = None
        self.failed_error: str | None = None
        self._path = None if events_path is None else os.fspath(events_path)
        self._policy = cancel_policy
        self._request_id = request_id
        self._says_more = events_version >= 2
        self._observer = observer
        self._is_heard = is_heard
        self._is_over = False
        self._writing = threading.Lock()
        self._seq = 0
        if self._path is not None:
            os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
            self._seq = _last_seq(self._path)

    # -- what the loop says ------------------------------------------------------------------------

    def started(self, *, request_id: str) -> None:
        """Note that training begins; the time limit counts from here."""
        self._request_id = request_id or self._request_id
        if self._policy is not None:
            self._policy.start()
        self._write("started")

    def phase(self, *, phase: str, step: int) -> None:
        """Note what is begun after so many steps; readers of version 1 are not told."""
        if self._says_more:
            self._write("phase", phase=phase, step=step)

    def heartbeat(self, *, step: int) -> None:
        """Note that the process is alive; from whichever thread."""
        self._write("heartbeat", step=step)

    def log(self, *, level: str, message: str, step: int, **facts: str) -> None:
        """Note something that a reader should know; from whichever thread."""
        text = without_credentials(message)
        self._write("log", level=level, message=text, step=step, **facts)

    def metric(self, *, name: str, value: float, step: int) -> None:
        """Note a number; one that JSON has no word for is null, and its name is in `nonfinite`."""
        word = nonfinite_word(value)
        more = {"nonfinite": word} if word else {}
        self._write("metric", name=name, value=None if word else value, step=step, **more)

    def checkpoint(self, *, path: str, step: int) -> None:
        self._write("checkpoint", path=path, step=step)

    def sample(self, *, path: str, step: int) -> None:
        self._write("sample", path=path, step=step)

    def completed(self, *, step: int, final_checkpoint: str | None) -> None:
        if not self._is_over:
            self.completed_step, self.final_checkpoint = step, final_checkpoint
            self._write("completed", step=step, final_checkpoint=final_checkpoint)
            self._is_over = True

    def failed(self, *, step: int, error: str) -> None:
        if self._is_over:
            return
        self.failed_step, self.failed_error = step, without_credentials(error)
        event = "canceled" if self._says_more and self.cancel_reason else "failed"
        try:
            self._write(event, step=step, error=self.failed_error)
        finally:
            self._is_over = True

    def is_canceled(self) -> bool:
        return self._policy is not None and self._policy.is_canceled()

    @property
    def cancel_reason(self) -> str | None:
        """Why the run is to stop; None when it is not."""
        return None if self._policy is None else self._policy.reason

    # ----------------------------------------------------------------------------------------------

    def _write(self, event: str, **facts: Any) -> None:
        with self._writing:
            if self._is_over or not self._is_heard:
                return
            self._seq += 1
            record = {
                "schema_version": SCHEMA,
                "event": event,
                "seq": self._seq,
                "request_id": self._request_id,
                "timestamp_ms": time.time_ns() // 1_000_000,
                **facts,
            }
            line = _encode(record)
            _log.info("trainer.event %s", line.decode())
            if self._path is not None:
                # Opened for each: whoever moves the file away gets a new one, and a line is one
                # write.
                with open(self._path, "ab", buffering=0) as file:
                    file.write(b"%b\n" % line)
            if self._observer is not None:
                self._observer(record)


def _last_seq(path: str) -> int:
    """Return the number of the last line, and end that line if a kill has left it open."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.write(b"\n")
    except FileNotFoundError:
        return 0
    for line in reversed(tail.splitlines()):
        try:
            seq = msgspec.json.decode(line).get("seq")
        except (msgspec.MsgspecError, AttributeError):
            continue
        if isinstance(seq, int):
            return seq
    return 0
