"""Batches that a trainer's hook loads in threads, ahead of the steps."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from gen_worker.trainer.data import LoadedBatches, MockBatches
from gen_worker.trainer.errors import InputMaterializationError

_NUMBERS = list(range(7))


def loaded(ahead: int, load: Any = lambda raw, epoch: (raw, epoch)) -> LoadedBatches:
    return LoadedBatches(MockBatches(_NUMBERS, epochs=2), load, ahead=ahead)


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_batches_come_in_order_with_their_epoch(ahead: int) -> None:
    assert list(loaded(ahead).iter_batches()) == [(n, e) for e in (0, 1) for n in _NUMBERS]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_a_run_goes_on_exactly_where_it_was(ahead: int) -> None:
    whole = list(loaded(ahead).iter_batches())
    for stop in range(len(whole) + 1):
        first = loaded(ahead)
        iteration: Any = first.iter_batches()
        taken = list(itertools.islice(iteration, stop))
        iteration.close()
        second = loaded(ahead)
        second.seek(first.cursor())
        assert taken + list(second.iter_batches()) == whole
        assert taken + list(first.iter_batches()) == whole


def test_no_more_are_loaded_than_may_be_in_memory() -> None:
    begun: list[int] = []

    def load(raw: int, epoch: int) -> int | None:
        begun.append(raw)
        return raw if raw % 2 == 0 else None

    assert list(loaded(2, load).iter_batches()) == [0, 2, 4, 6] * 2  # None leaves a batch out
    assert sorted(begun) == sorted(_NUMBERS * 2)

    begun.clear()
    batches: Any = loaded(2, load).iter_batches()
    assert next(batches) == 0
    batches.close()
    assert {0} <= set(begun) <= {0, 1, 2}


def test_what_loading_raises_is_raised_when_its_turn_comes() -> None:
    def load(raw: int, epoch: int) -> int:
        if raw == 3:
            raise ValueError("three")
        return raw

    before = threading.active_count()
    batches = loaded(4, load).iter_batches()
    assert list(itertools.islice(batches, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(batches)
    assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_batch_that_others_have_as_well_is_not_left_out(ahead: int) -> None:
    source = MockBatches([3, 2, 0, 1])
    batches = LoadedBatches(source, lambda raw, _: raw or None, ahead=ahead, may_omit=False)
    iteration = iter(batches.iter_batches())
    assert [next(iteration), next(iteration)] == [3, 2]

    with pytest.raises(InputMaterializationError, match="nothing of a batch of epoch 0 can be"):
        next(iteration)
