"""What the cache may say about a file, by what its server said (RFC 9111, for one's own cache)."""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

import msgspec

from gen_worker.runtime.files.cache import Entry
from gen_worker.runtime.files.naming import attached_suffix, suffix_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.files.download import Answer

__all__ = ["entry_of", "is_current", "key_of", "renewed"]

_KEY_CHARS = 32
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})")


def key_of(address: str, secret: str = "", context: str = "") -> str:
    """Return where the cache keeps what an address stands for.

    Args:
        address: A URL, or the digest of the content.
        secret: What the server was shown besides; only who has it finds the file again.
        context: Keeps files apart that were checked for different purposes.
    """
    hidden = hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest() if secret else ""
    text = "\n".join((address, hidden, context))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_KEY_CHARS]


def entry_of(answer: Answer) -> Entry:
    """Return what a download tells."""
    headers = answer.headers
    return Entry(
        sha256=answer.sha256,
        blake3=answer.blake3,
        size_bytes=answer.size_bytes,
        media_type=headers.get("content-type", "")[:200],
        suffix=attached_suffix(headers.get("content-disposition", ""))
        or suffix_of(answer.final_path),
        etag=headers.get("etag", "")[:1000],
        last_modified=headers.get("last-modified", "")[:100],
        fresh_until=_fresh_until(headers),
        may_be_kept="no-store" not in headers.get("cache-control", "").lower(),
    )


def is_current(entry: Entry, sha256: str | None) -> bool:
    """Tell whether a kept file needs no question: it is the one wanted, or still fresh."""
    if sha256:
        return sha256.lower() == entry.sha256
    return time.time() < entry.fresh_until


def renewed(entry: Entry, answer: Answer) -> Entry:
    """Return an entry whose server says that it did not change."""
    return msgspec.structs.replace(entry, fresh_until=_fresh_until(answer.headers))


def _fresh_until(headers: Mapping[str, str]) -> float:
    """Return until when the server vouches for what it sent; in the past when it does not."""
    control = headers.get("cache-control", "").lower()
    match = _MAX_AGE.search(control)
    if match is None or "no-cache" in control:
        return 0.0
    age = headers.get("age", "")
    return time.time() + int(match[1]) - (int(age[:9]) if age.isdecimal() else 0)
