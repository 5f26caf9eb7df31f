"""A worker's files in a process of its own: `python worker_process.py WHAT ARGUMENT...`."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gen_worker.context.local import run_blocking
from gen_worker.models.hub import progress
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.runtime.files import FilePolicy, JobScope, WorkerFiles
from gen_worker.runtime.files.cache import Entry, InputCache
from gen_worker.types import Asset


class Dying:
    """Kills this process once a part of an upload has arrived."""

    def emit(self, event: Any) -> None:
        assert event.payload["stage"] == "stream_upload"
        if event.payload["chunks_uploaded"]:
            os.kill(os.getpid(), signal.SIGKILL)


def save(folder: str, url: str, token: str, data: str) -> None:
    """Store a file as an output of `r`, and die in the middle."""
    progress._INTERVAL_S = 0.0
    files = WorkerFiles(FilePolicy(job_dir=folder, progress_interval_s=0.0), Dying())
    scope = JobScope(base_url=url, capability_token=token, owner="acme", job_id="j")
    files.enter("r", scope)
    run_blocking(files.save("jobs/r/outputs/x", Path(data), SaveOptions(), request_id="r"))


def take(folder: str, url: str, origin: str) -> None:
    """Take an input in, and die."""
    files = WorkerFiles(FilePolicy(job_dir=folder, trusted_urls=(origin,)), Dying())
    run_blocking(files.materialize(Asset(ref=url), FileLimits(), request_id="r"))
    os.kill(os.getpid(), signal.SIGKILL)


def cache(folder: str, own: str, seed: str) -> None:
    """Use a cache for a while; what is found must be what was kept."""
    kept, until = InputCache(folder, 2000), time.monotonic() + 0.5
    chance = random.Random(int(seed))
    os.mkdir(own)
    while time.monotonic() < until:
        key = str(chance.randrange(12))
        entry, target = kept.find(key), Path(own, os.urandom(4).hex())
        if entry is None:
            data = bytes([int(key)]) * chance.randrange(1, 400)
            target.write_bytes(data)
            kept.add(key, str(target), Entry(sha256="", blake3="", size_bytes=len(data)))
        elif kept.take(key, entry, str(target)):
            assert target.read_bytes() == bytes([int(key)]) * entry.size_bytes
            target.unlink()


if __name__ == "__main__":
    run: Any = {"save": save, "take": take, "cache": cache}[sys.argv[1]]
    run(*sys.argv[2:])
