"""Who opened a stream, and whether it is served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import AuthError
from gen_worker.runtime.auth import KeysUnavailableError
from gen_worker.runtime.scheduler.gateway.streams import RefusedError
from gen_worker.runtime.scheduler.gateway.values import refusal
from gen_worker.runtime.wire import MalformedMessageError, Registration, decode
from gen_worker.wire_protocol import WIRE_PROTOCOL_MAJOR

if TYPE_CHECKING:
    from gen_worker.runtime.scheduler.gateway.streams import ServedStream
    from gen_worker.runtime.scheduler.gateway.values import RefusalWord, Verify

__all__ = ["Identity", "admitted", "registration_in"]

_MAX_ID_CHARS = 256
_BEARER = "bearer "


class Identity(NamedTuple):
    """Whose stream it is."""

    worker_id: str
    release_id: str


async def registration_in(stream: ServedStream, within_s: float) -> Registration | None:
    """Return what a stream begins with; None when it ended before a word was said.

    Raises:
        RefusedError: It begins with something else, or not in time.
    """
    late = refusal("no_registration", f"the stream said nothing for {within_s:g} s")
    timer = None
    if within_s > 0:
        timer = asyncio.get_running_loop().call_later(within_s, stream.end, late)
    try:
        data = await stream.context.read()
    finally:
        if timer is not None:
            timer.cancel()
    if not isinstance(data, bytes):
        return None
    try:
        message = decode(data)
    except MalformedMessageError as error:
        raise _refused("malformed_message", str(error)) from error
    if not isinstance(message, Registration):
        kind = "nothing that is known here" if message is None else f"a {type(message).__name__}"
        raise _refused("no_registration", f"every stream begins with one, this one with {kind}")
    _check(stream, message)
    return message


def _check(stream: ServedStream, registration: Registration) -> None:
    major, minor = registration.protocol_major, registration.protocol_minor
    if major != WIRE_PROTOCOL_MAJOR:
        sentence = f"the worker speaks {major}.{minor}, this scheduler {WIRE_PROTOCOL_MAJOR}.x"
        raise _refused("unsupported_worker_protocol", sentence)
    if registration.stream_role not in ("", stream.role):
        sentence = f"the method is for {stream.role}, the registration says "
        raise _refused("wrong_stream", f"{sentence}{registration.stream_role[:32]!r}")


async def admitted(
    stream: ServedStream, registration: Registration, verify: Verify | None
) -> Identity:
    """Return who a worker is: as its token says, or itself where nobody checks tokens.

    Raises:
        RefusedError: It is nobody, or has no good token.
    """
    if verify is not None:
        return await _bearer(stream, verify)
    worker_id = registration.resources.worker_id
    if not 0 < len(worker_id) <= _MAX_ID_CHARS:
        sentence = f"it has {len(worker_id)} characters, from 1 to {_MAX_ID_CHARS} are allowed"
        raise _refused("no_worker_id", sentence)
    return Identity(worker_id, registration.resources.release_id)


async def _bearer(stream: ServedStream, verify: Verify) -> Identity:
    metadata = dict(stream.context.invocation_metadata() or ())
    header = metadata.get("authorization", "")
    if not isinstance(header, str) or not header.lower().startswith(_BEARER):
        raise _refused("no_token", "the metadata `authorization` must be `Bearer` and a token")
    token = header[len(_BEARER) :].strip()
    try:
        claims = await asyncio.to_thread(verify, token)
    except KeysUnavailableError as error:
        raise _refused("tokens_uncheckable", "the issuer's keys are out of reach") from error
    except AuthError as error:
        raise _refused("token_refused", str(error)) from error
    if not 0 < len(claims.subject) <= _MAX_ID_CHARS:
        raise _refused("token_refused", "its claim `sub` names no worker")
    return Identity(claims.subject, claims.release_id)


def _refused(word: RefusalWord, sentence: str) -> RefusedError:
    return RefusedError(refusal(word, sentence))
