"""How opening a URL fails, as data. No text here ever carries the query of a URL or a header."""

from __future__ import annotations

from gen_worker.errors import ArtifactTransferError

__all__ = [
    "BodyTooLargeError",
    "HttpStatusError",
    "IncompleteBodyError",
    "NetworkError",
    "TooManyRedirectsError",
    "UrlRefusedError",
]

_RETRYABLE_STATUSES = frozenset({408, 421, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524})


class UrlRefusedError(ArtifactTransferError, ValueError):
    """The URL, or where it leads, is one this worker never opens; it will stay refused."""

    def __init__(self, message: str) -> None:
        super().__init__(message, phase="url")


class TooManyRedirectsError(UrlRefusedError):
    """Each answer led to another URL, for longer than is followed."""


class NetworkError(ArtifactTransferError):
    """The peer could not be reached, fell silent or broke the protocol."""

    def __init__(self, message: str, *, retryable: bool = True, cause_type: str = "") -> None:
        super().__init__(message, phase="network", retryable=retryable, cause_type=cause_type)


class IncompleteBodyError(NetworkError):
    """The connection ended before the body did."""

    def __init__(self, message: str, *, expected_bytes: int | None, received_bytes: int) -> None:
        super().__init__(message)
        self.expected_bytes = expected_bytes
        self.received_bytes = received_bytes


class BodyTooLargeError(ArtifactTransferError):
    """The body has more bytes than the caller allows."""

    def __init__(self, message: str, *, max_bytes: int) -> None:
        super().__init__(message, phase="body")
        self.max_bytes = max_bytes


class HttpStatusError(ArtifactTransferError):
    """The server answered with an error status, kept in `status_code`."""

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        retry_after_s: float | None = None,
        body: bytes = b"",
    ) -> None:
        """Keep the answer as data.

        Args:
            message: Which request failed.
            status_code: 400 to 599.
            retry_after_s: What the server's `Retry-After` asks for, in seconds from now.
            body: The first bytes of the answer; may hold secrets, so never part of a text.
        """
        super().__init__(
            message,
            phase="status",
            status_code=status_code,
            retryable=status_code in _RETRYABLE_STATUSES,
        )
        self.status_code: int = status_code
        self.retry_after_s = retry_after_s
        self.body = body
