"""Variables of older workers that are not read any more, and what to do instead."""

from __future__ import annotations

import logging
import os

__all__ = ["UNREAD", "warn_of_unread"]

_SELECTION = (
    "which files of a repository are fetched follows from its index and the pipeline; "
    "COZY_HF_FULL_REPO_DOWNLOAD=1 fetches all of them"
)
UNREAD = {
    "COZY_HF_ALLOW_ROOT_JSON": _SELECTION,
    "COZY_HF_COMPONENTS": _SELECTION,
    "COZY_HF_INCLUDE_OPTIONAL_COMPONENTS": _SELECTION,
    "MODEL_MANAGER_CLASS": "a model is loaded by the type of its parameter, which may be a class "
    "of your own with `from_pretrained`",
    "WORKER_DIFFUSERS_VRAM_GB_FALLBACK": "the size of a model is known from its files",
    "WORKER_MAX_DIFFUSERS_VRAM_MODELS": "models are kept as long as their bytes have room, which "
    "WORKER_MAX_VRAM_GB bounds",
}
"""By name, in the order of the documentation."""


def warn_of_unread() -> None:
    """Say of each that is set that it has no effect."""
    for name, instead in UNREAD.items():
        if os.environ.get(name):
            logging.getLogger("gen_worker.worker").warning("%s is not read: %s", name, instead)
