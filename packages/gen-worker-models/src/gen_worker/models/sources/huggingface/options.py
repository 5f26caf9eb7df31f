"""How models of Hugging Face are chosen and kept."""

from __future__ import annotations

import os

import msgspec

__all__ = ["HuggingFaceOptions"]


class HuggingFaceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How models of Hugging Face are chosen and kept."""

    home: str
    """The cache of Hugging Face tools is `hub` below it."""
    token: str = ""
    """Empty uses the one that `hf auth login` left below `home`, if it did."""
    endpoint: str = ""
    """Of the site; empty leaves it to the library, which reads `HF_ENDPOINT`."""
    precisions: tuple[str, ...] = ("bf16", "fp16")
    max_repo_bytes: int = 60_000_000_000
    takes_all: bool = False
    max_seconds: float = 0.0
    """Of one model's download; 0 is no limit."""
    stall_timeout_s: float = 180.0
    """Of a download over xet; 0 is no limit."""
    reserve_bytes: int = 2 * 1024**3

    @property
    def known_token(self) -> str:
        """The token of the settings, else the one of a login; empty when there is none."""
        return self.token or _token_in(self.home)

    def __repr__(self) -> str:  # the token is secret
        return f"HuggingFaceOptions({self.home!r})"


def _token_in(home: str) -> str:
    try:
        with open(os.path.join(home, "token"), encoding="ascii") as file:
            return file.read(1000).strip()
    except (OSError, ValueError):
        return ""
