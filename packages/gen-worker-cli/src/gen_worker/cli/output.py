"""stdout carries results and nothing else; everything else goes to stderr."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

__all__ = ["abandon_stdout", "divert_stdout"]


def divert_stdout() -> BinaryIO:
    """Take stdout for results and send everything else that is written to it to stderr.

    Works on the file descriptor, so it also catches C libraries and child processes of the
    author's code. Call it once, before the author's project is imported.

    Returns:
        The process's real stdout, unbuffered.
    """
    sys.stdout.flush()
    results = os.fdopen(os.dup(1), "wb", buffering=0, closefd=False)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return results


def abandon_stdout() -> None:
    """Send what is still to be written to stdout nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
