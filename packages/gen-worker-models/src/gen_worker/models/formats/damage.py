"""Files that are not what they claim to be, as errors with data."""

from __future__ import annotations

from typing import Literal

from gen_worker.errors import ArtifactTransferError

__all__ = [
    "DamageCode",
    "DamagedFileError",
    "DamagedGgufError",
    "DamagedIndexError",
    "DamagedSafetensorsError",
    "WrongFormatError",
]

DamageCode = Literal[
    "wrong_format",  # another format than the name says, or no plain file
    "version",  # a version of the format that is not read
    "truncated",  # shorter than its header says
    "oversized",  # longer than its header says
    "header_size",
    "header_syntax",
    "header_count",
    "metadata",
    "duplicate",
    "tensor_name",
    "tensor_dtype",
    "tensor_shape",
    "tensor_size",
    "tensor_offsets",
    "shard_path",
    "shard_missing",
    "shard_tensors",
    "digest",
]

FETCH_AGAIN = "delete the file and fetch it again"


class DamagedFileError(ArtifactTransferError):
    """A file of a model is cut off, changed or malformed: none of its bytes may be used."""

    def __init__(
        self,
        file: str,
        code: DamageCode,
        problem: str,
        *,
        expected: object = None,
        actual: object = None,
        remedy: str = FETCH_AGAIN,
    ) -> None:
        """Keep what is wrong as data.

        Args:
            file: Path of the file.
            code: What kind of damage; never read from the message.
            problem: What was found, in words, with the expected and the actual value.
            expected: The value that a sound file would have, where there is one.
            actual: The value in this file.
            remedy: What to do.
        """
        super().__init__(f"file {file!r} is damaged: {problem}: {remedy}")
        self.file = file
        self.code = code
        self.expected = expected
        self.actual = actual
        self.phase = "verify"


class WrongFormatError(DamagedFileError):
    """The content is of another format than the name says, such as an error page."""


class DamagedSafetensorsError(DamagedFileError):
    """The header of a safetensors file does not fit its file."""


class DamagedGgufError(DamagedFileError):
    """The header of a GGUF file does not fit its file."""


class DamagedIndexError(DamagedFileError):
    """The index of a model in several files does not fit those files."""
