"""One way to ask the hub something: JSON there and back, with its refusals as typed errors."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from gen_worker.errors import ValidationError, safe_text
from gen_worker.models.hub.clock import SYSTEM_CLOCK, Clock
from gen_worker.models.hub.errors import HubAuthError, HubRequestError, HubUnreachableError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import ModuleType

    import httpx

    from gen_worker.cancel import CancelToken

__all__ = ["HubConnection", "Reply", "load_httpx", "raise_for", "segment", "tls_context"]

_MAX_REPLY_BYTES = 64 * 1024 * 1024
_MAX_SHOWN_CHARS = 256
_RETRY_PAUSE_S = 0.5
CONNECT_TIMEOUT_S = 30.0


def load_httpx() -> ModuleType:
    """Import httpx without its command line, which takes five times as long as all the rest.

    It comes along wherever click and rich are installed; httpx itself does without.
    """
    name = "httpx._main"
    if "httpx" in sys.modules:
        return sys.modules["httpx"]
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's word for "absent"
    try:
        import httpx
    finally:
        del sys.modules[name]
    return httpx


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return what the machine trusts. Made once: reading the certificates takes 30 ms."""
    import httpx

    return httpx.create_ssl_context()


def segment(text: str) -> str:
    """Return one segment of a path; `/` in it does not stay raw."""
    return quote(text, safe=":")


class Reply(NamedTuple):
    """What the hub answered."""

    status: int
    headers: Mapping[str, str]
    data: Any
    """The decoded JSON; None when it was none."""
    text: str
    """The beginning of the body, for messages."""

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """The hub's word for what is wrong; empty when it has none."""
        error = self.data.get("error") if isinstance(self.data, dict) else None
        if isinstance(error, dict):
            error = error.get("code")
        return error if isinstance(error, str) else ""

    @property
    def message(self) -> str:
        """What the hub says is wrong, cut and without secrets."""
        data = self.data if isinstance(self.data, dict) else {}
        error = data.get("error")
        told = error.get("message") if isinstance(error, dict) else data.get("message") or error
        return safe_text(str(told or self.text)[:_MAX_SHOWN_CHARS], f"status {self.status}")

    def record(self, phase: str) -> dict[str, Any]:
        """Return the body, which has to be an object.

        Raises:
            HubRequestError: It is something else.
        """
        if not isinstance(self.data, dict):
            raise HubRequestError(
                f"the hub's answer is no JSON object: {self.text[:_MAX_SHOWN_CHARS]!r}",
                phase=phase,
                status_code=self.status,
            )
        return self.data


class HubConnection:
    """The hub as one caller sees it. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        token: str = "",
        *,
        owner: str = "",
        clock: Clock = SYSTEM_CLOCK,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        load_httpx()
        import httpx

        base_url = base_url.strip().rstrip("/")
        try:
            scheme, host = httpx.URL(base_url).scheme, httpx.URL(base_url).host
        except httpx.InvalidURL:
            scheme = host = ""
        if scheme not in ("http", "https") or not host:
            raise ValidationError(
                f"{base_url!r:.120} is no URL of a hub: write it as 'https://hub.example'"
            )
        self.base_url = base_url
        self.owner = owner
        self.token = token
        self.clock = clock
        # Not followed: an answer elsewhere must not be given the token.
        self._client = httpx.Client(
            transport=transport, follow_redirects=False, verify=tls_context()
        )

    def __repr__(self) -> str:
        return f"HubConnection({self.base_url!r})"

    def close(self) -> None:
        self._client.close()

    def url(self, path: str) -> str:
        return f"{self.base_url}{path}"

    def headers(self) -> dict[str, str]:
        """Return what says who asks."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return headers | ({"x-cozy-owner": self.owner} if self.owner else {})

    def call(
        self,
        method: str,
        path: str,
        *,
        phase: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        attempts: int = 1,
        retry_429: bool = True,
        cancel: CancelToken | None = None,
    ) -> Reply:
        """Ask, and return whatever the hub answers.

        Args:
            method: Of HTTP.
            path: Below the base URL, encoded.
            phase: What is being done, for errors.
            body: Sent as JSON; bytes are JSON already.
            query: Behind the path.
            timeout_s: For each single step of the exchange.
            attempts: How often to ask when nothing, or a 5xx or 429, comes back.
            retry_429: Whether a 429 is worth another attempt.
            cancel: Checked before each attempt.

        Raises:
            HubUnreachableError: Nothing came back.
            CanceledError: The token was canceled.
        """
        for left in reversed(range(attempts)):
            if cancel is not None:
                cancel.raise_if_canceled()
            try:
                reply = self._ask(method, path, phase, body, query, timeout_s)
            except HubUnreachableError:
                if not left:
                    raise
            else:
                is_busy = reply.status >= 500 or (retry_429 and reply.status == 429)
                if not left or not is_busy:
                    return reply
            self.clock.sleep(_RETRY_PAUSE_S, cancel)
        raise AssertionError("the last attempt returns or raises")

    def stream(
        self, method: str, path: str, *, timeout_s: float, headers: Mapping[str, str]
    ) -> AbstractContextManager[httpx.Response]:
        """Ask for bytes; the caller reads them, and translates httpx's errors."""
        return self._client.stream(
            method,
            self.url(path),
            headers={**self.headers(), **headers},
            timeout=_timeout(timeout_s),
        )

    def _ask(
        self,
        method: str,
        path: str,
        phase: str,
        body: Any,
        query: Mapping[str, str] | None,
        timeout_s: float,
    ) -> Reply:
        import httpx

        headers, content = self.headers(), None
        if body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            headers["content-type"] = "application/json"
        try:
            with self._client.stream(
                method,
                self.url(path),
                content=content,
                params=query,
                headers=headers,
                timeout=_timeout(timeout_s),
            ) as response:
                data = _read(response.iter_bytes(), phase, response.status_code)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise HubUnreachableError(
                f"the hub at {self.base_url} did not answer: is it running and reachable?",
                phase=phase,
                cause_type=type(error).__name__,
            ) from error
        return Reply(response.status_code, response.headers, _decoded(data), _shown(data))

    def ask(self, method: str, path: str, *, phase: str, **options: Any) -> Reply:
        """Ask, and have everything that is no 2xx raised.

        Raises:
            HubAuthError: 401 or 403.
            HubRequestError: Any other refusal.
            HubUnreachableError: Nothing came back.
        """
        reply = self.call(method, path, phase=phase, **options)
        raise_for(reply, phase)
        return reply


def raise_for(reply: Reply, phase: str) -> None:
    """Raise what an answer that is no 2xx means."""
    if reply.status in (401, 403):
        remedy = "set TENSORHUB_TOKEN" if reply.status == 401 else "use a token that allows it"
        raise HubAuthError(
            f"the hub refuses the token: {reply.message}: {remedy}",
            status_code=reply.status,
            code=reply.code,
        )
    if not reply.is_ok:
        raise HubRequestError(
            f"the hub refuses: {reply.message}",
            phase=phase,
            status_code=reply.status,
            code=reply.code,
            retryable=reply.status == 429 or reply.status >= 500,
        )


def _timeout(seconds: float) -> httpx.Timeout:
    import httpx

    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S))


def _read(pieces: Iterator[bytes], phase: str, status: int) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > _MAX_REPLY_BYTES:
            raise HubRequestError(
                f"the hub's answer has more than {_MAX_REPLY_BYTES} bytes",
                phase=phase,
                status_code=status,
            )
    return bytes(data)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _shown(data: bytes) -> str:
    return data[:512].decode(errors="replace")
