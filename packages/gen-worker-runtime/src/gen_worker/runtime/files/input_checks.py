"""Whether an input file is what its annotation and the host allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.context.media import ALWAYS_SHOWN, media_type, sniffed_media_type
from gen_worker.errors import InputTooLargeError, ValidationError
from gen_worker.runtime.files.image_size import image_size

if TYPE_CHECKING:
    from typing import BinaryIO

    from gen_worker.ports import FileLimits

__all__ = ["check_image_size", "check_size", "checked_media_type"]

_GENERIC = ("", "application/octet-stream", "binary/octet-stream")
# Containers of sound alone and of moving pictures begin alike.
_CONTAINERS = frozenset({"video/mp4", "video/quicktime", "video/webm", "audio/ogg", "video/ogg"})


def check_size(size_bytes: int, limits: FileLimits, source: str) -> None:
    """Raise `InputTooLargeError` for a file over the limit."""
    if size_bytes > limits.max_bytes:
        raise InputTooLargeError(size_bytes=size_bytes, max_bytes=limits.max_bytes, source=source)


def checked_media_type(
    head: bytes, name: str, declared: str | None, limits: FileLimits
) -> str | None:
    """Return the media type of a file; None when nothing tells it.

    Args:
        head: The first `HEAD_BYTES` of the file.
        name: Its name; the suffix counts where the content shows nothing.
        declared: What the caller says it is; must not contradict the content.
        limits: Which types are allowed.

    Raises:
        ValidationError: It is another type than allowed or declared.
    """
    given = (declared or "").partition(";")[0].strip().lower()
    found = _media_type(head, name, given, limits.mime_prefix)
    if given not in _GENERIC and found and _major(given) != _major(found):
        raise ValidationError(f"{name!r} is declared as {given!r}, but its content is {found!r}")
    if limits.mime_prefix and not (found or "").startswith(limits.mime_prefix):
        other = f"not {found!r}" if found else "and is of no type that is known"
        raise ValidationError(f"{name!r} must be '{limits.mime_prefix}*', {other}")
    if limits.allowed_mime_types and found not in limits.allowed_mime_types:
        allowed = ", ".join(limits.allowed_mime_types)
        raise ValidationError(f"{name!r} must be one of {allowed}, not {found or 'unknown'!r}")
    return found


def check_image_size(file: BinaryIO, name: str, limits: FileLimits, usual_pixels: int = 0) -> None:
    """Check the dimensions of an image against limits, if there are any; the file is left anywhere.

    Args:
        file: The image, or anything else.
        name: For errors.
        limits: What its annotation allows.
        usual_pixels: Limit where the annotation has none; 0 is none. What is no image, or shows
            no dimensions, has to keep to the annotation's only.

    Raises:
        InputTooLargeError: It is wider, higher or has more pixels than allowed.
        ValidationError: The annotation has limits, and its dimensions cannot be read.
    """
    own = (limits.max_width, limits.max_height, limits.max_pixels)
    is_limited = any(limit is not None for limit in own)
    if not is_limited and not usual_pixels:
        return
    file.seek(0)
    size = image_size(file)
    if size is None:
        if is_limited:
            raise ValidationError(f"the width and height of {name!r} cannot be read")
        return
    width, height = size
    max_pixels = limits.max_pixels or usual_pixels or None
    facts = {
        "wide": (width, limits.max_width),
        "high": (height, limits.max_height),
        "pixels large": (width * height, max_pixels),
    }
    wrong = [
        f"{value} {what} where {limit} is allowed"
        for what, (value, limit) in facts.items()
        if limit is not None and value > limit
    ]
    if wrong:
        raise InputTooLargeError(
            f"{name!r} is {width} x {height} pixels: {', '.join(wrong)}",
            size_bytes=width * height,
            max_bytes=max_pixels or (limits.max_width or width) * (limits.max_height or height),
            source="image",
        )


def _media_type(head: bytes, name: str, given: str, prefix: str) -> str | None:
    shown = sniffed_media_type(head)
    if shown is None:
        said = media_type(b"", name) or (given if given not in _GENERIC else None)
        return None if said in ALWAYS_SHOWN else said
    if shown in _CONTAINERS and not shown.startswith(prefix):
        for other in (media_type(b"", name), given):
            if other and other.startswith(prefix):
                return other
    return shown


def _major(kind: str) -> str:
    return kind.partition("/")[0]
