"""One request to a running server, as `run` and `invoke` make it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.runtime.ndjson.client import Client, NoServerError, ReplyFrame, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress

__all__ = ["Request", "connect", "exit_code_of", "sidecar_of"]

_PATIENCE_S = 15.0
_SECOND_PRESS_S = 2.0
_EXIT_CODES = {"usage": 2, "not_found": 2, "model_resolution": 3, "canceled": 130}


class Request:
    """Sends one frame and yields its replies; Ctrl-C cancels it at the server, twice detaches."""

    def __init__(self, client: Client, function: str, payload: object, **options: Any) -> None:
        self._client = client
        self._id = f"cli-{os.urandom(8).hex()}"
        self._frame = {
            "request_id": self._id,
            "function": function,
            "payload": payload,
            **options,
        }
        self._pressed_at = 0.0

    def replies(self, timeout_s: float | None = None) -> Iterator[ReplyFrame]:
        """Yield the server's lines.

        Args:
            timeout_s: How long the whole answer may take; None waits forever.

        Raises:
            RequestTimeoutError: It took longer; the request goes on at the server.
            NoServerError: The server went away before the answer.
        """
        deadline = time.monotonic() + timeout_s if timeout_s else None
        self._client.send(self._frame)
        with self._interruptible():
            yield from self._patiently(deadline)

    def _patiently(self, deadline: float | None) -> Iterator[ReplyFrame]:
        has_answered = False
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            patience = left if has_answered else min(_PATIENCE_S, left or _PATIENCE_S)
            try:
                for reply in self._client.replies(patience):
                    has_answered = True
                    yield reply
                return
            except RequestTimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                if not has_answered:
                    has_answered = True
                    text = f"no answer from {self._client.address} yet, still waiting"
                    print(f"gen-worker: {text}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._pressed_at and now - self._pressed_at < _SECOND_PRESS_S:
            raise KeyboardInterrupt
        self._pressed_at = now
        threading.Thread(target=self._cancel, name="gen-worker-cancel", daemon=True).start()

    def _cancel(self) -> None:
        """Ask on a connection of its own: the request's own connection is waiting."""
        with contextlib.suppress(NoServerError), self._client.sibling() as other:
            other.cancel(self._id)


def connect(address: str) -> Client:
    """Connect to a server, with its token where this machine knows it.

    Raises:
        ValidationError: The address is malformed.
        NoServerError: Nobody answers there.
    """
    from gen_worker.runtime.ndjson.address import parse_address
    from gen_worker.runtime.settings import serve_token

    where = parse_address(address)
    token = "" if where.is_private else serve_token() or str(sidecar_of(where).get("token", ""))
    return Client(where, token=token)


def sidecar_of(address: UnixAddress | TcpAddress) -> dict[str, Any]:
    """Return what the server at `address` announces about itself; empty when it does not."""
    import msgspec

    from gen_worker.runtime.ndjson.claim import sidecar_path

    try:
        with open(sidecar_path(address), "rb") as file:
            document = msgspec.json.decode(file.read(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
    return document if document.get("listen") == str(address) else {}


def exit_code_of(error: dict[str, Any]) -> int:
    """Return the exit code of a failed answer."""
    return int(error.get("exit_code") or _EXIT_CODES.get(error.get("kind", ""), 1))
