"""How a worker treats files, as one value."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.context.outputs import MAX_OUTPUT_BYTES
from gen_worker.ports import FileLimits

if TYPE_CHECKING:
    from gen_worker.runtime.files.settings import FileSettings

__all__ = ["FilePolicy"]

_DEFAULTS = FileLimits()


class FilePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits, directories and patience. Sizes in bytes."""

    job_dir: str
    """Nothing is written elsewhere, but to `cache_dir` and `output_dir`."""
    cache_dir: str = ""
    """Of inputs that later requests may want, too; empty is `cache` in `job_dir`."""
    output_dir: str | None = None
    """Outputs of jobs that have no hub go below it; None refuses them."""
    cas_dir: str | None = None
    """Content store, whose blobs need not be fetched; default as the settings say."""
    cache_bytes: int = 2 * 1024**3
    max_input_bytes: int = _DEFAULTS.max_bytes
    """Of one file, where its annotation says nothing."""
    max_input_pixels: int = 178_956_970
    """Of one image, likewise; 0 is no limit. Twice what Pillow warns of, where it refuses."""
    max_upload_bytes: int = MAX_OUTPUT_BYTES
    download_tries: int = 3
    download_backoff_s: float = 0.5
    """Before the second try; doubles with each further one."""
    upload_tries: int = 5
    upload_backoff_s: float = 0.5
    progress_interval_s: float = 0.2
    connect_timeout_s: float = 30.0
    read_timeout_s: float = 30.0
    stall_window_s: float = 30.0
    """A download that brings less than `stall_bytes_per_s` over so many seconds has failed."""
    stall_bytes_per_s: float = 1024.0
    transfers: int = 32
    """Files on their way for tasks at once; handlers in threads transfer in their own."""
    trusted_urls: tuple[str, ...] = ()
    """Whose origins may have private addresses: for development."""

    @classmethod
    def of(cls, settings: FileSettings, *, output_dir: str | None = None) -> FilePolicy:
        """Return what the settings say."""
        return cls(
            job_dir=settings.job_dir,
            cache_dir=settings.cache_dir,
            output_dir=output_dir,
            cache_bytes=settings.cache_bytes,
            max_input_bytes=settings.max_input_file_bytes,
            max_input_pixels=settings.max_input_pixels,
            max_upload_bytes=min(settings.max_upload_bytes or MAX_OUTPUT_BYTES, MAX_OUTPUT_BYTES),
            download_tries=settings.download_tries,
            upload_tries=settings.upload_tries,
            upload_backoff_s=settings.upload_backoff_ms / 1e3,
            progress_interval_s=settings.progress_interval_s,
            trusted_urls=settings.trusted_urls,
        )

    @property
    def cache_path(self) -> str:
        return self.cache_dir or os.path.join(self.job_dir, "cache")

    @property
    def input_limits(self) -> FileLimits:
        """What an input may be where its annotation says nothing."""
        return FileLimits(max_bytes=self.max_input_bytes)
