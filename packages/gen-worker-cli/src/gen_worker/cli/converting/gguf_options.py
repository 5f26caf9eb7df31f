"""Options of `gen-worker convert` about files: how large they are, and what GGUF alone has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["file_options"]


def file_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `plan_conversion` takes of them; what is not asked for stays out.

    Raises:
        UsageError: A value has no key.
    """
    from gen_worker.conversion.convert import GgufOptions

    made: dict[str, Any] = {}
    if args.max_shard_bytes is not None:
        made["max_shard_bytes"] = args.max_shard_bytes
    gguf = GgufOptions(
        importance=_path(args.imatrix),
        metadata=dict(map(_pair, args.metadata)),
        base=_path(args.base),
        split_max_bytes=args.max_shard_bytes or 0,
    )
    return made | ({"gguf": gguf} if gguf != GgufOptions() else {})


def _path(text: str | None) -> str:
    return os.path.abspath(os.path.expanduser(text)) if text else ""


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UsageError(f"--metadata {text!r}: give KEY=VALUE, such as general.name=mine")
    return key, value
