"""What one HTTP host allows, and how it answers."""

from __future__ import annotations

import msgspec

from gen_worker.runtime.http.credentials import Credentials

__all__ = ["HttpOptions"]


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one host allows and how it answers."""

    credentials: Credentials | None = None
    """Who may ask, by what `Authorization: Bearer` carries; None: whoever can connect."""
    is_loopback: bool = False
    """Whether only this machine can connect: then no other name of a host is answered, which a
    web page could have made to lead here."""
    owner: str | None = None
    """Whose calls these are, unless the caller says."""
    max_body_bytes: int = 256 * 1024 * 1024
    max_answer_bytes: int = 64 * 1024 * 1024
    """A streamed output collected for a client that did not ask for a stream."""
    ping_s: float = 15.0
    """After so long a stream shows a sign of life."""
    is_plain: bool = False
    """Answer as `gen_worker.testing.http_runner` is documented: 200, 400, 404 as text, 500."""
