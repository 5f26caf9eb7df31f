"""One request to a running server, as `run` and `invoke` make it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from gen_worker.cli.signals import SECOND_PRESS_S
from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress, parse_address
from gen_worker.runtime.ndjson.client import Client, NoServerError, ReplyFrame, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["Request", "connect", "exit_code_of", "sidecar_of"]

_PATIENCE_S = 15.0
_CONTROL_TIMEOUT_S = 1.0
_EXIT_CODES = {"usage": 2, "not_found": 2, "model_resolution": 3, "canceled": 130}
_ALL_INTERFACES = ("0.0.0.0", "::")


class Request:
    """Sends one frame and yields its replies; Ctrl-C cancels it at the server, twice leaves."""

    def __init__(
        self,
        client: Client,
        function: str,
        payload: object,
        *,
        patience_s: float = _PATIENCE_S,
        **options: Any,
    ) -> None:
        """Prepare a request.

        Args:
            client: A connection of its own.
            function: Any of the function's names.
            payload: What JSON can say.
            patience_s: After this long without an answer, one notice is printed.
            options: More keys of the frame.
        """
        self._client = client
        self._id = f"cli-{os.urandom(8).hex()}"
        self._frame = {
            "request_id": self._id,
            "function": function,
            "payload": payload,
            **options,
        }
        self._patience_s = patience_s
        self._pressed_at: float | None = None

    def replies(self, timeout_s: float | None = None) -> Iterator[ReplyFrame]:
        """Yield the server's lines.

        Args:
            timeout_s: How long the whole answer may take; None waits forever.

        Raises:
            RequestTimeoutError: It took longer; the request goes on at the server.
            NoServerError: The server went away before the answer.
            KeyboardInterrupt: The second Ctrl-C.
        """
        deadline = time.monotonic() + timeout_s if timeout_s else None
        with self._interruptible():
            self._client.send(self._frame)
            try:
                yield from self._patiently(deadline)
            except RequestTimeoutError as error:
                self._detach()
                raise RequestTimeoutError(
                    f"no answer from {self._client.address} within {timeout_s:g} s; "
                    "the request goes on there"
                ) from error

    def _patiently(self, deadline: float | None) -> Iterator[ReplyFrame]:
        has_spoken = False
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            patience = left if has_spoken else min(self._patience_s, left or self._patience_s)
            try:
                for reply in self._client.replies(patience):
                    has_spoken = True
                    yield reply
                    if deadline is not None and time.monotonic() >= deadline and not reply.is_last:
                        raise RequestTimeoutError
                return
            except RequestTimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
                if not has_spoken:
                    has_spoken = True
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
        if self._pressed_at is not None and now - self._pressed_at < SECOND_PRESS_S:
            raise KeyboardInterrupt
        self._pressed_at = now
        threading.Thread(target=self._cancel, name="gen-worker-cancel", daemon=True).start()

    # Both ask on a connection of their own: the request's connection is waiting for its answer.

    def _cancel(self) -> None:
        with (
            contextlib.suppress(NoServerError, RequestTimeoutError),
            self._client.sibling() as other,
        ):
            other.cancel(self._id)

    def _detach(self) -> None:
        with (
            contextlib.suppress(NoServerError, RequestTimeoutError),
            self._client.sibling(_CONTROL_TIMEOUT_S) as other,
        ):
            other.detach(self._id, _CONTROL_TIMEOUT_S)


def connect(address: str) -> Client:
    """Connect to a server, with its token where this machine knows it.

    Raises:
        ValidationError: The address is malformed.
        NoServerError: Nobody answers there.
    """
    from gen_worker.runtime.settings import serve_token

    where = parse_address(address)
    if isinstance(where, UnixAddress):
        return Client(where)
    return Client(where, token=serve_token() or str(sidecar_of(where).get("token", "")))


def sidecar_of(address: UnixAddress | TcpAddress) -> dict[str, Any]:
    """Return what the server at `address` announces about itself; empty when it does not."""
    from gen_worker.runtime.ndjson.sidecar import read_sidecar, sidecar_path

    document = read_sidecar(sidecar_path(address))
    return document if _is_reached_by(document.get("listen"), address) else {}


def _is_reached_by(listen: object, address: UnixAddress | TcpAddress) -> bool:
    """Tell whether a server that listens there is the one at `address`."""
    if listen == str(address):
        return True
    if not isinstance(address, TcpAddress) or not isinstance(listen, str):
        return False
    return any(listen == str(TcpAddress(host, address.port)) for host in _ALL_INTERFACES)


def exit_code_of(error: dict[str, Any]) -> int:
    """Return the exit code of a failed answer."""
    code = error.get("exit_code")
    return code if isinstance(code, int) and code else _EXIT_CODES.get(str(error.get("kind")), 1)
