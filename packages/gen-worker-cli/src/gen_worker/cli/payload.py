"""The payload a command starts from, before arguments are set over it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["parse_object", "read_file", "read_payload"]

STDIN = "-"


def read_payload(args: argparse.Namespace) -> dict[str, Any]:
    """Return the object of `--payload`, `--payload-file` or a lone `-`, which is taken from tokens.

    Raises:
        UsageError: More than one is given, it cannot be read, or it is not a JSON object.
    """
    sources = []
    if args.payload is not None:
        sources.append(("--payload", args.payload))
    if args.payload_file is not None:
        sources.append(("--payload-file", args.payload_file))
    if STDIN in args.tokens:
        args.tokens.remove(STDIN)
        sources.append((STDIN, STDIN))
    if len(sources) > 1:
        names = " and ".join(name for name, _ in sources)
        raise UsageError(f"{names} both give the payload: use one")
    if not sources:
        return {}
    name, value = sources[0]
    if value == STDIN:
        return parse_object(sys.stdin.buffer.read(), "the payload on stdin")
    if name == "--payload":
        return parse_object(value.encode("utf-8", "surrogateescape"), "--payload")
    return parse_object(read_file(value), f"the payload in {value!r}")


def parse_object(text: bytes, name: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: It is something else; `name` says what was read.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{name} is not a JSON object, but {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")


def read_file(path: str) -> bytes:
    """Return the content of a file that holds a payload.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the payload file {path!r}: {reason}") from error
