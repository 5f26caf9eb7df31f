"""Where a tag of an endpoint points, where it pointed before, and where it was moved back from.

Each function has a line of steps, of which one is in effect. A change of the whole endpoint adds a
step with the same number to many lines, and is taken back as one. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gen_worker.runtime.scheduler.releases.errors import NoOtherReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Line", "Lines", "Step", "moved_back", "moved_forward", "promoted", "promoted_whole"]


class Step(NamedTuple):
    """What a change made of one function's tag."""

    change: int
    release_id: str
    """Empty: the function is in none that the tag points to."""


class Line(NamedTuple):
    """The steps of one function."""

    steps: tuple[Step, ...] = ()
    """By change; those after the one in effect were taken back."""
    change: int = 0
    """The step in effect; 0 before the first."""

    @property
    def release_id(self) -> str:
        return next((step.release_id for step in self.steps if step.change == self.change), "")

    @property
    def before(self) -> Line:
        """The line with its latest step taken back."""
        earlier = (step.change for step in self.steps if step.change < self.change)
        return self._replace(change=max(earlier, default=0))

    @property
    def next_change(self) -> int | None:
        return min((step.change for step in self.steps if step.change > self.change), default=None)

    def plus(self, step: Step) -> Line:
        """Return the line with a step more, and without those that were taken back."""
        kept = tuple(one for one in self.steps if one.change <= self.change)
        if step.release_id == self.release_id:
            return Line(kept, self.change)
        return Line((*kept, step), step.change)


Lines = dict[str, Line]
"""Of one tag of an endpoint, by function."""


def promoted(
    lines: Mapping[str, Line], change: int, release_id: str, functions: Iterable[str]
) -> Lines:
    """Point functions at a release."""
    found = dict(lines)
    for function in functions:
        found[function] = found.get(function, Line()).plus(Step(change, release_id))
    return found


def promoted_whole(
    lines: Mapping[str, Line], change: int, release_id: str, functions: Iterable[str]
) -> Lines:
    """Point the endpoint at a release: functions that it does not have are in none any more."""
    names = set(functions)
    found = promoted(lines, change, release_id, names)
    return promoted(found, change, "", lines.keys() - names)


def moved_back(lines: Mapping[str, Line], function: str) -> Lines:
    """Take back the latest change that is in effect.

    Args:
        lines: Of the tag.
        function: Only of this one; empty for whatever was changed last in the endpoint.

    Raises:
        NoOtherReleaseError: There is nothing before.
    """
    found = _of(lines, function)
    while latest := max((line.change for line in found.values()), default=0):
        earlier = {
            name: line.before if line.change == latest else line for name, line in found.items()
        }
        if not any(line.release_id for line in earlier.values()):
            break
        if _targets(earlier) != _targets(lines, earlier):
            return {**lines, **earlier}
        found = earlier
    raise NoOtherReleaseError("the tag has pointed to no other release before")


def moved_forward(lines: Mapping[str, Line], function: str) -> Lines:
    """Make the earliest change again that was taken back.

    Raises:
        NoOtherReleaseError: None was, or another release was promoted since.
    """
    found = _of(lines, function)
    while numbers := {line.next_change for line in found.values()} - {None}:
        earliest = min(number for number in numbers if number is not None)
        found = {
            name: line._replace(change=earliest) if line.next_change == earliest else line
            for name, line in found.items()
        }
        if _targets(found) != _targets(lines, found):
            return {**lines, **found}
    raise NoOtherReleaseError("the tag was not rolled back, or moved since")


def _of(lines: Mapping[str, Line], function: str) -> Lines:
    if not function:
        return dict(lines)
    return {function: lines[function]} if function in lines else {}


def _targets(lines: Mapping[str, Line], names: Iterable[str] | None = None) -> dict[str, str]:
    return {name: lines[name].release_id for name in (lines if names is None else names)}
