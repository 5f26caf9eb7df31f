"""Threads that read end when the work does, whatever ends it; hashes do not care about order."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, DeadlineExceededError
from gen_worker.models.formats import DamagedSafetensorsError
from gen_worker.models.reader.hashing import FileHash, check_digest
from gen_worker.models.reader.plan import Block
from gen_worker.models.reader.pump import pump

if TYPE_CHECKING:
    from gen_worker.models.reader.pump import Feed

BLOCKS = [Block(0, index, index + 1, index) for index in range(100)]


def no_reader_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "model-reader"]


def copy_all(feed: Feed) -> None:
    while (block := feed.take()) is not None:
        feed.put(block)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_every_block_is_finished_once_in_the_callers_thread(threads: int) -> None:
    seen: list[Block] = []
    here = threading.get_ident()

    def finished(block: Block) -> None:
        assert threading.get_ident() == here
        seen.append(block)

    blocks = BLOCKS if threads else []
    pump(blocks, copy_all, finished, threads=threads)
    assert sorted(seen) == blocks
    assert no_reader_is_left()


def test_a_workers_error_ends_all_and_is_raised() -> None:
    def work(feed: Feed) -> None:
        while (block := feed.take()) is not None:
            if block.start == 50:
                raise OSError("disk")
            feed.put(block)

    seen: list[Block] = []
    with pytest.raises(OSError, match="disk"):
        pump(BLOCKS, work, seen.append, threads=4)
    assert len(seen) < 100
    assert no_reader_is_left()


def test_a_callers_error_ends_all_threads() -> None:
    def finished(block: Block) -> None:
        raise KeyError(block)

    with pytest.raises(KeyError):
        pump(BLOCKS, copy_all, finished, threads=4)
    assert no_reader_is_left()


def test_a_cancel_ends_all_threads_with_its_reason() -> None:
    token = CancelToken()
    seen: list[Block] = []

    def finished(block: Block) -> None:
        seen.append(block)
        token.cancel("deadline")

    with pytest.raises(DeadlineExceededError):
        pump(BLOCKS * 100, copy_all, finished, threads=2, token=token)
    assert seen
    assert no_reader_is_left()


def test_a_cancel_reaches_a_worker_that_waits_for_something_else() -> None:
    token = CancelToken()

    def work(feed: Feed) -> None:
        token.cancel()
        assert feed.is_over()
        assert feed.take() is None

    with pytest.raises(CanceledError):
        pump(BLOCKS, work, lambda block: None, threads=2, token=token)


def test_a_hash_takes_pieces_in_any_order_and_gives_each_back() -> None:
    content = random.Random(0).randbytes(100_000)
    pieces = [(start, content[start : start + 4096]) for start in range(0, 98_304 + 4096, 4096)]
    random.Random(1).shuffle(pieces)
    hash_ = FileHash(len(content))
    given_back: list[int] = []
    for start, piece in pieces:
        padded = memoryview(piece.ljust(4096, b"\1"))  # a block goes on beyond the file
        hash_.add(start, padded, lambda start=start: given_back.append(start))  # type: ignore[misc]
    assert hash_.hexdigest() == blake3(content).hexdigest()
    assert given_back == sorted(start for start, _ in pieces)


def test_a_wrong_digest_names_both() -> None:
    check_digest("model.safetensors", "ab", "ab")
    with pytest.raises(DamagedSafetensorsError, match="'cd', it should be 'ab'") as caught:
        check_digest("model.safetensors", "ab", "cd")
    assert (caught.value.code, caught.value.expected, caught.value.actual) == ("digest", "ab", "cd")
