"""Downloads of input files: to disk, hashed on the way, tried again when the network fails."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gen_worker.context.local_stream import write_error
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    InputTooLargeError,
    ValidationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.models.net import Opener, Response
    from gen_worker.runtime.files.coding import Decoder
    from gen_worker.runtime.files.limits import FilePolicy

T = TypeVar("T")

__all__ = ["USER_AGENT", "Answer", "Asked", "Downloader"]

USER_AGENT = "curl/8.7.1"
"""What servers of inputs are told: some hand out nothing to programs they do not know."""

_BUFFER_BYTES = 1024 * 1024
_NOT_MODIFIED = 304
_MAX_PAUSE_S = 10.0
_MAX_RETRY_AFTER_S = 30.0


class Asked(NamedTuple):
    """One file that is wanted."""

    url: str
    shown: str
    """What errors call it: without signatures."""
    max_bytes: int
    headers: tuple[tuple[str, str], ...] = ()
    """For the URL's own origin."""
    sha256: str = ""
    """What it must have; empty takes any."""


class Answer(NamedTuple):
    """A file that arrived, or the news that it did not change."""

    is_unchanged: bool
    headers: Mapping[str, str]
    """Names in lower case."""
    final_path: str = ""
    """Path of the URL that redirects led to."""
    size_bytes: int = 0
    sha256: str = ""
    blake3: str = ""


