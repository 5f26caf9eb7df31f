"""What a run makes, sent while it goes on: bytes to the hub, word of it to whoever started it."""

from __future__ import annotations

from gen_worker.trainer.uploads.opening import open_uploader
from gen_worker.trainer.uploads.uploader import BackgroundUploader

__all__ = ["BackgroundUploader", "open_uploader"]
