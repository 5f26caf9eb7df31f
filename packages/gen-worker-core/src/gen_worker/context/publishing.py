"""How a call publishes: revisions are opened once, and dropped when the call ends without them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ArtifactTransferError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from gen_worker.ports import Publisher

__all__ = [
    "Revisions",
    "checked_destination",
    "checked_tags",
    "checked_visibility",
    "refuse_unknown",
    "skipped",
]

_REPOSITORY = re.compile(r"[^/\s:@#]+/[^/\s:@#]+")
_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked_tags(tags: Iterable[str] | None) -> list[str]:
    """Return the tags sorted, each once.

    Raises:
        ValidationError: One is not allowed; all such are named.
    """
    if isinstance(tags, str):
        raise ValidationError(f"tags must be a list of texts, not {tags!r}")
    given = list(tags or ())
    wrong = [tag for tag in given if not isinstance(tag, str) or not _TAG.fullmatch(tag)]
    if wrong:
        raise ValidationError(
            f"tags {sorted(wrong, key=str)!r:.200} are not allowed: use 1 to 63 of a-z 0-9 . _ -, "
            "beginning with a letter or digit"
        )
    if "latest" in given:
        raise ValidationError("tag 'latest' cannot be set: it always follows the newest revision")
    return sorted(set(given))


def checked_destination(repo: Any, name: str) -> str:
    """Return a destination without surrounding space.

    Raises:
        ValidationError: It is not `owner/name`.
    """
    text = repo.strip() if isinstance(repo, str) else ""
    if not _REPOSITORY.fullmatch(text):
        raise ValidationError(
            f"{name} must be 'owner/name', without a tag and a flavor, not {repo!r:.200}"
        )
    return text


def checked_visibility(visibility: Any) -> str:
    """Return who may see a dataset; anything but `private` and `public` is a `ValidationError`."""
    if visibility not in ("private", "public"):
        raise ValidationError(f"visibility must be 'private' or 'public', not {visibility!r:.120}")
    return str(visibility)


def refuse_unknown(fields: Mapping[str, Any], known: Mapping[str, Any], method: str) -> None:
    """Raise `TypeError` for keywords that a method with typed `**fields` does not have."""
    unknown = sorted(fields.keys() - known.keys())
    if unknown:
        raise TypeError(f"{method} has no keywords {unknown}; there are {', '.join(known)}")


def skipped(**target: Any) -> dict[str, Any]:
    """Return the answer to publishing where there is no hub to publish to."""
    return {
        "ok": False,
        "skipped": True,
        "reason": "missing_worker_capability_channel",
        **target,
    }


class Revisions:
    """The unfinished revisions of one call, by destination."""

    def __init__(self, publisher: Publisher, request_id: str) -> None:
        self._publisher = publisher
        self._request_id = request_id
        self._open: dict[str, object] = {}

    def __repr__(self) -> str:
        return f"<Revisions open={sorted(self._open)}>"

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    async def session(self, destination: str, spec: Mapping[str, Any]) -> object:
        """Return the open revision of a destination, opening it first if needed."""
        if destination not in self._open:
            self._open[destination] = await self._publisher.open(
                destination, request_id=self._request_id, **spec
            )
        return self._open[destination]

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        return await self._publisher.put(session, path, source)

    async def finalize(
        self, destination: str, spec: Mapping[str, Any], **manifest: Any
    ) -> dict[str, Any]:
        """Commit; a revision that cannot be committed is dropped and the error raised."""
        session = await self.session(destination, spec)
        try:
            answer = dict(await self._publisher.finalize(session, **manifest))
        except BaseException:
            await self._drop(destination)
            raise
        del self._open[destination]
        if answer.get("ok") is False and not answer.get("skipped"):
            reason = answer.get("reason") or answer.get("error") or "no reason given"
            raise ArtifactTransferError(
                f"publishing to {destination!r} was refused: {reason}", phase="finalize"
            )
        return answer

    async def abort(self) -> None:
        """Drop all that is open."""
        for destination in list(self._open):
            await self._drop(destination)

    async def _drop(self, destination: str) -> None:
        await self._publisher.abort(self._open.pop(destination))
