"""What a worker is to be told of a request besides its payload, and what becomes of its end."""

from __future__ import annotations

import msgspec

from gen_worker.runtime.wire.commands import ResolvedModel

__all__ = ["JobOptions", "Webhook"]


class Webhook(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Who is told how a request goes."""

    url: str
    events: tuple[str, ...] = ()
    """Which; empty means all."""


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Kept with the request as `Submission.options`. Only a webhook's URL may be secret."""

    endpoint_owner: str = ""
    """Whose endpoint it is; the record's `owner` is who invokes it."""
    models: dict[str, ResolvedModel] = {}
    """What its caller chose instead of what the author declared, by slot."""
    refs: tuple[str, ...] = ()
    """Every model it needs, chosen or declared, as canonical text: what placement looks at."""
    factors: dict[str, float] = {}
    """The numbers of its payload that its cost grows with, by field path."""
    hints: dict[str, str] = {}
    invoker_id: str = ""
    webhook: Webhook | None = None

    def encode(self) -> bytes:
        """Return what the ledger keeps; empty when there is nothing to tell."""
        return b"" if self == _NOTHING else _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> JobOptions:
        """Read what `encode` has written; what a newer version added is left out."""
        return _decode(data) if data else _NOTHING


_NOTHING = JobOptions()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(JobOptions).decode
