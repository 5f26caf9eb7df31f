"""Which of a run's processes this one is, as a launcher such as torchrun says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.trainer.errors import StartupContractError

if TYPE_CHECKING:
    from gen_worker.trainer.settings import TrainerSettings

__all__ = ["Place", "place_of"]

_NAMES = ("rank", "world_size", "local_rank", "master_addr", "master_port")
_MOST_PORT = 65_535


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One process among those of a run."""

    rank: int
    size: int
    local_rank: int
    address: str
    """Where the processes meet."""
    port: int
    timeout_s: float
    """How long one waits for another."""


def place_of(settings: TrainerSettings) -> Place | None:
    """Return this process's place; None for a run of one process.

    Raises:
        StartupContractError: A launcher has said only a part of it, or what cannot be; all of it
            is named.
    """
    given = {name.upper(): getattr(settings, name) for name in _NAMES}
    if all(given[name] is None for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        return None  # the address alone is set on many clusters, whatever runs there
    problems = [f"{name} is not set" for name, value in given.items() if value in (None, "")]
    problems += _impossible(settings)
    if problems:
        raise StartupContractError(
            "startup.incomplete_world",
            "this process is to train with others, and cannot find them: "
            + "; ".join(problems)
            + ". Start it with gen-worker train --nproc or torchrun, or unset all of "
            + ", ".join(given),
        )
    return Place(
        rank=settings.rank or 0,
        size=settings.world_size or 1,
        local_rank=settings.local_rank or 0,
        address=settings.master_addr,
        port=settings.master_port or 0,
        timeout_s=float(settings.distributed_timeout_seconds),
    )


def _impossible(settings: TrainerSettings) -> list[str]:
    problems: list[str] = []
    size = settings.world_size
    if size is not None and size < 1:
        problems.append(f"WORLD_SIZE must be at least 1, it is {size}")
    for name in ("rank", "local_rank"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < max(size if size is not None else value + 1, 1):
            problems.append(f"{name.upper()} must be from 0 to WORLD_SIZE - 1, it is {value}")
    port = settings.master_port
    if port is not None and not 0 < port <= _MOST_PORT:
        problems.append(f"MASTER_PORT must be from 1 to {_MOST_PORT}, it is {port}")
    if settings.distributed_timeout_seconds < 1:
        problems.append(
            "TRAINER_DISTRIBUTED_TIMEOUT_SECONDS must be at least 1, it is "
            f"{settings.distributed_timeout_seconds}"
        )
    return problems
