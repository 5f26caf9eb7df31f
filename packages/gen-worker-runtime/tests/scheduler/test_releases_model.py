"""Any order of promotions, rollbacks and deletions: tags are where a plain list of states has them.

The model keeps, for each tag, every function's list of releases with the number of the change that
brought it; it knows nothing of tables.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gen_worker.manifest import LockedFunction, Manifest
from gen_worker.runtime.scheduler.releases import (
    Move,
    NoOtherReleaseError,
    ReleaseInUseError,
    ReleaseRecord,
    UnknownReleaseError,
)
from gen_worker.runtime.scheduler.releases.tables import (
    delete,
    record,
    release_ids,
    required,
)
from gen_worker.runtime.scheduler.releases.tag_tables import (
    Author,
    TagOf,
    drop_tag,
    history_of,
    move,
    promote,
    targets,
)
from gen_worker.runtime.scheduler.schema import MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.releases import TagAction, TagChange

RELEASES = {"r-1": ("f", "g"), "r-2": ("f", "g", "h"), "r-3": ("f",), "r-4": ("g", "h")}
TAGS = ("prod", "next")
tags = st.sampled_from(TAGS)
releases = st.sampled_from(sorted(RELEASES))
functions = st.sampled_from(("", "f", "g", "h"))
AUTHOR = Author(1.0, "ada", "why not")


class Item(NamedTuple):
    change: int
    release_id: str


class Past:
    """One function: what it was, the latest last, and what was taken back, the next one last."""

    def __init__(self) -> None:
        self.done: list[Item] = []
        self.undone: list[Item] = []

    def now(self) -> str:
        return self.done[-1].release_id if self.done else ""

    def copy(self) -> Past:
        other = Past()
        other.done, other.undone = list(self.done), list(self.undone)
        return other


State = dict[str, Past]


def shown(state: State) -> dict[str, str]:
    return {name: past.now() for name, past in state.items() if past.now()}


def undo(state: State) -> bool:
    """Take the latest change back in all of these; return whether there was one."""
    latest = max((past.done[-1].change for past in state.values() if past.done), default=0)
    for past in state.values():
        if past.done and past.done[-1].change == latest:
            past.undone.append(past.done.pop())
    return latest > 0


def redo(state: State) -> bool:
    numbers = [past.undone[-1].change for past in state.values() if past.undone]
    for past in state.values():
        if past.undone and past.undone[-1].change == min(numbers):
            past.done.append(past.undone.pop())
    return bool(numbers)


class Tagging(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for script in MIGRATIONS:
            self.connection.executescript(script)
        self.state: dict[str, State] = {}
        self.here: set[str] = set()
        self.changes = 0

    def teardown(self) -> None:
        self.connection.close()

    def noted(self, before: dict[str, str], tag: str, change: TagChange | None) -> None:
        """What was changed is what is told of it."""
        after = shown(self.state.get(tag, {}))
        moves = tuple(
            Move(name, before.get(name, ""), after.get(name, ""))
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        )
        if not moves:
            assert change is None
            return
        assert change is not None
        assert (change.moves, change.changed_by, change.tag) == (moves, "ada", tag)
        self.changes += 1
        assert history_of(self.connection, "o", "e", None, 1) == (change,)

    @rule(release_id=releases)
    def publish(self, release_id: str) -> None:
        names = RELEASES[release_id]
        new = ReleaseRecord(0, "o", "e", release_id, 1.0, "ada", "cpu", names)
        locked = tuple(LockedFunction(name=name, module="m") for name in names)
        published = record(self.connection, new, Manifest(functions=locked), "")
        assert published.is_new == (release_id not in self.here)
        self.here.add(release_id)

    @rule(release_id=releases, tag=tags, function=functions)
    def promote(self, release_id: str, tag: str, function: str) -> None:
        def promoted() -> TagChange | None:
            release = required(self.connection, "o", "e", release_id)
            return promote(self.connection, TagOf("o", "e", tag), release, function, AUTHOR)

        names = RELEASES[release_id]
        if release_id not in self.here or (function and function not in names):
            with pytest.raises(UnknownReleaseError):
                promoted()
            return
        state = self.state.setdefault(tag, {})
        before = shown(state)
        wanted = {function: release_id} if function else dict.fromkeys(names, release_id)
        if not function:
            wanted |= {name: "" for name in state if name not in names}
        for name, target in wanted.items():
            past = state.setdefault(name, Past())
            past.undone.clear()
            if past.now() != target:
                past.done.append(Item(self.changes + 1, target))
        self.noted(before, tag, promoted())

    @rule(tag=tags, function=functions, is_back=st.booleans())
    def move(self, tag: str, function: str, is_back: bool) -> None:
        action: TagAction = "rollback" if is_back else "forward"

        def moved() -> TagChange | None:
            return move(self.connection, TagOf("o", "e", tag), action, function, AUTHOR)

        state = self.state.get(tag)
        if not state or (function and function not in state):
            with pytest.raises(UnknownReleaseError):
                moved()
            return
        expected = self.moved(state, function, undo if is_back else redo, is_back)
        if expected is None:
            with pytest.raises(NoOtherReleaseError):
                moved()
            return
        before = shown(state)
        state.update(expected)
        self.noted(before, tag, moved())

    def moved(
        self, state: State, function: str, step: Callable[[State], bool], is_back: bool
    ) -> State | None:
        names = [function] if function else list(state)
        trial = {name: state[name].copy() for name in names}
        start = shown(trial)
        while step(trial):
            if is_back and not shown(trial):
                return None
            if shown(trial) != start:
                return trial
        return None

    @rule(release_id=releases)
    def delete(self, release_id: str) -> None:
        if release_id not in self.here:
            with pytest.raises(UnknownReleaseError):
                self.deleted(release_id)
            return
        if any(release_id in shown(state).values() for state in self.state.values()):
            with pytest.raises(ReleaseInUseError):
                self.deleted(release_id)
            return
        assert self.deleted(release_id)
        self.here.remove(release_id)
        for state in self.state.values():
            for past in state.values():
                past.done = [item for item in past.done if item.release_id != release_id]
                past.undone = [item for item in past.undone if item.release_id != release_id]

    def deleted(self, release_id: str) -> bool:
        return delete(self.connection, "o", "e", release_id, is_named=False)

    @rule(tag=tags)
    def remove(self, tag: str) -> None:
        state = self.state.pop(tag, {})
        self.noted(shown(state), tag, drop_tag(self.connection, TagOf("o", "e", tag), AUTHOR))

    @invariant()
    def tags_are_where_they_should_be(self) -> None:
        found: dict[str, dict[str, str]] = {tag: {} for tag in TAGS}
        for target in targets(self.connection):
            found[target.tag][target.function] = target.release_id
        assert found == {tag: shown(self.state.get(tag, {})) for tag in TAGS}
        assert release_ids(self.connection) == self.here


Tagging.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestTagging = Tagging.TestCase
