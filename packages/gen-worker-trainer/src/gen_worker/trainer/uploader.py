"""What sends a run's artifacts, by the name that older trainers import it from."""

from __future__ import annotations

from gen_worker.trainer.errors import ArtifactUploadError
from gen_worker.trainer.protocols import ArtifactUploader
from gen_worker.trainer.uploads import BackgroundUploader, open_uploader

__all__ = ["ArtifactUploadError", "ArtifactUploader", "BackgroundUploader", "open_uploader"]
