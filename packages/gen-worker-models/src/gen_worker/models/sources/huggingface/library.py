"""Files that plain HTTP did not bring, fetched by the Hugging Face library over xet.

In a process of its own: the library's transfers were seen to hang for ever, and a thread that hangs
can be neither stopped nor trusted with the cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.fetch.errors import StalledError
from gen_worker.models.sources.errors import DownloadFailedError

if TYPE_CHECKING:
    from gen_worker.cancel import CancelToken

__all__ = ["LibraryCall", "fetch_with_library", "has_xet"]

_LOOK_S = 0.25


class LibraryCall(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told, on its standard input: no argument of it is anybody's to read."""

    repo_id: str
    commit: str
    path: str
    home: str
    endpoint: str
    token: str

    def __repr__(self) -> str:
        return f"LibraryCall({self.repo_id!r}, {self.path!r})"


def has_xet() -> bool:
    """Tell whether the library can transfer over xet."""
    return find_spec("hf_xet") is not None and find_spec("huggingface_hub") is not None


def fetch_with_library(
    call: LibraryCall, blobs: str, *, stall_s: float, token: CancelToken
) -> None:
    """Have the library put one file into its cache; whoever asked verifies it.

    Args:
        call: The file.
        blobs: Directory whose growth shows that bytes arrive.
        stall_s: Seconds without a new byte after which the process is killed; 0 never.
        token: Its cancel kills the process.

    Raises:
        DownloadFailedError: The library failed too.
        StalledError: Nothing arrived any more.
        CanceledError: The token was canceled.
    """
    module = f"{__name__.rpartition('.')[0]}.library_process"
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None, "asked for"
        with process.stdin as pipe:
            pipe.write(msgspec.json.encode(call))
        _watch(process, blobs, stall_s, token)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise DownloadFailedError(
            f"the Hugging Face library could not fetch {call.path!r} of {call.repo_id!r} either: "
            "try again",
            provider="hf",
            phase="xet",
            retryable=True,
        )


def _watch(
    process: subprocess.Popen[bytes], blobs: str, stall_s: float, token: CancelToken
) -> None:
    seen, since = -1, time.monotonic()
    while process.poll() is None:
        if token.wait(_LOOK_S):
            token.raise_if_canceled()
        size, now = _bytes_in(blobs), time.monotonic()
        if size != seen:
            seen, since = size, now
        elif stall_s and now - since > stall_s:
            raise StalledError("the Hugging Face library", window_s=stall_s)


def _bytes_in(directory: str) -> int:
    """Return what the files of a directory take on disk; one may be of its final size at once."""
    try:
        with os.scandir(directory) as entries:
            return sum(entry.stat().st_blocks * 512 for entry in entries)
    except OSError:
        return 0
