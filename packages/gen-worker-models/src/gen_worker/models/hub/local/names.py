"""What requests may call repositories, tags and blobs."""

from __future__ import annotations

import re

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.wire import check_tags
from gen_worker.models.snapshot import parse_blake3

__all__ = ["check_digest", "check_repo", "check_tag"]

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")


def check_repo(owner: str, name: str) -> tuple[str, str]:
    """Return both in lower case.

    Raises:
        Refusal: 400, they name no repository.
    """
    owner, name = owner.lower(), name.lower()
    if not _SEGMENT.fullmatch(owner) or not _SEGMENT.fullmatch(name):
        raise Refusal(
            400, "invalid_repo", f"{owner!r:.120}/{name!r:.120} is no repository of a-z, 0-9, '._-'"
        )
    return owner, name


def check_tag(tag: str) -> str:
    """Return a tag clients may set, in lower case.

    Raises:
        Refusal: 400, it is none.
    """
    try:
        return check_tags((tag,))[0]
    except ValidationError as error:
        raise Refusal(400, "invalid_tag", str(error)[:300]) from error


def check_digest(text: str) -> str:
    """Return the 64 hex digits of a blob.

    Raises:
        Refusal: 400, they are none.
    """
    try:
        return parse_blake3(text)
    except ValidationError as error:
        raise Refusal(400, "invalid_digest", str(error)) from error
