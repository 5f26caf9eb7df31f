"""What is asked about models, and what the hub's refusals of it mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.models.hub.connection import raise_for
from gen_worker.models.hub.errors import (
    MalformedAnswerError,
    NoCompatibleArtifactError,
    PublicModelError,
    not_found,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gen_worker.models.hub.connection import Reply
    from gen_worker.models.refs import TensorhubRef

__all__ = ["question_of", "raise_for_model", "raise_for_public"]

_AXES = ("dtype", "file_type", "file_layout")


def question_of(
    ref: TensorhubRef, attributes: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """Return the body of a `resolve`: exactly one of its three shapes."""
    flavor = {"flavor": ref.flavor} if ref.flavor else {}
    if ref.digest:
        return {"digest": ref.digest, **flavor}
    preferred = {axis: attributes[axis][0] for axis in _AXES if attributes and attributes.get(axis)}
    if preferred:
        return {"tag": "", "attributes": preferred, **flavor}
    return {"tag": ref.tag, **flavor}


def raise_for_model(reply: Reply, ref: str, *, phase: str = "resolve") -> None:
    data = reply.data if isinstance(reply.data, dict) else {}
    if reply.status == 404:
        available = data.get("available")
        has = [str(name) for name in available] if isinstance(available, list) else []
        hint = f": there are {', '.join(map(repr, has[:20]))}" if has else ""
        raise not_found(reply.code, f"{ref!r} is not on the hub: {reply.message}{hint}", has)
    if reply.status == 409:
        raise NoCompatibleArtifactError(
            f"{ref!r} is on the hub, but in no form that fits: {reply.message}",
            debug=data.get("debug"),
        )
    raise_for(reply, phase)


def raise_for_public(reply: Reply, model_ref: str) -> None:
    if reply.status == 409:
        raise_for_model(reply, model_ref)
    if not reply.is_ok:
        raise PublicModelError(
            f"the hub does not provide {model_ref!r}: {reply.message}",
            status_code=reply.status,
            code=reply.code,
        )
    if not isinstance(reply.data, dict):
        raise MalformedAnswerError("the hub's answer is no JSON object")
