"""What the runtime itself is at one moment: where its data are, and what is drawn next."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.trainer.checkpoints.files import write_file
from gen_worker.trainer.data.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.trainer.distributed.world import World

__all__ = ["go_on_at", "keep_of_rank", "moment_of", "moment_of_rank", "place_in"]

_RANKS = "ranks"


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


class _OfRank(msgspec.Struct):
    """What a checkpoint keeps of another process than the first."""

    size: int
    """Of its world."""
    runtime: dict[str, Any]


def keep_of_rank(directory: str, runtime: Mapping[str, Any], world: World) -> None:
    """Write what this process is at a checkpoint's moment; the first one's is in its JSON.

    Args:
        directory: Of the checkpoint.
        runtime: From `moment_of`.
        world: The processes that train together.
    """
    os.makedirs(os.path.join(directory, _RANKS), exist_ok=True)
    body = msgspec.json.encode(_OfRank(world.size, dict(runtime)))
    write_file(_path_of_rank(directory, world.rank), body)


def moment_of_rank(directory: str, runtime: Mapping[str, Any], world: World) -> dict[str, Any]:
    """Return what this process goes on from.

    In a world of another size that is what the first process was: the place in the data is that
    of all processes together. Its random states are for the first process alone then; the others
    draw what follows from their rank.

    Args:
        directory: Of the checkpoint.
        runtime: Of the checkpoint's JSON.
        world: The processes that train together now.
    """
    if world.is_first:
        return dict(runtime)
    try:
        with open(_path_of_rank(directory, world.rank), "rb") as file:
            kept = msgspec.json.decode(file.read(), type=_OfRank)
    except FileNotFoundError:
        kept = None
    if kept is not None and kept.size == world.size:
        return kept.runtime
    return {name: value for name, value in runtime.items() if name != "rng"}


def _path_of_rank(directory: str, rank: int) -> str:
    return os.path.join(directory, _RANKS, f"{rank:05d}.json")
