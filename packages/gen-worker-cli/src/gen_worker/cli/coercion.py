"""From the text of one command-line argument to the JSON value its field expects."""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from gen_worker.annotations import display
from gen_worker.cli.failures import UsageError
from gen_worker.cli.fields import children, element_of, is_enum, is_file, is_open, members

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.annotations import Node

__all__ = ["by_path", "coerce_text", "describe", "guess", "parse_json", "read_value"]

_NONE = type(None)
_TRUE = frozenset({"true", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "0", "no", "n", "off"})
_NULL = frozenset({"null", "none"})
_INTEGER = r"[+-]?[0-9]+"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


def coerce_text(text: str, node: Node, path: str) -> Any:
    """Turn the text behind `key=` into a JSON value.

    Args:
        text: Exactly as typed.
        node: The field's type. Of a union the first member that accepts the text wins.
        path: JSON path, for the message.

    Raises:
        UsageError: No member of the type accepts this text.
    """
    options = members(node)
    is_optional = any(option.type is _NONE for option in options)
    if is_optional and not text:
        return None
    for option in options:
        try:
            return _coerce_one(text, option)
        except ValueError:
            continue
    if is_optional and text.lower() in _NULL:
        return None
    raise UsageError(f"expected {describe(node)}, got {text!r} - at `{path}`")


def _coerce_one(text: str, node: Node) -> Any:
    expected = node.type
    if expected is bool:
        return _boolean(text)
    if expected is int:
        return int(text)
    if expected is float:
        return _finite(text)
    if get_origin(expected) is Literal:
        return _choice(text, get_args(expected))
    if is_enum(node):
        return _enum_value(text, expected)
    if is_file(node):
        return {"ref": text}
    if is_open(node):
        return guess(text)
    if expected is _NONE or node.kind != "other":
        raise ValueError
    return text  # str, and what JSON spells as a string: bytes, dates, UUID, Decimal


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError  # JSON has no spelling for it
    return number


def _choice(text: str, choices: tuple[Any, ...]) -> Any:
    for value in choices:
        if isinstance(value, str) and value == text:
            return value
    for value in choices:
        if value is None and text.lower() in _NULL:
            return None
        if isinstance(value, int) and str(value) == text.strip():
            return value
    raise ValueError


def _enum_value(text: str, enumeration: Any) -> Any:
    for member in enumeration:
        if str(member.value) == text:
            return member.value
    named = enumeration.__members__.get(text)
    if named is None:
        raise ValueError
    return named.value


def guess(text: str) -> Any:
    """Read text without a type: `true`/`false`, `null`/`none`, a number, else the text itself."""
    word = text.lower()
    if word in ("true", "false"):
        return word == "true"
    if word in _NULL:
        return None
    if re.fullmatch(_INTEGER, text) and len(text) < 400:
        return int(text)
    if re.fullmatch(_NUMBER, text) and math.isfinite(number := float(text)):
        return number
    return text


def parse_json(text: str, path: str) -> Any:
    """Read raw JSON, as behind `key:=`.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise UsageError(f"not JSON: {error} - at `{path}`") from error


def by_path(file: str) -> Any:
    """Return what stands for a file in the payload of who can read it where it is."""
    return {"ref": file}


def read_value(file: str, node: Node, path: str, refer: Callable[[str], Any] = by_path) -> Any:
    """Turn the file behind `key@` into a JSON value.

    An asset field refers to the file; `bytes` gets its content; an object or a list of objects is
    read as JSON; everything else is the file's text, coerced like typed text. A value of which no
    type is known refers to a file that is no text.

    Args:
        file: As typed.
        node: The field's type.
        path: JSON path, for the message.
        refer: Gives what stands for a file in the payload, of its absolute path.

    Raises:
        UsageError: The file cannot be read, or its content is not what the field expects.
    """
    options = [option for option in members(node) if option.type is not _NONE]
    if any(is_file(option) for option in options):
        return _local_file(file, path, refer)
    content = _read(file, path)
    if any(option.type in (bytes, bytearray) for option in options):
        from binascii import b2a_base64

        return b2a_base64(content, newline=False).decode()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if any(is_open(option) for option in options):
            return _local_file(file, path, refer)
        raise UsageError(f"{file!r} is not UTF-8 text: {error} - at `{path}`") from error
    if any(option.type is str or is_open(option) for option in options):
        return text
    if all(option.kind != "other" for option in options):
        return parse_json(text, path)
    return coerce_text(text.strip(), node, path)


def _local_file(file: str, path: str, refer: Callable[[str], Any]) -> Any:
    if not os.path.isfile(file):
        raise UsageError(f"no file {file!r} - at `{path}`")
    return refer(os.path.abspath(file))


def _read(file: str, path: str) -> bytes:
    try:
        with open(file, "rb") as source:
            return source.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {file!r}: {reason} - at `{path}`") from error


_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    bytes: "base64 text",
    _NONE: "nothing",
}


def describe(node: Node) -> str:
    """Say in words what a field expects."""
    return " or ".join(dict.fromkeys(_describe_one(option) for option in members(node)))


def _describe_one(node: Node) -> str:
    if node.kind == "other" and node.type in _NAMES:
        return _NAMES[node.type]
    if get_origin(node.type) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(node.type))
    if is_enum(node):
        return "one of " + ", ".join(repr(member.value) for member in node.type)
    if is_file(node):
        return "a ref"
    if element_of(node, 0) is not None:
        return "a list (repeat the field, or write field:=[…])"
    if children(node) is not None:
        return "an object (set field.key=…, or write field:={…})"
    return display(node.type)
