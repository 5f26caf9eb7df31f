"""What keeps a run's artifacts, by the name that older trainers import it from."""

from __future__ import annotations

from gen_worker.trainer.job_file import SampleRequest
from gen_worker.trainer.protocols import ArtifactWriter
from gen_worker.trainer.writer import LocalArtifactWriter

__all__ = ["ArtifactWriter", "LocalArtifactWriter", "SampleRequest"]
