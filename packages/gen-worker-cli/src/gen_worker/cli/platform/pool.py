"""Which workers a platform needs: decided here, started and drained elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["Demand", "Drain", "Member", "ReleaseKey", "Start", "Step", "decide", "pause_s"]

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

MemberState = Literal["starting", "running", "draining"]


class ReleaseKey(NamedTuple):
    """A release as one endpoint has it."""

    owner: str
    endpoint: str
    release_id: str


class Demand(NamedTuple):
    """What is asked of one release."""

    key: ReleaseKey
    tags: tuple[str, ...] = ()
    """That point to it."""
    unfinished: int = 0
    """Requests that wait or run."""


class Member(NamedTuple):
    """One worker of this platform."""

    name: str
    key: ReleaseKey
    state: MemberState
    age_s: float = 0.0


class Start(NamedTuple):
    """Start a worker of a release."""

    key: ReleaseKey


class Drain(NamedTuple):
    """Let a worker end what it has, and go."""

    name: str


Step = Start | Drain


def decide(
    demands: Iterable[Demand],
    members: Sequence[Member],
    *,
    workers: int,
    main_tags: Collection[str],
    paused: Mapping[ReleaseKey, float],
    now: float,
) -> list[Step]:
    """Return what to do now.

    A release that a main tag points to has `workers` of them; one that another tag points to has
    at least one, and one that is only owed requests has as many as are owed, up to `workers`. What
    nobody needs any more is drained once the releases that took its place are served.

    Args:
        demands: Of every release that anything is asked of.
        members: The workers there are.
        workers: Wanted of each endpoint.
        main_tags: Tags that most requests go by.
        paused: Releases whose workers keep failing, and until when no other is started.
        now: On the clock of `paused`.
    """
    targets = {one.key: _target(one, workers, main_tags) for one in demands}
    by_release: dict[ReleaseKey, list[Member]] = {}
    for member in members:
        if member.state != "draining":
            by_release.setdefault(member.key, []).append(member)
    steps: list[Step] = []
    for key, target in targets.items():
        missing = target - len(by_release.get(key, ()))
        if missing > 0 and paused.get(key, 0.0) <= now:
            steps += [Start(key)] * missing
    for key, has in by_release.items():
        target = targets.get(key, 0)
        surplus = len(has) - target
        if surplus > 0 and (target or _is_replaced(key, targets, by_release)):
            # Those that have served least know least.
            steps += [Drain(one.name) for one in sorted(has, key=_worth)[:surplus]]
    return steps


def _target(demand: Demand, workers: int, main_tags: Collection[str]) -> int:
    if any(tag in main_tags for tag in demand.tags):
        return workers
    return max(1 if demand.tags else 0, min(workers, demand.unfinished))


def _is_replaced(
    key: ReleaseKey,
    targets: Mapping[ReleaseKey, int],
    members: Mapping[ReleaseKey, Sequence[Member]],
) -> bool:
    """Whether every other release of the same endpoint that is needed has a worker that works."""
    return all(
        any(member.state == "running" for member in members.get(other, ()))
        for other, target in targets.items()
        if target and other[:2] == key[:2] and other != key
    )


def _worth(member: Member) -> tuple[bool, float]:
    return member.state == "running", member.age_s


def pause_s(failures: int) -> float:
    """Return how long to wait before a process is started again that has failed so many times."""
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures - 1, 10)))
