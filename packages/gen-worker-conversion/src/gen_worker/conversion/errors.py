"""How conversions fail, as data: the file, the tensor or the step, and what to do."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gen_worker.errors import ResourceError, ValidationError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ConversionError",
    "ConversionImplementationError",
    "ConversionInputError",
    "NotImplementedFamilyError",
    "OutputSpaceError",
    "UnreadableSourceError",
    "naming_tensor",
]


class ConversionError(WorkerError):
    """A conversion could not be done."""

    def __init__(self, message: str, *, file: str = "", tensor: str = "", step: str = "") -> None:
        """Keep where it failed.

        Args:
            message: What failed and what to do.
            file: Path of the file, when one is to blame.
            tensor: Name of the tensor, likewise.
            step: Of the conversion, such as `write`.
        """
        super().__init__(message)
        self.file = file
        self.tensor = tensor
        self.step = step


class ConversionImplementationError(ConversionError, RuntimeError):
    """A conversion's own code is at fault: tensors out of order, of another shape, or too many."""


class NotImplementedFamilyError(ConversionImplementationError, NotImplementedError):
    """A conversion between layouts does not know the family of the model."""

    def __init__(self, family: str, step: str) -> None:
        """Also keep the code that callers tell it by.

        Args:
            family: As the caller or the model named it.
            step: Name of the conversion, such as `singlefile_to_diffusers`.
        """
        self.family = family
        self.code = f"unsupported_family_for_layout_conversion:{family}:{step}"
        super().__init__(
            f"{self.code}: it knows sd15, sd2, sdxl, sd3 and flux1; name the family of the model "
            "if it is one of them",
            step=step,
        )

    def __reduce__(self) -> tuple[type[NotImplementedFamilyError], tuple[str, str]]:
        return type(self), (self.family, self.step)


class ConversionInputError(ConversionError, ValidationError):
    """The source, or what is asked of it, cannot be converted."""

    def __init__(self, message: str, *, file: str = "", tensor: str = "", step: str = "") -> None:
        """Do as `ConversionError`."""
        ValidationError.__init__(self, message)
        self.file = file
        self.tensor = tensor
        self.step = step


@contextlib.contextmanager
def naming_tensor(name: str) -> Iterator[None]:
    """Have an error of the block say which tensor it is about, where it does not know."""
    try:
        yield
    except ConversionInputError as error:
        if error.tensor or type(error) is not ConversionInputError:
            raise
        message, facts = f"tensor {name!r}: {error}", {"file": error.file, "step": error.step}
        raise ConversionInputError(message, tensor=name, **facts) from error


class UnreadableSourceError(ConversionInputError, OSError):
    """A file of the source is not there, or may not be read."""


class OutputSpaceError(ConversionError, ResourceError):
    """The disk has no room for the output; what was written of it is removed."""

    def __init__(
        self, message: str, *, file: str, needed_bytes: int = 0, free_bytes: int = 0
    ) -> None:
        """Also keep the sizes, 0 where they are not known."""
        super().__init__(message, file=file, step="write")
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
