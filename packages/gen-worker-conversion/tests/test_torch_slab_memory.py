"""Memory of slabs: used again, but never while anything still looks at it."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

from gen_worker.conversion.lazy.slab_memory import release_idle, slab_memory  # noqa: E402

MIB = 1 << 20


def address_of(size_bytes: int) -> int:
    address: int = slab_memory(size_bytes).data_ptr()
    return address


def test_the_next_slab_has_the_memory_of_the_last() -> None:
    release_idle()
    first = address_of(3 * MIB)
    assert address_of(3 * MIB) == first
    assert address_of(3 * MIB - 5) == first  # nearly as many bytes
    assert first % 4096 == 0


def test_a_view_keeps_its_memory() -> None:
    release_idle()
    whole = slab_memory(3 * MIB)
    view = whole.view(torch.float32)[5:9]
    view.fill_(7.0)
    del whole
    gc.collect()
    others = [slab_memory(3 * MIB).fill_(1) for _ in range(8)]
    assert view.tolist() == [7.0] * 4
    assert len({other.data_ptr() for other in others}) == 8


def test_a_slab_has_the_size_that_was_asked_for() -> None:
    for size_bytes in (0, 1, 4095, MIB - 1, MIB, MIB + 1, 2 * MIB + 3, 9 * MIB - 1):
        assert slab_memory(size_bytes).shape == (size_bytes,)
        assert slab_memory(size_bytes).dtype == torch.uint8


def test_threads_never_share_a_slab() -> None:
    def work(number: int) -> bool:
        for turn in range(60):
            slab = slab_memory(MIB + 4096 * (turn % 3)).fill_(number)
            kept = slab[turn::1000]
            del slab
            if not bool((kept == number).all()):
                return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(6)))
