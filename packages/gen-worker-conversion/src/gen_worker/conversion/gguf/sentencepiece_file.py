"""What a SentencePiece model says, read by hand: sentencepiece_model.proto has the fields."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Piece", "Sentencepiece", "read_sentencepiece"]

_MAX_BYTES = 64 << 20
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _UNIGRAM, _BPE = 3, 1, 2
_CHARSMAP, _ADDS_SPACE, _MERGES_SPACES = 2, 3, 4
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int
    """1 normal, 2 unknown, 3 control, 4 defined by the user, 5 unused, 6 a byte; as in GGUF."""


class Sentencepiece(NamedTuple):
    """A model that joins pairs, or one of likely pieces."""

    pieces: tuple[Piece, ...]
    """In the order of their ids."""
    is_unigram: bool
    adds_space: bool
    """Whether a text begins with a space, always."""
    merges_spaces: bool
    """Whether several spaces are one."""
    charsmap: bytes
    """How characters are replaced; empty where they are not."""


def read_sentencepiece(path: str) -> Sentencepiece:
    """Read a model.

    Raises:
        OSError: It cannot be read.
        GgufSourceError: It is damaged, or of another kind.
    """
    with open(path, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("it is too large")
        made: list[Piece] = []
        trainer: dict[int, int | bytes] = {}
        normalizer: dict[int, int | bytes] = {}
        for number, value in _fields(content):
            if number == _PIECES and isinstance(value, bytes):
                made.append(_piece(value))
            if number == _TRAINER and isinstance(value, bytes):
                trainer = dict(_fields(value))
            if number == _NORMALIZER and isinstance(value, bytes):
                normalizer = dict(_fields(value))
    except (ValueError, IndexError, struct.error) as error:
        raise GgufSourceError(
            f"{path!r} is no sound SentencePiece model: {error}; fetch it again",
            code="gguf_invalid_tokenizer",
            file=path,
        ) from error
    charsmap = normalizer.get(_CHARSMAP, b"")
    return Sentencepiece(
        tuple(made),
        _kind(trainer, path) == _UNIGRAM,
        bool(normalizer.get(_ADDS_SPACE, 1)),
        bool(normalizer.get(_MERGES_SPACES, 1)),
        charsmap if isinstance(charsmap, bytes) else b"",
    )


def _kind(trainer: Mapping[int, int | bytes], path: str) -> int:
    kind = trainer.get(_MODEL_TYPE, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise GgufSourceError(
            f"{path!r} is a SentencePiece model of kind {kind!r}, those of likely pieces (1) and "
            "those that join pairs (2) are written: choose another format for this model",
            code="gguf_unsupported_tokenizer",
            file=path,
        )
    return int(kind)


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score, kind = (
        fields.get(_TEXT, b""),
        fields.get(_SCORE, b"\0\0\0\0"),
        fields.get(_TYPE, 1),
    )
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has fields of other types")
    (number,) = struct.unpack("<f", score)
    return Piece(text.decode(), number, kind)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire == _LENGTH:
            size, position = _varint(content, position)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has the wire type {wire}")
        if position + size > len(content):
            raise ValueError("a field goes beyond the end")
        yield number, content[position : position + size]
        position += size


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than 64 bits")
