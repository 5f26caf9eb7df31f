"""What the runtime itself is at one moment: where its data are, and what is drawn next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.data.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["go_on_at", "moment_of", "place_in"]


def place_in(batches: Any) -> Any:
    """Return the cursor of a source; None for one that does not know its place."""
    cursor = getattr(batches, "cursor", None)
    return cursor() if callable(cursor) and callable(getattr(batches, "seek", None)) else None


def moment_of(place: Any, rng: Any) -> dict[str, Any]:
    """Return a checkpoint's `runtime`.

    Args:
        place: From `place_in`, of when the last step was completed.
        rng: From `capture_rng`.
    """
    moment = {"rng": rng}
    if place is not None:
        moment["cursor"] = msgspec.to_builtins(place)
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
