"""Decides which copy of which model goes where: facts in, moves out, nothing touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gen_worker.models.residency.values import (
    RAM,
    Copy,
    Fit,
    Free,
    Move,
    Part,
    Plan,
    Trim,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.residency.values import Facts, Wish

__all__ = ["accounted_bytes", "after", "plan"]

World = dict[int, Copy]


def plan(facts: Facts, wish: Wish) -> Plan:
    """Return the moves that fulfil a wish as far as possible.

    Idle copies leave least recently used first, to RAM while it has room, and only as many as
    needed. Leased and pinned copies stay. When that is not enough, `short_bytes` says what is
    missing; whether to go on nevertheless is the caller's decision.
    """
    if isinstance(wish, Trim):
        return _trim(facts, wish)
    if isinstance(wish, Free):
        moves, short = _clear(_world(facts), facts, wish.place, wish.size_bytes, (), wish.stays)
        return Plan(tuple(moves), short)
    return _fit(facts, wish)


def accounted_bytes(copies: Iterable[Copy], place: str) -> int:
    """Return what copies take of a place, each part counted once."""
    copies = tuple(copies)
    if place != RAM:
        here = [copy for copy in copies if copy.place == place]
        held = sum(copy.held_bytes for copy in here if copy.held_bytes is not None)
        return held + _distinct(copy for copy in here if copy.held_bytes is None)
    on_gpus = {
        part.key
        for copy in copies
        if copy.place != RAM and copy.held_bytes is None
        for part in copy.parts
    }
    in_ram = (copy for copy in copies if copy.place == RAM or copy.held_bytes is not None)
    return _distinct(in_ram, without=on_gpus)


def after(copies: Iterable[Copy], moves: Iterable[Move]) -> tuple[Copy, ...]:
    """Return the copies as they are once the moves are made."""
    world = {copy.number: copy for copy in copies}
    for move in moves:
        if move.number:
            _apply(world, move)
    return tuple(world.values())


def _fit(facts: Facts, wish: Fit) -> Plan:
    mine = [copy for copy in facts.copies if copy.model_id == wish.model_id]
    if any(copy.place == wish.place for copy in mine):
        return Plan()
    # A copy in RAM is moved up rather than loaded again.
    movable = (copy for copy in mine if copy.place == RAM and copy.number not in wish.stays)
    source = next((copy for copy in movable if _may_go_to(copy, facts, wish.place)), None)
    world = _world(facts)
    stays = wish.stays | ({source.number} if source else frozenset())
    parts = source.parts if source else wish.parts
    moves, short = _clear(world, facts, wish.place, 0, parts, stays)
    moves.append(Move(source.number if source else 0, wish.place))
    return Plan(tuple(moves), short)


def _may_go_to(copy: Copy, facts: Facts, place: str) -> bool:
    """Tell whether nobody else needs this copy, or a part of it, where it is now."""
    keys = {part.key for part in copy.parts}

    def is_tied_by(other: Copy) -> bool:
        is_busy = other.leases > 0 if other.place == RAM else other.place != place
        return is_busy and not keys.isdisjoint(part.key for part in other.parts)

    others = (other for other in facts.copies if other.number != copy.number)
    return not copy.leases and not any(map(is_tied_by, others))


def _trim(facts: Facts, wish: Trim) -> Plan:
    here = [copy for copy in facts.copies if copy.place == wish.place]
    idle = sorted((copy for copy in here if copy.is_idle), key=lambda copy: copy.last_used)
    leaving = idle[: max(0, len(here) - max(0, wish.keep))]
    return Plan(tuple(Move(copy.number, "") for copy in leaving))


def _clear(
    world: World,
    facts: Facts,
    place: str,
    size_bytes: int,
    parts: tuple[Part, ...],
    stays: frozenset[int],
) -> tuple[list[Move], int]:
    """Make room at a place for bytes or for parts; change `world` accordingly.

    Returns:
        The moves, and by how many bytes the place is still over its limit with the newcomer.
    """
    victims = _victims(world, facts, place, size_bytes, parts, stays)
    moves: list[Move] = []
    for victim in victims:
        moves += _leave(world, facts, victim, stays | {other.number for other in victims})
    return moves, max(0, _excess(world, facts, place, size_bytes, parts))


def _victims(
    world: World,
    facts: Facts,
    place: str,
    size_bytes: int,
    parts: tuple[Part, ...],
    stays: frozenset[int],
) -> list[Copy]:
    """Return the fewest copies that have to leave, least recently used first."""

    def excess(rest: World) -> int:
        return _excess(rest, facts, place, size_bytes, parts)

    if excess(world) <= 0:
        return []
    left = dict(world)
    taken: list[Copy] = []
    for copy in sorted(world.values(), key=lambda copy: copy.last_used):
        if copy.is_idle and copy.number not in stays and _takes_part_of(copy, place):
            taken.append(copy)
            del left[copy.number]
            if excess(left) <= 0:
                break
    # Some were taken before a bigger one turned out to be enough, and some share all they hold.
    for copy in taken[::-1]:
        restored = {**left, copy.number: copy}
        if max(0, excess(restored)) <= max(0, excess(left)):
            left = restored
            taken.remove(copy)
    return taken


def _leave(world: World, facts: Facts, victim: Copy, stays: frozenset[int]) -> list[Move]:
    """Send one copy to RAM when it fits there, else give its memory up."""
    moves: list[Move] = []
    # What its hooks keep of a GPU is only freed by letting the pipeline go.
    if victim.place != RAM and victim.held_bytes is None and victim.is_movable:
        without = {number: copy for number, copy in world.items() if number != victim.number}
        cleared, short = _clear(without, facts, RAM, 0, victim.parts, stays)
        if not short:
            world.clear()
            world.update(without)
            world[victim.number] = victim
            moves += [*cleared, Move(victim.number, RAM)]
            _apply(world, moves[-1])
            return moves
    moves.append(Move(victim.number, ""))
    _apply(world, moves[-1])
    return moves


def _takes_part_of(copy: Copy, place: str) -> bool:
    if place == RAM:
        return copy.place == RAM or copy.held_bytes is not None
    return copy.place == place and copy.held_bytes != 0


def _excess(
    world: World, facts: Facts, place: str, size_bytes: int, parts: tuple[Part, ...]
) -> int:
    room = facts.rooms.get(place)
    if room is None:
        return 0
    newcomer = Copy(number=-1, model_id="", place=place, parts=parts)
    used = accounted_bytes((*world.values(), newcomer), place)
    return used + room.unaccounted_bytes + size_bytes - room.limit_bytes


def _apply(world: World, move: Move) -> None:
    copy = world.pop(move.number)
    if move.place:
        world[move.number] = msgspec.structs.replace(copy, place=move.place, held_bytes=None)


def _world(facts: Facts) -> World:
    return {copy.number: copy for copy in facts.copies}


def _distinct(copies: Iterable[Copy], without: Iterable[str] = ()) -> int:
    sizes = {part.key: part.size_bytes for copy in copies for part in copy.parts}
    for key in without:
        sizes.pop(key, None)
    return sum(sizes.values())
