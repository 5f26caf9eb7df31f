"""Outputs and uploads that stay on this machine, as later calls may refer to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from gen_worker.context.local import LocalOutputs

__all__ = ["kept_file"]

_ROOM = "jobs"


def kept_file(outputs: LocalOutputs, ref: str) -> str | None:
    """Return the file of a ref such as `jobs/r1/outputs/a.png`; None when there is none.

    A caller may sit elsewhere, so a link among the outputs does not lead out of them.

    Raises:
        ValidationError: The ref itself leads out of them.
    """
    if not ref.startswith(f"{_ROOM}/"):
        return None
    root = os.path.realpath(outputs.root)
    path = os.path.realpath(safe_join(root, ref))
    is_inside = path.startswith(os.path.join(root, _ROOM, ""))
    return path if is_inside and os.path.isfile(path) else None
