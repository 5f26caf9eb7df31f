"""Who a token says we are, and whether its issuer signed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.runtime.auth.claims import Claims, read_claims
    from gen_worker.runtime.auth.verification import (
        KeysUnavailableError,
        TokenRefusedError,
        TokenVerifier,
    )

__all__ = ["Claims", "KeysUnavailableError", "TokenRefusedError", "TokenVerifier", "read_claims"]

_MODULES = {
    "claims": ("Claims", "read_claims"),
    "verification": ("KeysUnavailableError", "TokenRefusedError", "TokenVerifier"),
}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
