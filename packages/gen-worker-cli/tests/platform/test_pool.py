"""Which workers a platform starts and drains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.cli.platform.pool import (
    Demand,
    Drain,
    Member,
    MemberState,
    ReleaseKey,
    Start,
    Step,
    decide,
    pause_s,
)

OLD, NEW = (ReleaseKey("ann", "paint", release) for release in ("old", "new"))
OTHER = ReleaseKey("ann", "sing", "one")


def decided(
    demands: list[Demand],
    members: list[Member],
    *,
    workers: int = 1,
    paused: dict[ReleaseKey, float] | None = None,
) -> list[Step]:
    return decide(
        demands, members, workers=workers, main_tags={"prod"}, paused=paused or {}, now=100.0
    )


def member(name: str, key: ReleaseKey, state: MemberState = "running", age_s: float = 1) -> Member:
    return Member(name, key, state, age_s)


def test_what_prod_means_has_as_many_workers_as_are_wanted() -> None:
    assert decided([Demand(NEW, ("prod",))], [], workers=3) == [Start(NEW)] * 3
    has = [member("a", NEW), member("b", NEW, "starting")]
    assert decided([Demand(NEW, ("prod",))], has, workers=3) == [Start(NEW)]


@pytest.mark.parametrize(
    ("demand", "count"),
    [
        (Demand(OLD, ("canary",)), 1),
        (Demand(OLD, ("canary",), 2), 2),
        (Demand(OLD, ("canary",), 9), 3),
        (Demand(OLD, (), 1), 1),
        (Demand(OLD, (), 9), 3),
        (Demand(OLD), 0),
        (Demand(OLD, ("prod", "canary")), 3),
    ],
)
def test_other_releases_have_as_many_as_they_are_owed(demand: Demand, count: int) -> None:
    assert decided([demand], [], workers=3) == [Start(OLD)] * count


def test_the_old_release_is_drained_once_the_new_one_is_served() -> None:
    demands = [Demand(NEW, ("prod",)), Demand(OLD)]
    old = member("old.1", OLD)
    assert decided(demands, [old]) == [Start(NEW)]
    assert decided(demands, [old, member("new.1", NEW, "starting")]) == []
    assert decided(demands, [old, member("new.1", NEW)]) == [Drain("old.1")]
    assert decided(demands[:1], [old, member("new.1", NEW)]) == [Drain("old.1")]


def test_the_old_release_keeps_a_worker_for_each_request_it_owes() -> None:
    demands = [Demand(NEW, ("prod",)), Demand(OLD, (), 2)]
    old = [member(f"old.{age}", OLD, age_s=age) for age in range(3)]
    new = [member(f"new.{number}", NEW) for number in range(3)]
    assert decided(demands, [*old, *new], workers=3) == [Drain("old.0")]


def test_a_new_release_of_one_endpoint_holds_up_no_other() -> None:
    demands = [Demand(NEW, ("prod",))]
    assert decided(demands, [member("sing.1", OTHER), member("new.1", NEW, "starting")]) == [
        Drain("sing.1")
    ]


def test_with_fewer_workers_those_go_that_have_not_begun() -> None:
    members = [member("a", NEW, "running", 5), member("b", NEW, "starting", 9)]
    assert decided([Demand(NEW, ("prod",))], members) == [Drain("b")]


def test_workers_that_keep_failing_are_started_later() -> None:
    demands = [Demand(NEW, ("prod",)), Demand(OTHER, ("prod",))]
    assert decided(demands, [], paused={NEW: 100.5, OTHER: 99.5}) == [Start(OTHER)]


def test_one_that_drains_counts_as_gone() -> None:
    draining = member("new.1", NEW, "draining")
    assert decided([Demand(NEW, ("prod",))], [draining]) == [Start(NEW)]
    assert decided([], [draining]) == []


def test_pauses_double_up_to_half_a_minute() -> None:
    assert [pause_s(count) for count in (1, 2, 3, 6, 7, 500)] == [0.5, 1, 2, 16, 30, 30]


KEYS = st.sampled_from([OLD, NEW, OTHER])
DEMANDS = st.lists(
    st.builds(
        Demand,
        KEYS,
        st.sampled_from([(), ("prod",), ("canary",), ("prod", "canary")]),
        st.integers(0, 5),
    ),
    unique_by=lambda demand: demand.key,
)


@given(demands=DEMANDS, start=st.lists(KEYS, max_size=6), workers=st.integers(0, 4))
def test_whatever_there_is_it_comes_to_rest_with_what_is_needed(
    demands: list[Demand], start: list[ReleaseKey], workers: int
) -> None:
    members = [member(f"was.{number}", key) for number, key in enumerate(start)]
    for turn in range(20):
        steps = decided(demands, members, workers=workers)
        if not steps:
            break
        gone = {step.name for step in steps if isinstance(step, Drain)}
        begun = [step.key for step in steps if isinstance(step, Start)]
        members = [one for one in members if one.name not in gone]
        members += [member(f"{turn}.{number}", key) for number, key in enumerate(begun)]
    else:
        raise AssertionError("it never comes to rest")
    for demand in demands:
        count = sum(one.key == demand.key for one in members)
        owed = workers if "prod" in demand.tags else min(workers, demand.unfinished)
        assert count == max(owed, 1 if demand.tags and "prod" not in demand.tags else 0)
    assert {one.key for one in members} <= {demand.key for demand in demands}
