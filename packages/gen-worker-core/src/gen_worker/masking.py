"""Masks what a text must not carry away: credentials, and for callers where things are.

Every pattern takes time linear in the text, however hostile: a run of characters is entered at its
beginning only, and never given back.
"""

from __future__ import annotations

import re

__all__ = ["REDACTED", "is_secret_name", "printable", "without_credentials", "without_places"]

REDACTED = "<redacted>"

# As a word of its own: `api_key` and `hf-token`, not `tokens_per_s` or `monkey`.
_SECRET_NAME = re.compile(
    r"(?<![a-z0-9])(token|secret|password|authorization|credentials?|jwt|api[_-]?key|access[_-]?key)"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_BEARER = re.compile(r"\bBearer\s++[^\s'\",]+", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"([?&]|(?<![\w.-]))([\w.-]++)=(['\"]?)[^&#\s'\",;<>]++")
_SIGNING = ("signature", "sig", "key")
"""Ends of the names that carry the secret of a URL."""
_USER_INFO = re.compile(r"(?<=://)[^\s/'\"<>]+@")
# Keys that are recognisable by themselves: Hugging Face, OpenAI and kin, GitHub, AWS, JWT.
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}+|sk-[\w-]{16,}+|gh[opsur]_[A-Za-z0-9]{20,}+|AKIA[A-Z0-9]{16})"
    r"|(?<![\w-])((?:(?!eyJ)[\w-])*+)eyJ[\w-]{8,}+\.[\w-]++\.[\w-]++"
)
# Web and file URLs, and any other that carries a password. No scheme is longer than this.
_URL = re.compile(
    r"(?:https?|file)://[^\s'\"<>]++|\b[a-z][a-z0-9+.-]{0,30}://[^\s/@'\"<>]++@[^\s'\"<>]++",
    re.IGNORECASE,
)
# An absolute path starts a word; `owner/repo` and `a/b` do not.
_PATH = re.compile(
    r"(?<![\w./~-])/(?!/)[\w.@+~-]++(?:/++[\w.@+~-]++)++/*+"
    r"|\b[A-Za-z]:[\\/][^\s'\"]++|\\\\[\w.$-]++\\[^\s'\"]++"  # a drive, a share
)


def printable(text: str) -> str:
    """Return text that every encoding can carry: lone surrogates are shown as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def is_secret_name(name: str) -> bool:
    """Tell whether a value of this name is a credential, such as `hf_token` or `apiKey`."""
    return _SECRET_NAME.search(_CAMEL.sub("_", name)) is not None


def without_credentials(text: str) -> str:
    """Mask tokens, keys, passwords inside URLs, and the values of names that say so."""
    masked = _BEARER.sub(f"Bearer {REDACTED}", text)
    masked = _KEY.sub(lambda found: f"{found[1] or ''}{REDACTED}", masked)
    masked = _ASSIGNMENT.sub(_without_secret_value, masked)
    return _USER_INFO.sub(f"{REDACTED}@", masked)


def without_places(text: str) -> str:
    """Mask URLs and absolute paths."""
    return _PATH.sub("<path>", _URL.sub("<url>", text))


def _without_secret_value(found: re.Match[str]) -> str:
    before, name, quote = found.groups()
    is_secret = is_secret_name(name) or (before and name.lower().endswith(_SIGNING))
    return f"{before}{name}={quote}{REDACTED}" if is_secret else found[0]
