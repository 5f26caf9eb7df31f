"""Work that the processes of a run do so that all of them succeed, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gen_worker.trainer.errors import OtherProcessError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.trainer.distributed.world import World

__all__ = ["first_does", "together"]

T = TypeVar("T")


def together(world: World, work: Callable[[], T]) -> T:
    """Do something in every process; collective.

    Where it fails nobody waits for it: the work may be collective itself, and the others be in the
    midst of it. They learn of the failure as soon as they are out of it.

    Raises:
        Exception: What the work has raised here.
        OtherProcessError: It has raised elsewhere.
    """
    if world.size == 1:
        return work()
    try:
        result = work()
    except Exception as error:
        world.fail(error)
        raise
    world.arrive()
    return result


def first_does(world: World, work: Callable[[], T]) -> T:
    """Do something in the first process, and return its result in all; collective.

    Args:
        world: Of the run.
        work: Returns what JSON can hold.

    Raises:
        Exception: What the work has raised, in the first process.
        OtherProcessError: It has raised there, in the others.
    """
    if world.size == 1:
        return work()
    if not world.is_first:
        told = world.broadcast(None)
        if not isinstance(told, list):
            raise OtherProcessError("what process 0 does for all has failed", rank=0)
        value: T = told[0]
        return value
    try:
        result = work()
    except Exception:
        world.broadcast(None)
        raise
    world.broadcast([result])
    return result
