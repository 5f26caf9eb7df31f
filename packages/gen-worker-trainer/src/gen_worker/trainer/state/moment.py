"""What the runtime itself is at one moment: where its data are, and what is drawn next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.data.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["go_on_at", "moment_of"]


def moment_of(batches: Any, rng: Any) -> dict[str, Any]:
    """Return a checkpoint's `runtime`.

    Args:
        batches: The source; its place is kept if it knows it.
        rng: From `capture_rng`.
    """
    moment = {"rng": rng}
    cursor = getattr(batches, "cursor", None)
    if callable(cursor) and callable(getattr(batches, "seek", None)):
        moment["cursor"] = msgspec.to_builtins(cursor())
    return moment


def go_on_at(runtime: Mapping[str, Any], batches: Any) -> None:
    """Have a source begin where it was.

    Args:
        runtime: From `moment_of`; without a place the source begins where it is.
        batches: The source.

    Raises:
        ValueError: The place is one in other data.
    """
    seek = getattr(batches, "seek", None)
    if "cursor" in runtime and callable(seek):
        seek(msgspec.convert(runtime["cursor"], Cursor))
