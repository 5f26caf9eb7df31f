"""The function a path names: `function`, `endpoint/function` or `owner/endpoint/function[:tag]`."""

from __future__ import annotations

from urllib.parse import unquote

from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http.backend import Target

__all__ = ["parse_target", "target_of_path"]

_MAX_CHARS = 1024


def target_of_path(raw_path: str, prefix: str) -> Target:
    """Read what follows `prefix` in a path that is still percent-encoded.

    Raises:
        Refusal: 404, it names nothing.
    """
    return parse_target(raw_path.removeprefix(prefix), is_quoted=True)


def parse_target(text: str, *, is_quoted: bool = False) -> Target:
    """Read the name of a function.

    Args:
        text: One to three segments, the last with an optional tag.
        is_quoted: Whether the segments are percent-encoded; a quoted `/` or `:` is part of a name.

    Raises:
        Refusal: 404, it names nothing.
    """
    *place, last = text.split("/") if len(text) <= _MAX_CHARS else ["", ""]
    function, colon, tag = last.rpartition(":")
    if not colon:
        function, tag = last, ""
    parts = [*place, function, *([tag] if colon else [])]
    if is_quoted:
        parts = [unquote(part) for part in parts]
    if len(place) > 2 or not all(parts):
        raise Refusal(
            404,
            "unknown_function",
            f"{text[:200]!r} names no function: give function, endpoint/function or "
            "owner/endpoint/function, each with an optional :tag",
        )
    function, tag = (parts[-2], parts[-1]) if colon else (parts[-1], "")
    owner, endpoint = ("", "", *parts[: len(place)])[-2:]
    return Target(function, endpoint, owner, tag)
