"""What is read and where it goes: every wanted byte once, whole pages, no seeks worth less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.formats import Header, TensorInfo
from gen_worker.models.reader.memory import PAGE
from gen_worker.models.reader.plan import BLOCK_BYTES, blocks_of, device_runs, host_runs

SIZES = st.lists(
    st.tuples(st.sampled_from([0, 1, 7, 256, 4096, 10_000, 300_000, 9_000_000]), st.booleans()),
    max_size=8,
)


def layout(sizes: list[tuple[int, bool]], data_start: int) -> tuple[Header, dict[str, TensorInfo]]:
    tensors: dict[str, TensorInfo] = {}
    position = 0
    for index, (size, _) in enumerate(sizes):
        tensors[f"t{index}"] = TensorInfo("U8", (size,), position, position + size)
        position += size
    wanted = {f"t{i}": tensors[f"t{i}"] for i, (_, chosen) in enumerate(sizes) if chosen}
    return Header(tensors, {}, data_start, data_start + position), wanted


@given(SIZES, st.integers(10, 9000))
def test_host_runs_cover_what_is_wanted_in_whole_pages(
    sizes: list[tuple[int, bool]], data_start: int
) -> None:
    header, wanted = layout(sizes, data_start)
    runs = host_runs(wanted, header, whole=False)
    for info in wanted.values():
        first, last = data_start + info.start, data_start + info.end
        assert any(run.start <= first and last <= run.end for run in runs)
    free = 0
    for before, run in zip([None, *runs], runs, strict=False):
        assert run.start % PAGE == run.end % PAGE == 0
        assert run.position == free
        assert before is None or run.start - before.end > 256 << 10
        free += run.end - run.start
    blocks = blocks_of(3, runs)
    assert sum(block.end - block.start for block in blocks) == free
    assert [block.position for block in blocks] == sorted(block.position for block in blocks)
    assert all(
        block.file == 3 and 0 < block.end - block.start <= BLOCK_BYTES and block.start % PAGE == 0
        for block in blocks
    )


@given(SIZES, st.integers(10, 9000))
def test_device_runs_align_each_tensor_or_keep_it_with_its_neighbour(
    sizes: list[tuple[int, bool]], data_start: int
) -> None:
    header, wanted = layout(sizes, data_start)
    runs = device_runs(wanted, header)
    free = 0
    for run in runs:
        assert run.position >= free
        free = run.place(run.end)
    assert free < sum(info.size_bytes for info in wanted.values()) + 256 * len(wanted) + 1
    for info in wanted.values():
        start, end = data_start + info.start, data_start + info.end
        if start < end:
            (run,) = [run for run in runs if run.start <= start and end <= run.end]
            assert run.place(start) % 256 == 0


def test_neighbours_that_are_aligned_are_one_copy() -> None:
    header, wanted = layout([(4096, True), (512, True), (7, True), (256, True)], 10)
    assert [(run.start, run.end) for run in device_runs(wanted, header)] == [
        (10, 10 + 4096 + 512 + 7),
        (10 + 4096 + 512 + 7, 10 + 4096 + 512 + 7 + 256),
    ]


def test_a_hashed_file_is_read_as_a_whole() -> None:
    header, wanted = layout([(10_000, False), (10_000, True)], 100)
    (run,) = host_runs(wanted, header, whole=True)
    assert (run.start, run.end, run.position) == (0, 5 * PAGE, 0)
