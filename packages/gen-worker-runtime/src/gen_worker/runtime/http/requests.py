"""The body of a call: a payload as it is, or an envelope around one.

It is an envelope exactly when it is an object whose `payload` is an object or a list.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.engine import Invocation
from gen_worker.runtime.http.jobs import NO_WISHES, HookWish, Wishes

if TYPE_CHECKING:
    from gen_worker.runtime.http.exchange import Headers

__all__ = [
    "SubmittedBody",
    "invocation_from",
    "invocation_of",
    "is_json",
    "key_of",
    "read_submission",
    "wishes_in",
    "wishes_of",
]

# Thirty years: beyond that the system's clocks cannot wait.
_MAX_TIMEOUT_MS = 10**12
_REQUEST_ID = re.compile(r"(?a)[A-Za-z0-9_~=-][A-Za-z0-9._~=-]{0,127}")
_EMPTY = b"{}"
_MAX_KEY_CHARS = 256

_MAX_PRIORITY = 1000

_Timeout = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIMEOUT_MS)]
_Priority = Annotated[int, msgspec.Meta(ge=-_MAX_PRIORITY, le=_MAX_PRIORITY)]


class _Look(msgspec.Struct, gc=False):
    """Only whether a body is an envelope; its other fields may be anything."""

    payload: msgspec.Raw = msgspec.Raw()


class _Envelope(msgspec.Struct, gc=False):
    payload: msgspec.Raw
    request_id: str | None = None
    timeout_ms: _Timeout | None = None
    owner: str | None = None
    invoker_id: str | None = None
    required_flavor_refs: list[str] | None = None
    required_models: list[str] | None = None
    resolved_cozy_models_by_id: dict[str, Any] | None = None
    priority: _Priority = 0
    webhook: HookWish | None = None


class SubmittedBody(_Envelope):
    """The body of `POST /v1/requests`: an envelope that also says what to call."""

    function: str = ""


_look = msgspec.json.Decoder(_Look).decode
_envelope = msgspec.json.Decoder(_Envelope).decode
_submission = msgspec.json.Decoder(SubmittedBody).decode


def invocation_of(function: str, body: bytes, new_id: str, owner: str | None) -> Invocation:
    """Return the call a body asks for.

    Args:
        function: As the backend knows it.
        body: As it was sent; nothing means an empty payload.
        new_id: Used when the body brings no id.
        owner: Used when the body names none.

    Raises:
        Refusal: 400, the envelope is wrong.
    """
    # Looking for a few bytes is all that most calls pay for the envelope.
    if body.find(b'"payload"') < 0 and body.find(b"\\u") < 0:
        return Invocation(
            function=function,
            payload=body or _EMPTY,
            result_format="json",
            request_id=new_id,
            job_id=new_id,
            owner=owner,
        )
    envelope = _envelope_in(body)
    if envelope is None:
        return invocation_from(_Envelope(msgspec.Raw(body)), function, new_id, owner)
    return invocation_from(envelope, function, new_id, owner)


def _envelope_in(body: bytes) -> _Envelope | None:
    try:
        payload = bytes(_look(body).payload)
    except (ValueError, RecursionError):  # no object, or no JSON: the payload's decoder says how
        return None
    if payload[:1] not in (b"{", b"["):
        return None
    try:
        return _envelope(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_envelope", f"the envelope is wrong: {error}") from error


def read_submission(body: bytes) -> SubmittedBody:
    """Read the body of `POST /v1/requests`.

    Raises:
        Refusal: 400, it is something else.
    """
    try:
        submitted = _submission(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid_body", f"the body is wrong: {error}") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "invalid_json", f"the body is no JSON: {error}") from error
    if not submitted.function:
        raise Refusal(400, "missing_function", "say what to call: `function`")
    return submitted


def invocation_from(
    envelope: _Envelope, function: str, new_id: str, owner: str | None
) -> Invocation:
    """Return the call of an envelope.

    Raises:
        Refusal: 400, its `request_id` cannot be used.
    """
    request_id = new_id
    if envelope.request_id:
        _check_request_id(envelope.request_id)
        request_id = envelope.request_id
    refs = [*(envelope.required_flavor_refs or ()), *(envelope.required_models or ())]
    return Invocation(
        function=function,
        payload=bytes(envelope.payload),
        result_format="json",
        request_id=request_id,
        job_id=request_id,
        timeout_ms=envelope.timeout_ms,
        owner=envelope.owner or owner,
        invoker_id=envelope.invoker_id,
        hints={"required_flavor_refs": refs} if refs else {},
    )


def wishes_of(envelope: _Envelope) -> Wishes:
    """Return what an envelope asks for besides the call."""
    if not envelope.priority and envelope.webhook is None:
        return NO_WISHES
    return Wishes(priority=envelope.priority, webhook=envelope.webhook)


def wishes_in(body: bytes) -> Wishes:
    """Return the same of a body that is a call's.

    Raises:
        Refusal: 400, the envelope is wrong.
    """
    if b'"payload"' not in body and b"\\u" not in body:
        return NO_WISHES
    envelope = _envelope_in(body)
    return NO_WISHES if envelope is None else wishes_of(envelope)


def _check_request_id(request_id: str) -> None:
    """Refuse an id that could not be part of a path.

    Raises:
        Refusal: 400, it has other characters, or more than 128.
    """
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise Refusal(
            400,
            "invalid_request_id",
            f"request_id {request_id[:130]!r} must have 1 to 128 of A-Z a-z 0-9 . _ ~ = - "
            "and not begin with a dot",
        )


def key_of(headers: Headers) -> str:
    """Return the `Idempotency-Key`; empty when there is none.

    Raises:
        Refusal: 400, it is too long.
    """
    key = headers.get(b"idempotency-key", b"").decode("latin-1")
    if len(key) > _MAX_KEY_CHARS:
        raise Refusal(
            400, "invalid_idempotency_key", f"the key has more than {_MAX_KEY_CHARS} characters"
        )
    return key


def is_json(body: bytes) -> bool:
    """Tell whether a body is JSON at all."""
    try:
        msgspec.json.decode(body or b"{}", type=msgspec.Raw)
    except (ValueError, RecursionError):
        return False
    return True
