"""What is known of workers: their devices, the models on them, and streams put in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.scheduler.fleet.holdings import Holdings
from gen_worker.runtime.scheduler.fleet.member import Member
from gen_worker.runtime.scheduler.fleet.said import hardware_of
from gen_worker.runtime.scheduler.fleet.stream import Stream
from gen_worker.runtime.wire import Resources, TokenDelta

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 1 << 30


def item(sequence: int) -> TokenDelta:
    return TokenDelta(request_id="r1", sequence=sequence, payload_json=b"{}")


@given(st.permutations(range(1, 9)), st.lists(st.integers(1, 8), max_size=8))
def test_items_come_out_in_order_and_once(order: Sequence[int], again: list[int]) -> None:
    stream = Stream()
    seen: list[int] = []
    for sequence in (*order, *again):
        seen += [one.sequence for one in stream.take(item(sequence))]
    assert seen == list(range(1, 9))
    assert not stream.is_whole
    stream.end(9)
    assert stream.is_whole


def test_a_stream_goes_on_behind_what_is_known() -> None:
    stream = Stream(after=3)
    assert stream.take(item(3)) == []
    assert [one.sequence for one in stream.take(item(4))] == [4]
    stream.end(6)
    assert not stream.is_whole
    stream.take(item(5))
    assert stream.is_whole


def test_a_stream_whose_hole_is_never_filled_is_broken() -> None:
    stream = Stream()
    for sequence in range(2, 5000):
        stream.take(item(sequence))
    assert stream.is_broken


def test_an_empty_stream_is_whole_with_its_end() -> None:
    stream = Stream()
    assert not stream.is_whole
    stream.end(1)
    assert stream.is_whole


def test_a_model_that_is_loaded_counts_before_its_worker_says_so() -> None:
    gpu = Holdings(0, 80 * GIB)
    sizes = {"a": 10 * GIB, "b": 20 * GIB}
    gpu.correct({"a"}, set(), 0.0, sizes, 60 * GIB)
    gpu.use(("a", "b"), now=5.0, ready_at=15.0, sizes=sizes)
    assert gpu.models["a"].used_at == 5.0
    assert gpu.models["b"].ready_at == 15.0
    assert gpu.free_bytes == 40 * GIB
    gpu.correct({"a"}, {"a", "b"}, 6.0, sizes, 60 * GIB)
    assert set(gpu.models) == {"a", "b"}
    assert gpu.free_bytes == 40 * GIB
    gpu.correct({"a", "b"}, {"a", "b"}, 12.0, sizes, 41 * GIB)
    assert gpu.models["b"].ready_at == 0.0
    assert gpu.free_bytes == 41 * GIB
    gpu.correct({"a"}, set(), 20.0, sizes, 61 * GIB)
    assert set(gpu.models) == {"a"}


def test_models_of_several_gpus_stay_where_they_were_given() -> None:
    member = Member("w1", 0.0, processor_slots=8)
    facts: dict[str, Any] = {"gpu_count": 2, "gpu_memory_bytes": 80 * GIB, "gpu_name": "H200"}
    member.reported(Resources(worker_id="w1", **facts), {}, 0.0)
    member.gpus[1].use(("a",), 1.0, 2.0, {})
    loaded = Resources(
        worker_id="w1", vram_models=("a", "b"), ram_models=("c",), disk_models=("c", "d"), **facts
    )
    member.reported(loaded, {}, 3.0)
    state = member.state()
    assert [set(gpu.models) for gpu in state.gpus] == [{"b"}, {"a"}]
    assert set(state.processors[0].models) == {"c"}
    assert state.nearby == {"c": "ram", "d": "disk"}
    member.reported(Resources(worker_id="w1", gpu_count=1, gpu_name="H200"), {}, 4.0)
    assert len(member.state().gpus) == 1


def test_machines_that_are_alike_are_one_object() -> None:
    facts: dict[str, Any] = {
        "gpu_count": 1,
        "gpu_name": "H200",
        "gpu_sm": "90",
        "gpu_memory_bytes": GIB,
    }
    first = hardware_of(Resources(worker_id="a", **facts))
    assert first is hardware_of(Resources(worker_id="b", **facts))
    assert first.compute_capability == 9.0
    assert hardware_of(Resources(gpu_count=1, gpu_sm="x")).compute_capability is None
    assert hardware_of(Resources(gpu_count=1, gpu_sm="120")).compute_capability == 12.0
    assert hardware_of(Resources(gpu_name="old", gpu_memory_bytes=5)).vram_bytes == 0
