"""What refs and servers call files."""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["attached_suffix", "scheme_of", "suffix_of"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}\Z")
_ATTACHED = re.compile(r"filename\*?=(?:UTF-8'')?\"?([^\";]+)", re.IGNORECASE)


def scheme_of(ref: str) -> str:
    """Return the scheme of a URL in lower case; empty when it is no URL."""
    match = _SCHEME.match(ref)
    return match[1].lower() if match else ""


def suffix_of(path: str) -> str:
    """Return what the last part of a path ends in, such as `.png`; empty when it is nothing plain.

    A file may get it as it is: it has a dot, letters and digits.
    """
    match = _SUFFIX.search(unquote(path.rpartition("/")[2]))
    return match[0] if match else ""


def attached_suffix(disposition: str) -> str:
    """Return the suffix of the name in a `Content-Disposition` header; empty when it has none."""
    match = _ATTACHED.search(disposition)
    return suffix_of(match[1].strip()) if match else ""
