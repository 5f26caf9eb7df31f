"""One job per directory: a lock that goes with its process."""

from __future__ import annotations

import os
from contextlib import suppress

from gen_worker.trainer.errors import CheckpointsInUseError

__all__ = ["Claim"]

_NAME = ".lock"


class Claim:
    """Keeps other jobs out; where a file system cannot lock, nothing is kept out.

    It saves both from a mistake. What is on disk stays whole without it: names are unique, and
    what is finished is moved into its place.
    """

    def __init__(self, directory: str) -> None:
        """Take a directory.

        Raises:
            CheckpointsInUseError: Another process has it.
        """
        self._descriptor = os.open(os.path.join(directory, _NAME), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(directory)
        except BaseException:
            self.release()
            raise

    def _lock(self, directory: str) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._descriptor, 32, 0).decode("ascii", "replace")
            pid = int(text) if text.isdecimal() else 0
            who = f"process {pid}" if pid else "another process"
            raise CheckpointsInUseError(
                f"{who} writes its checkpoints to {directory!r}: wait for it, or set "
                "TRAINER_CHECKPOINTS_DIR to a directory of this job's own",
                path=directory,
                pid=pid,
            ) from None
        except OSError:  # a file system without locks
            return
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