class Downloader:
    """Thread-safe, blocking."""

    def __init__(
        self,
        opener: Opener,
        policy: FilePolicy,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Say how.

        Args:
            opener: Decides what may be reached.
            policy: Tries and patience.
            uniform: Chooses the random part of a pause.
        """
        self._opener = opener
        self._policy = policy
        self._uniform = uniform

    def fetch(
        self,
        asked: Asked,
        path: str,
        token: CancelToken,
        conditions: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """Download a file to a new `path`; nothing is left there when it fails.

        Args:
            asked: The file.
            path: Where it goes.
            token: Ends the download.
            conditions: Headers that let the server answer that nothing changed.

        Raises:
            ValidationError: It is refused: where its URL leads, or how it is sent.
            InputTooLargeError: It has more bytes than allowed.
            AuthError: The server refuses the credentials.
            ArtifactTransferError: It cannot be had.
            ResourceError: The disk is full.
            CanceledError: `token` was canceled.
        """
        headers = (*asked.headers, *conditions)
        return self.trying(lambda: self._once(asked, path, headers, token), asked, token)

    def ask(self, asked: Asked, token: CancelToken) -> Mapping[str, str]:
        """Return the headers of a file without fetching it; the errors of `fetch`."""

        def once() -> Mapping[str, str]:
            with self._opener.open(
                asked.url, method="HEAD", headers=asked.headers, token=token
            ) as response:
                return response.headers

        return self.trying(once, asked, token)

    def trying(self, once: Callable[[], T], asked: Asked, token: CancelToken) -> T:
        """Do something over the network until it works, as often as the policy says."""
        for failures in range(1, self._policy.download_tries + 1):
            try:
                return once()
            except ArtifactTransferError as error:
                if not error.retryable or failures == self._policy.download_tries:
                    raise _translated(error, asked) from error
                pause_s = self._pause_s(failures, getattr(error, "retry_after_s", None))
            if token.wait(pause_s):
                raise token.error()
        raise AssertionError("the last try returns or raises")

    def _pause_s(self, failures: int, told_s: float | None) -> float:
        first_s = self._policy.download_backoff_s
        pause_s = min(_MAX_PAUSE_S, first_s * 2.0 ** (failures - 1))
        pause_s += self._uniform(0.0, 0.4 * first_s)
        return max(pause_s, min(told_s or 0.0, _MAX_RETRY_AFTER_S))

    def _once(
        self, asked: Asked, path: str, headers: Iterable[tuple[str, str]], token: CancelToken
    ) -> Answer:
        with self._opener.open(
            asked.url, headers=headers, token=token, max_bytes=asked.max_bytes
        ) as response:
            if response.status == _NOT_MODIFIED:
                return Answer(True, response.headers)
            if response.status != 200:
                raise ArtifactTransferError(
                    f"{asked.shown!r} was answered without a file",
                    phase="status",
                    status_code=response.status,
                )
            try:
                return self._received(asked, response, path)
            except BaseException:
                _remove(path)
                raise

    def _received(self, asked: Asked, response: Response, path: str) -> Answer:
        from gen_worker.runtime.files.coding import decoder_for

        decoder = decoder_for(response.headers.get("content-encoding", ""))
        sink = _Sink(path, asked, decoder)
        try:
            self._pump(response, sink, asked)
        finally:
            sink.close()
        if asked.sha256 and sink.sha256.hexdigest() != asked.sha256:
            raise ArtifactTransferError(
                f"{asked.shown!r} arrived with another digest than announced",
                phase="verify",
                retryable=True,
            )
        return Answer(
            False,
            response.headers,
            response.url.target.partition("?")[0],
            sink.size_bytes,
            sink.sha256.hexdigest(),
            sink.blake3.hexdigest(),
        )

    def _pump(self, response: Response, sink: _Sink, asked: Asked) -> None:
        from gen_worker.models.fetch.stall import StallWatch

        watch = StallWatch(
            window_s=self._policy.stall_window_s, min_bytes_per_s=self._policy.stall_bytes_per_s
        )
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        since = time.monotonic()
        while count := response.readinto(buffer):
            if watch.has_stalled(time.monotonic() - since, count):
                raise ArtifactTransferError(
                    f"{asked.shown!r} arrives too slowly", phase="body", retryable=True
                )
            sink.write(buffer[:count])
            since = time.monotonic()
        sink.end()


class _Sink:
    """A file that is written and hashed, up to a size."""

    def __init__(self, path: str, asked: Asked, decoder: Decoder | None) -> None:
        from hashlib import sha256

        from blake3 import blake3

        self.size_bytes = 0
        self.sha256 = sha256()
        self.blake3 = blake3()
        self._asked = asked
        self._decoder = decoder
        try:
            self._file = open(path, "wb", buffering=0)
        except OSError as error:
            raise write_error("an input file", error) from error

    def write(self, data: memoryview) -> None:
        if self._decoder is None:
            self._take(data)
            return
        for piece in self._decoder.decode(data):
            self._take(memoryview(piece))

    def end(self) -> None:
        if self._decoder is not None:
            self._decoder.end()

    def close(self) -> None:
        self._file.close()

    def _take(self, data: memoryview) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self._asked.max_bytes:
            raise _too_large(self._asked, self.size_bytes)
        self.sha256.update(data)
        self.blake3.update(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise write_error("an input file", error) from error


def _translated(error: ArtifactTransferError, asked: Asked) -> Exception:
    """Return what a failure of the network means to whoever named the file."""
    from gen_worker.models.net import BodyTooLargeError, UrlRefusedError

    if isinstance(error, UrlRefusedError):
        return ValidationError(f"{asked.shown!r} is refused: {error}")
    if isinstance(error, BodyTooLargeError):
        return _too_large(asked, None)
    if error.status_code in (401, 403):
        return AuthError(f"{asked.shown!r} is refused with the status {error.status_code}")
    if error.status_code in (404, 410):
        return ValidationError(f"there is no file {asked.shown!r}")
    return error


def _too_large(asked: Asked, size_bytes: int | None) -> InputTooLargeError:
    return InputTooLargeError(
        f"{asked.shown!r} has more than the {asked.max_bytes} bytes allowed",
        size_bytes=size_bytes or asked.max_bytes + 1,
        max_bytes=asked.max_bytes,
        source="input file",
    )


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # never made, or gone with its directory
        return
