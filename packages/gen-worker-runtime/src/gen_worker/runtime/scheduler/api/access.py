"""What one caller may see and change of what belongs to owners, and how questions are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.scheduler.releases.names import checked_owner

if TYPE_CHECKING:
    from gen_worker.runtime.http import HttpCall, Principal

__all__ = ["count_of", "number_of", "owner_to_change", "owner_to_see", "see_everything"]

_MAX_DIGITS = 18


def owner_to_see(caller: Principal, asked: str | None) -> str | None:
    """Return whose things a listing shows; None means everybody's.

    Raises:
        Refusal: 403, somebody else's were asked for.
        ValidationError: It is no name.
    """
    asked = checked_owner(asked) if asked else None
    if caller.owner is None or "admin" in caller.scopes:
        return asked
    if asked is not None and not caller.may_act_for(asked):
        raise _forbidden(caller)
    return caller.owner


def owner_to_change(caller: Principal, asked: str, default: str | None) -> str:
    """Return whose things are changed.

    Raises:
        Refusal: 403, somebody else's; 400, nobody is named.
        ValidationError: It is no name.
    """
    named = asked or caller.owner or default
    if not named:
        raise Refusal(400, "missing_owner", "say whose it is: `owner`")
    owner = checked_owner(named)
    if not caller.may_act_for(owner):
        raise _forbidden(caller)
    return owner


def see_everything(caller: Principal) -> None:
    """Let only those pass who may see what is everybody's.

    Raises:
        Refusal: 403.
    """
    if not caller.may_act_for(None):
        raise _forbidden(caller)


def count_of(call: HttpCall, name: str, *, default: int, most: int) -> int:
    """Return a count in the query.

    Raises:
        Refusal: 400, it is none, or not within the bounds.
    """
    text = call.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS):
        raise Refusal(400, f"invalid_{name}", f"`{name}` is a number from 1 to {most}")
    value = int(text)
    if not 1 <= value <= most:
        raise Refusal(400, f"invalid_{name}", f"`{name}` is a number from 1 to {most}")
    return value


def number_of(call: HttpCall, name: str) -> int | None:
    """Return what an earlier answer gave to go on with; None for the beginning.

    Raises:
        Refusal: 400, it is none of those.
    """
    text = call.query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS):
        raise Refusal(400, f"invalid_{name}", f"`{name}` is what the page before gave as `next`")
    return int(text)


def _forbidden(caller: Principal) -> Refusal:
    wanted = f"the token is for what {caller.owner!r} owns: this needs one for everybody"
    return Refusal(403, "forbidden_owner", wanted)
