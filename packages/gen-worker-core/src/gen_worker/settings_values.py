"""Turns the text of a setting into the type its field declares."""

from __future__ import annotations

import math
import re
import typing
from typing import Any, Literal

__all__ = ["parse_amount", "parse_count", "parse_positive", "parse_value"]

_TRUE = ("1", "true", "yes", "on", "t", "y")
_FALSE = ("0", "false", "no", "off", "f", "n")

_DIGITS = re.compile("[0-9]{1,18}")
_POWER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?[eE][0-9]{1,2}")


def parse_value(annotation: Any, raw: Any) -> Any:
    """Turn a source's value into the annotated type.

    Args:
        annotation: `str`, `int`, `float`, `bool`, a `Literal` of strings (case does not matter),
            `tuple[str, ...]` (a list, or text split at commas), or one of them or None.
        raw: Text, or what a configuration file holds.

    Raises:
        ValueError: It is something else; the message is what was expected.
    """
    origin, options = typing.get_origin(annotation), typing.get_args(annotation)
    if type(None) in options:
        return parse_value(next(option for option in options if option is not type(None)), raw)
    if origin is tuple:
        parts = raw if isinstance(raw, list) else str(raw).split(",")
        return tuple(text for part in parts if (text := str(part).strip()))
    if isinstance(raw, (list, dict)):
        raise ValueError("a single value")
    text = str(raw).strip()
    if annotation is bool:
        return _parse_bool(text)
    if annotation in (int, float):
        return _parse_number(annotation, text)
    if origin is Literal:
        if text.lower() not in options:
            raise ValueError(f"one of {', '.join(map(str, options))}")
        return text.lower()
    return text


def parse_amount(text: str) -> float:
    """Return a number of at least 0; the parser of a setting."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("a number of at least 0")
    return value


def parse_count(text: str) -> int:
    """Return a whole number of at least 0; sizes may be written like 60e9."""
    if _DIGITS.fullmatch(text):
        return int(text)
    value = float(text) if _POWER.fullmatch(text) else math.nan
    if not value.is_integer():
        raise ValueError("a whole number of at least 0")
    return int(value)


def parse_positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if not _DIGITS.fullmatch(text) or int(text) < 1:
        raise ValueError("a whole number of at least 1")
    return int(text)


def _parse_bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("true or false")


def _parse_number(annotation: type[int] | type[float], text: str) -> float:
    expected = "a whole number" if annotation is int else "a number"
    try:
        value = annotation(text)
    except ValueError:
        raise ValueError(expected) from None
    if not math.isfinite(value):
        raise ValueError(expected)
    return value
