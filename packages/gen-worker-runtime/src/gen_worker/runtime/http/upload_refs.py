"""What files are called that callers upload."""

from __future__ import annotations

import os

from gen_worker.errors import ValidationError
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.paths import safe_join

__all__ = ["UPLOADS", "upload_ref"]

UPLOADS = "jobs/upload-"
"""What all of them begin with."""


def upload_ref(name: str) -> str:
    """Return a ref that nobody has and nobody guesses, for a file of this name.

    Raises:
        Refusal: 400, the name cannot be one of a file.
    """
    ref = f"{UPLOADS}{os.urandom(16).hex()}/inputs/{name}"
    try:
        safe_join("", ref)
    except ValidationError as error:
        raise Refusal(400, "invalid_name", f"the file's name is refused: {error}") from error
    if "/" in name or name in ("", "."):
        raise Refusal(400, "invalid_name", f"{name!r} is no name of one file")
    return ref
