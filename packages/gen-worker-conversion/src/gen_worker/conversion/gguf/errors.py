"""What of a model cannot become a GGUF file, with a code that callers may look at."""

from __future__ import annotations

from gen_worker.conversion.errors import ConversionInputError

__all__ = ["GgufSourceError"]


class GgufSourceError(ConversionInputError):
    """The source of a GGUF file lacks something, or is of a kind that is not known."""

    def __init__(
        self, message: str, *, code: str = "", file: str = "", tensor: str = "", step: str = ""
    ) -> None:
        """Also keep a code.

        Args:
            message: What failed and what to do.
            code: Such as `gguf_missing_config_json`.
            file: Path of the file, when one is to blame.
            tensor: Name of the tensor, likewise.
            step: Of the conversion.
        """
        super().__init__(message, file=file, tensor=tensor, step=step)
        self.code = code
