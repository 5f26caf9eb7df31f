"""The planner: idle copies leave in order of last use, only as many as needed, and never others."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.residency import Copy, Facts, Fit, Free, Move, Part, Plan, Room, Trim, plan
from gen_worker.models.residency.planner import accounted_bytes, after

GPU = "cuda:0"


def copy(number: int, size: int = 4, place: str = GPU, **facts: Any) -> Copy:
    parts = facts.pop("parts", (Part(f"p{number}", size),))
    facts = {"last_used": number, "model_id": f"m{number}", **facts}
    return Copy(number=number, place=place, parts=parts, **facts)


def facts(*copies: Copy, vram: int = 10, ram: int = 100, unaccounted: int = 0) -> Facts:
    rooms = {
        GPU: Room(limit_bytes=vram, unaccounted_bytes=unaccounted),
        "cpu": Room(limit_bytes=ram),
    }
    return Facts(copies=copies, rooms=rooms)


def fit(size: int, model_id: str = "new", key: str = "new") -> Fit:
    return Fit(model_id, GPU, (Part(key, size),))


LOAD = Move(0, GPU)


def test_what_fits_moves_nothing_else() -> None:
    assert plan(facts(copy(1)), fit(6)) == Plan((LOAD,))


def test_a_resident_model_needs_no_move() -> None:
    assert plan(facts(copy(1)), fit(4, model_id="m1")) == Plan()


def test_the_least_recently_used_goes_to_ram() -> None:
    known = facts(copy(1), copy(2))
    assert plan(known, fit(4)) == Plan((Move(1, "cpu"), LOAD))


def test_without_room_in_ram_it_is_given_up() -> None:
    assert plan(facts(copy(1), copy(2), ram=3), fit(4)) == Plan((Move(1, ""), LOAD))


def test_ram_drops_its_own_least_recently_used_for_it() -> None:
    known = facts(copy(1), copy(2), copy(3, place="cpu"), copy(4, place="cpu"), ram=8)
    assert plan(known, fit(4)) == Plan((Move(3, ""), Move(1, "cpu"), LOAD))


def test_leased_and_pinned_copies_stay_and_what_is_missing_is_said() -> None:
    known = facts(copy(1, leases=1), copy(2, is_pinned=True))
    assert plan(known, fit(4)) == Plan((LOAD,), short_bytes=2)


def test_a_copy_that_cannot_move_is_given_up() -> None:
    assert plan(facts(copy(1, 8, is_movable=False)), fit(4)) == Plan((Move(1, ""), LOAD))


def test_a_model_in_ram_moves_up_instead_of_being_loaded() -> None:
    known = facts(copy(1, 8), copy(2, 6, place="cpu", model_id="new"))
    assert plan(known, fit(99)) == Plan((Move(1, "cpu"), Move(2, GPU)))


def test_only_as_many_leave_as_needed() -> None:
    # 1 alone is too small, 2 is enough: 1 may stay.
    known = facts(copy(1, 1), copy(2, 8), vram=10)
    assert plan(known, fit(8)) == Plan((Move(2, "cpu"), LOAD))


def test_what_the_allocator_holds_beyond_the_books_counts() -> None:
    assert plan(facts(copy(1), unaccounted=4), fit(4)) == Plan((Move(1, "cpu"), LOAD))


def test_shared_parts_count_once() -> None:
    base = Part("base", 6)
    known = facts(copy(1, parts=(base, Part("a", 1))), copy(2, parts=(base, Part("b", 1))), vram=10)
    assert accounted_bytes(known.copies, GPU) == 8
    # Letting one go frees no more than its own part: both have to leave.
    assert plan(known, fit(4)).moves == (Move(1, "cpu"), Move(2, "cpu"), LOAD)
    # A third that shares the base needs its own part only.
    wish = Fit("m3", GPU, (base, Part("c", 2)))
    assert plan(known, wish) == Plan((LOAD,))


def test_a_part_another_copy_has_on_the_gpu_takes_no_ram() -> None:
    base = Part("base", 6)
    known = (copy(1, parts=(base, Part("a", 1)), place="cpu"), copy(2, parts=(base,)))
    assert accounted_bytes(known, "cpu") == 1


def test_a_copy_whose_part_is_used_on_another_gpu_is_not_moved_away() -> None:
    base = Part("base", 2)
    known = facts(
        copy(1, parts=(base,), place="cpu", model_id="new"),
        copy(2, parts=(base,), place="cuda:1"),
    )
    assert plan(known, fit(2)) == Plan((LOAD,))


def test_an_offloaded_pipeline_takes_ram_and_what_it_holds() -> None:
    offloaded = copy(1, 8, held_bytes=3)
    assert accounted_bytes((offloaded,), GPU) == 3
    assert accounted_bytes((offloaded,), "cpu") == 8
    # It holds too little to help, and one that holds enough is given up rather than moved.
    assert plan(facts(copy(1, 8, held_bytes=0), copy(2, 8)), fit(4)).moves[0] == Move(2, "cpu")
    assert plan(facts(copy(1, 8, held_bytes=8)), fit(4)).moves[0] == Move(1, "")


def test_trim_gives_the_least_recently_used_up() -> None:
    known = facts(copy(1), copy(2, leases=1), copy(3), copy(4, place="cpu"))
    assert plan(known, Trim(GPU, 1)).moves == (Move(1, ""), Move(3, ""))
    assert plan(known, Trim(GPU, 0)).moves == (Move(1, ""), Move(3, ""))
    assert plan(known, Trim(GPU, 3)).moves == ()


def test_free_makes_room_for_bytes() -> None:
    assert plan(facts(copy(1), copy(2)), Free(GPU, 6)) == Plan((Move(1, "cpu"),))
    assert plan(facts(copy(1, leases=1)), Free(GPU, 9)) == Plan((), short_bytes=3)


keys = st.integers(0, 5).map(lambda index: Part(f"k{index}", (index + 1) * 3))


@st.composite
def worlds(draw: st.DrawFn) -> Facts:
    copies = []
    taken = set()
    for number in range(1, draw(st.integers(0, 6)) + 1):
        place = draw(st.sampled_from([GPU, "cuda:1", "cpu"]))
        model_id = draw(st.sampled_from(["a", "b", "c", "new"]))
        if (model_id, place) in taken:
            continue
        taken.add((model_id, place))
        held = draw(st.none() | st.integers(0, 8)) if place != "cpu" else None
        parts = draw(st.lists(keys, unique=True, max_size=3))
        if held is not None:  # a module that hooks move is not also resident elsewhere
            parts = [Part(f"{place} {part.key}", part.size_bytes) for part in parts]
        copies.append(
            Copy(
                number=number,
                model_id=model_id,
                place=place,
                parts=tuple(parts),
                held_bytes=held,
                leases=draw(st.integers(0, 1)),
                is_pinned=draw(st.booleans()),
                is_movable=draw(st.booleans()),
                last_used=draw(st.integers(0, 9)),
            )
        )
    return facts(
        *copies,
        vram=draw(st.integers(0, 60)),
        ram=draw(st.integers(0, 60)),
        unaccounted=draw(st.integers(0, 5)),
    )


wishes = st.one_of(
    st.builds(lambda parts: Fit("new", GPU, tuple(parts)), st.lists(keys, unique=True, max_size=3)),
    st.builds(
        lambda place, size: Free(place, size), st.sampled_from([GPU, "cpu"]), st.integers(0, 40)
    ),
    st.builds(lambda keep: Trim(GPU, keep), st.integers(0, 3)),
)


@given(worlds(), wishes)
def test_copies_in_use_stay_where_they_are(known: Facts, wish: Any) -> None:
    by_number = {copy.number: copy for copy in known.copies}
    for move in plan(known, wish).moves:
        if not move.number:
            continue
        moved = by_number[move.number]
        assert not moved.leases
        is_wished_for = isinstance(wish, Fit) and moved.model_id == "new" and move.place == GPU
        assert is_wished_for or not moved.is_pinned


@given(worlds(), wishes)
def test_no_copy_moves_twice(known: Facts, wish: Any) -> None:
    numbers = [move.number for move in plan(known, wish).moves]
    assert len(numbers) == len(set(numbers))


@given(worlds(), wishes)
def test_a_place_is_over_its_budget_only_by_what_the_plan_says(known: Facts, wish: Any) -> None:
    if isinstance(wish, Trim):
        return
    decision = plan(known, wish)
    if isinstance(wish, Fit) and not decision.moves:
        return  # it was there already
    left = after(known.copies, decision.moves)
    room = known.rooms[wish.place]
    used = accounted_bytes(left, wish.place) + room.unaccounted_bytes
    if isinstance(wish, Free):
        used += wish.size_bytes
    elif decision.moves[-1].number == 0:
        newcomer = Copy(number=99, model_id="new", place=GPU, parts=wish.parts)
        used = accounted_bytes((*left, newcomer), GPU) + room.unaccounted_bytes
    assert max(0, used - room.limit_bytes) == decision.short_bytes


@given(worlds(), wishes)
def test_ram_is_never_filled_beyond_its_budget_by_a_plan(known: Facts, wish: Any) -> None:
    before = accounted_bytes(known.copies, "cpu")
    left = after(known.copies, plan(known, wish).moves)
    # A part that a model in RAM shares comes back to it when the one on the GPU is given up.
    waiting = {part for x in known.copies if x.place == "cpu" for part in x.parts}
    on_gpus = {part for x in known.copies if x.place != "cpu" for part in x.parts}
    returned = sum(part.size_bytes for part in waiting & on_gpus)
    limit = known.rooms["cpu"].limit_bytes
    assert accounted_bytes(left, "cpu") <= max(before, limit) + returned


@given(worlds(), wishes)
def test_what_is_missing_could_not_be_had(known: Facts, wish: Any) -> None:
    if isinstance(wish, Trim) or not plan(known, wish).short_bytes:
        return
    left = after(known.copies, plan(known, wish).moves)
    idle = [x for x in left if x.is_idle and x.place == wish.place and x.held_bytes is None]
    idle = [x for x in idle if not (isinstance(wish, Fit) and x.model_id == "new")]
    without = [x for x in left if x not in idle]
    stays = accounted_bytes(without, wish.place)
    wished = set(wish.parts) if isinstance(wish, Fit) else set()
    gone = {part for x in idle for part in x.parts} - wished
    assert accounted_bytes(left, wish.place) == stays or not gone


@given(worlds())
def test_totals_are_the_sum_of_the_distinct_parts(known: Facts) -> None:
    for place in (GPU, "cuda:1"):
        here = [x for x in known.copies if x.place == place]
        distinct = {part for x in here if x.held_bytes is None for part in x.parts}
        held = sum(x.held_bytes or 0 for x in here)
        assert accounted_bytes(known.copies, place) == held + sum(p.size_bytes for p in distinct)
