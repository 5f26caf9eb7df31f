"""What callers' names of functions mean: `[[owner/]endpoint/]function[:tag]`."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from gen_worker.errors import UnknownFunctionError, ValidationError
from gen_worker.names import slugify_name
from gen_worker.runtime.scheduler.releases.values import DEFAULT_TAG, ResolvedFunction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.runtime.scheduler.releases.values import TagTarget

__all__ = ["Directory", "checked_owner", "checked_slug", "checked_tag"]

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_MAX_OWNER_CHARS = 96
"""More is no owner to a hub, which keeps files by their owners."""
_REMEMBERED = 4096
_SHOWN = 20


def checked_slug(what: str, name: str) -> str:
    """Return the slug of an endpoint or function; of an owner, see `checked_owner`.

    Raises:
        ValidationError: Nothing of the name is left.
    """
    slug = slugify_name(name)
    if not slug:
        raise ValidationError(
            f"{what} {name!r} has no letter or digit: name it with some of a-z0-9"
        )
    return slug


def checked_owner(name: str) -> str:
    """Return the slug of an owner: of endpoints, requests, tokens and files alike.

    Raises:
        ValidationError: Nothing of the name is left, or it is too long.
    """
    slug = checked_slug("owner", name)
    if len(slug) > _MAX_OWNER_CHARS:
        raise ValidationError(
            f"owner {name!r:.200} has {len(slug)} characters: take at most {_MAX_OWNER_CHARS}"
        )
    return slug


def checked_tag(tag: str) -> str:
    """Return a tag that can be one.

    Raises:
        ValidationError: It cannot.
    """
    if _TAG.fullmatch(tag) is None:
        raise ValidationError(
            f"{tag!r:.200} is no tag: take at most 128 of a-z, 0-9, '.', '_' and '-', the first "
            "a letter or digit"
        )
    return tag


class Directory:
    """Where every tag points at one moment."""

    def __init__(self, targets: Iterable[TagTarget] = ()) -> None:
        """Index them by each name that they can be called by."""
        self._by_name: dict[str, dict[str, list[TagTarget]]] = {}
        """By name, then by tag: what it may mean."""
        self._remembered: dict[str, ResolvedFunction] = {}
        self._releases: set[tuple[str, str, str]] = set()
        for target in targets:
            self._releases.add((target.owner, target.endpoint, target.release_id))
            full = (target.owner, target.endpoint, target.function)
            for start in range(3):
                tags = self._by_name.setdefault("/".join(full[start:]), {})
                tags.setdefault(target.tag, []).append(target)

    def resolve(self, name: str) -> ResolvedFunction:
        """Return what a name means.

        Raises:
            UnknownFunctionError: There is no such function, it has no such tag, or several owners
                or endpoints have one; the message lists what there is.
        """
        known = self._remembered.get(name)
        if known is None:
            known = self._look_up(name)
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[name] = known
        return known

    def lead_to(self, owner: str, endpoint: str, release_id: str) -> bool:
        """Return whether some name means a function of this release."""
        return (owner, endpoint, release_id) in self._releases

    def _look_up(self, name: str) -> ResolvedFunction:
        wanted, separator, tag = name.partition(":")
        parts = wanted.split("/")
        slug = "/".join(map(slugify_name, parts))
        if len(parts) > 3 or not all(slug.split("/")) or (separator and not tag):
            raise UnknownFunctionError(
                f"{name!r:.200} names no function: write owner/endpoint/function or "
                "owner/endpoint/function:tag"
            )
        tags = self._by_name.get(slug)
        if tags is None:
            raise UnknownFunctionError(self._unknown(slug))
        tag = tag or DEFAULT_TAG
        found = tags.get(tag)
        if found is None:
            raise UnknownFunctionError(
                f"{slug!r} has no tag {tag!r:.200}: it has {_listed(sorted(tags))}"
            )
        if len(found) > 1:
            names = sorted(f"{one.owner}/{one.endpoint}/{one.function}" for one in found)
            raise UnknownFunctionError(
                f"{slug!r} may be one of several: call it {_listed(names, 'or')}"
            )
        (one,) = found
        return ResolvedFunction(one.release_id, one.function, one.owner, one.endpoint, one.tag)

    def _unknown(self, slug: str) -> str:
        names = sorted(name for name in self._by_name if name.count("/") == 2)
        if not names:
            return f"there is no function {slug!r}: none is deployed yet"
        same_length = [name for name in self._by_name if name.count("/") == slug.count("/")]
        close = difflib.get_close_matches(slug, same_length, n=3)
        hint = f"did you mean {_listed(close, 'or')}? " if close else ""
        return f"there is no function {slug!r}: {hint}there are {_listed(names)}"


def _listed(names: Sequence[str], last: str = "and") -> str:
    shown = [repr(name) for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append(f"{len(names) - _SHOWN} more")
    return f" {last} ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
