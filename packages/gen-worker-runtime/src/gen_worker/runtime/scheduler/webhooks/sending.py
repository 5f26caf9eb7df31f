"""One attempt to deliver a webhook: through the one safe way to open a URL. Blocking."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import CanceledError, WorkerError
from gen_worker.models.net import HttpStatusError, NetworkError, Opener, UrlRefusedError
from gen_worker.runtime.scheduler.webhooks.signing import signatures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.cancel import CancelToken
    from gen_worker.runtime.scheduler.webhooks.values import WebhookOptions

__all__ = ["Message", "Sent", "opener_of", "send"]

_USER_AGENT = "gen-worker-webhooks"
_READ_BYTES = 4096
"""Of an answer, so that its connection can be used again; what it says does not matter."""


class Message(NamedTuple):
    """What is sent."""

    url: str
    webhook_id: str
    timestamp: int
    body: bytes
    secrets: tuple[str, ...]


class Sent(NamedTuple):
    """What came of it. No text here says where inside of a network a URL leads."""

    status: int
    """0 without an answer."""
    error: str
    """Empty when the receiver has it."""
    retry_after_s: float = 0.0
    """What the receiver asks for."""


def opener_of(options: WebhookOptions) -> Opener:
    """Return what reaches receivers, and follows no redirect: those turn a POST into a GET."""
    return Opener(
        trusted=options.trusted,
        allow_private=options.allow_private,
        connect_timeout_s=options.timeout_s,
        read_timeout_s=options.timeout_s,
        max_redirects=0,
        user_agent=_USER_AGENT,
    )


def send(opener: Opener, message: Message, timeout_s: float, token: CancelToken) -> Sent:
    """Send a message once, and wait for the answer's status.

    Raises:
        CanceledError: `token` was canceled, by something else than its deadline.
    """
    try:
        with opener.open(
            message.url,
            method="POST",
            headers=_headers(message),
            body=message.body,
            token=token,
            within_s=timeout_s,
        ) as response:
            with suppress(WorkerError):
                response.read(_READ_BYTES)
            status = response.status
        return Sent(status, "" if status < 300 else f"the receiver answered {status}")
    except HttpStatusError as error:
        status = error.status_code or 0
        return Sent(status, f"the receiver answered {status}", error.retry_after_s or 0.0)
    except UrlRefusedError:
        return Sent(0, "the URL, or what it redirects to, is none that webhooks are sent to")
    except CanceledError:
        if token.reason not in (None, "deadline"):
            raise
        return Sent(0, f"no answer within {timeout_s:g} s")
    except NetworkError as error:
        return Sent(0, f"no answer ({error.cause_type or 'none came'})")


def _headers(message: Message) -> Iterable[tuple[str, str]]:
    name, at = message.webhook_id, message.timestamp
    yield "Content-Type", "application/json"
    yield "webhook-id", name
    yield "webhook-timestamp", str(at)
    yield "webhook-signature", signatures(name, at, message.body, message.secrets)
