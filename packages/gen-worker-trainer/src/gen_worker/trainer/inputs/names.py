"""What the text of an input is: a path of this machine, a URL, or a ref."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from gen_worker.errors import AuthError, CanceledError, ValidationError, WorkerError
from gen_worker.trainer.errors import InputMaterializationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["UrlInput", "failing_as", "local_path", "read_url"]

_DIGEST = re.compile(r"(sha256|blake3)[=:]([0-9a-fA-F]{64})")
_SAFE_NAME = re.compile(r"[^A-Za-z0-9._+-]")
_MOST_NAME_CHARS = 120


class UrlInput(NamedTuple):
    """A file at a URL."""

    url: str
    """Without its fragment; its query may be a secret."""
    digest: str
    """`sha256:` or `blake3:` and hex digits, from the fragment; empty when nothing is known."""
    key: str
    """Names the directory of the file; two inputs of one text share it."""
    name: str
    """Base name; `weights.bin` and the like stand in for none."""


def local_path(text: str) -> str | None:
    """Return the path of an input that is on this machine; None when it is something else.

    Raises:
        ValidationError: It can only be a path, and nothing is there.
    """
    path = text
    if text[:5].lower() == "file:":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise ValidationError(
                f"it names a file of the host {parts.netloc!r}: write file:///path"
            )
        path = unquote(parts.path)
    if os.path.exists(path):
        return os.path.abspath(path)
    if path is not text or os.path.isabs(path) or path.startswith("."):
        raise ValidationError(f"there is no {path!r} on this machine")
    return None


def read_url(text: str, default_name: str, default_suffix: str = "") -> UrlInput | None:
    """Read the URL of an input; None when it is none.

    Args:
        text: May end in `#sha256=<hex>` or `#blake3=<hex>`.
        default_name: Where the URL has no base name.
        default_suffix: Added to a base name that has none.

    Raises:
        ValidationError: Its fragment is no digest.
    """
    if not text[:8].lower().startswith(("http://", "https://")):
        return None
    url, _, fragment = text.partition("#")
    found = _DIGEST.fullmatch(fragment)
    if fragment and found is None:
        raise ValidationError(
            f"it ends in {fragment[:80]!r}, which is no digest: write #sha256=<64 hex digits> or "
            "#blake3=<64 hex digits>"
        )
    base = unquote(url.partition("?")[0].partition("://")[2].partition("/")[2].rpartition("/")[2])
    name = _SAFE_NAME.sub("_", base).lstrip(".")[-_MOST_NAME_CHARS:] or default_name
    if not os.path.splitext(name)[1]:
        name += default_suffix
    digest = f"{found[1]}:{found[2].lower()}" if found else ""
    return UrlInput(url, digest, hashlib.sha256(text.encode()).hexdigest(), name)


@contextmanager
def failing_as(what: str, text: str) -> Iterator[None]:
    """Say which input it was that failed.

    Raises:
        InputMaterializationError: It cannot be had, for the reason in the text.
        AuthError: A token is refused.
        CanceledError: It was not waited for.
    """
    try:
        yield
    except (AuthError, CanceledError):
        raise
    except (WorkerError, OSError) as error:
        shown = text.partition("?")[0] if "://" in text else text
        raise InputMaterializationError(
            f"the {what} {shown!r} cannot be had: {error}",
            phase="input",
            retryable=bool(getattr(error, "retryable", False)),
            status_code=getattr(error, "status_code", None),
            cause_type=type(error).__name__,
        ) from error
