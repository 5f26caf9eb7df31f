"""Undoes what a server did to a body for its transfer, without ever holding more than a piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.errors import ArtifactTransferError, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Decoder", "decoder_for"]

_PIECE_BYTES = 1024 * 1024
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decoder_for(coding: str) -> Decoder | None:
    """Return what undoes a `Content-Encoding`; None when there is nothing to undo.

    Nothing was asked for, but stores hand out what was put there as it is.

    Raises:
        ValidationError: It is a coding that nobody was asked for and that is not known here.
    """
    name = coding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _WINDOW_BITS:
        raise ValidationError(
            f"the input file is sent with the Content-Encoding {name!r:.60}: send it as it is"
        )
    return Decoder(_WINDOW_BITS[name])


class Decoder:
    """Inflates a stream; however small its input, no more than a piece is held at a time."""

    def __init__(self, window_bits: int) -> None:
        import zlib

        self._error = zlib.error
        self._inflate: Any = zlib.decompressobj(window_bits)

    def decode(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield what `data` stands for, in pieces.

        Raises:
            ArtifactTransferError: It is damaged.
        """
        while data:
            try:
                piece = self._inflate.decompress(data, _PIECE_BYTES)
            except self._error as error:
                raise _damaged() from error
            if piece:
                yield piece
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                return

    def end(self) -> None:
        """Check that the stream is complete; the error of `decode`."""
        if not self._inflate.eof:
            raise _damaged()


def _damaged() -> ArtifactTransferError:
    return ArtifactTransferError(
        "the input file is damaged: its Content-Encoding cannot be undone",
        phase="body",
        retryable=True,
    )
