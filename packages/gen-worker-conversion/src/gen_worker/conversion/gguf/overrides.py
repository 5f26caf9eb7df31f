"""Metadata that a caller sets: as text, made what the key is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.container import Number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.container import Value

__all__ = ["with_overrides"]

_FIXED = ("split.", "general.alignment", "general.architecture", "GGUF.")
_WORDS = {"true": True, "false": False}
_DOUBLE = (6, 12)
"""Types of floats."""


def with_overrides(metadata: Mapping[str, Value], wanted: Mapping[str, str]) -> dict[str, Value]:
    """Return metadata in which some keys have other values, and new keys are at the end.

    Args:
        metadata: By key.
        wanted: Texts by key. One that is there keeps its type; a new one is a truth value, a whole
            number or a number where its text is one, and else a text.

    Raises:
        ConversionInputError: A key decides about the file itself, is a list, or is of a type that
            the text is not.
    """
    made = dict(metadata)
    for key, text in wanted.items():
        if not key or key.startswith(_FIXED):
            raise _refused(key, text, "it follows from the tensors; leave it out")
        try:
            made[key] = _like(made[key], text) if key in made else _new(text)
        except ValueError as error:
            raise _refused(key, text, str(error)) from error
    return made


def _like(value: Value, text: str) -> Value:
    if isinstance(value, Number):
        number = float(text) if value.type_id in _DOUBLE else int(text)
        return Number(value.type_id, number)
    if isinstance(value, bool):
        if text.lower() not in _WORDS:
            raise ValueError("it is a truth value: give true or false")
        return _WORDS[text.lower()]
    if isinstance(value, (int, float, str)):
        return type(value)(text)
    raise ValueError("it is a list; only single values can be set")


def _new(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)


def _refused(key: str, text: str, why: str) -> ConversionInputError:
    return ConversionInputError(
        f"the metadata {key!r} of a GGUF file cannot be set to {text!r:.100}: {why}", step="gguf"
    )
