"""What of a model cannot become a GGUF file, with a code that callers may look at."""

from __future__ import annotations

from gen_worker.conversion.errors import ConversionInputError

__all__ = ["GgufSourceError", "computed_otherwise", "unsupported_tokenizer"]


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


def computed_otherwise(
    file: str, name: str, value: object, architecture: str, known: object
) -> GgufSourceError:
    """Return the error of a model whose file would give other results than the model does.

    Args:
        file: Path of the configuration.
        name: Of what it says.
        value: What it says.
        architecture: Of the model.
        known: What llama.cpp computes instead.
    """
    return GgufSourceError(
        f"{file!r} says {value!r:.100} for {name!r}, and llama.cpp computes models of "
        f"{architecture} with {known!r}: choose another format for this model",
        code="gguf_unsupported_config",
        file=file,
    )


def unsupported_tokenizer(file: str, what: str) -> GgufSourceError:
    """Return the error of a tokenizer that llama.cpp would cut texts otherwise with, or not at all.

    Args:
        file: Path of the tokenizer, or of its directory.
        what: It does or has; goes on a sentence.
    """
    return GgufSourceError(
        f"{file!r} is a tokenizer {what}: choose another format for this model",
        code="gguf_unsupported_tokenizer",
        file=file,
    )
