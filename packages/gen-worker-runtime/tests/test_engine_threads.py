"""The threads of blocking handlers: who is woken, how many there are, and that no job is lost."""

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from queue import SimpleQueue

import pytest

from gen_worker.runtime.engine.interrupt import Interrupter
from gen_worker.runtime.engine.threads import ThreadPool, Worker

TIMEOUT_S = 60.0


class Job:
    """Runs a function, and says in which thread it ran."""

    def __init__(self, ended: SimpleQueue[str], function: Callable[[], object] = int) -> None:
        self._ended = ended
        self._function = function

    def run(self, worker: Worker) -> None:
        self._function()

    def report(self) -> None:
        self._ended.put(threading.current_thread().name)


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    interrupter = Interrupter()
    pool = ThreadPool("test", 4, interrupter)
    yield pool
    pool.close(TIMEOUT_S)
    interrupter.close()


def occupy(pool: ThreadPool, count: int, ended: SimpleQueue[str]) -> threading.Barrier:
    """Have so many threads wait for each other and for the caller, all at the same time."""
    barrier = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(Job(ended, lambda: barrier.wait(TIMEOUT_S)))
    return barrier


def test_jobs_that_block_get_a_thread_each_up_to_the_limit(pool: ThreadPool) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    barrier = occupy(pool, 4, ended)
    barrier.wait(TIMEOUT_S)
    assert len({ended.get(timeout=TIMEOUT_S) for _ in range(4)}) == 4
    assert len(pool) == 4


def test_more_jobs_than_threads_wait_for_one(pool: ThreadPool) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    go = threading.Event()
    begun: SimpleQueue[None] = SimpleQueue()

    def hold() -> None:
        begun.put(None)
        go.wait(TIMEOUT_S)

    for _ in range(6):
        pool.submit(Job(ended, hold))
    for _ in range(4):
        begun.get(timeout=TIMEOUT_S)
    assert (pool.waiting, len(pool)) == (2, 4)
    go.set()
    for _ in range(6):
        ended.get(timeout=TIMEOUT_S)
    assert (pool.waiting, len(pool)) == (0, 4)


def test_calls_one_after_the_other_stay_in_one_thread(pool: ThreadPool) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    occupy(pool, 4, ended).wait(TIMEOUT_S)
    for _ in range(4):
        ended.get(timeout=TIMEOUT_S)
    used = []
    for _ in range(40):
        pool.submit(Job(ended))
        used.append(ended.get(timeout=TIMEOUT_S))
    # One that is about to wait may take a job from the one that is woken for it, if the system
    # stops both at that moment; taking turns would be another thread each time.
    changes = sum(one != other for one, other in pairwise(used))
    assert changes < 10


def test_no_job_is_left_behind(pool: ThreadPool) -> None:
    """Threads that go to sleep just as a job comes are the danger; so is a wake-up that is lost."""
    ended: SimpleQueue[str] = SimpleQueue()
    rounds, submitters = 300, 3
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def submit_in_turn() -> None:
        mine: SimpleQueue[str] = SimpleQueue()
        for number in range(rounds):
            count = number % 3 + 1
            for _ in range(count):
                pool.submit(Job(mine))
            for _ in range(count):
                mine.get(timeout=TIMEOUT_S)
        ended.put("all")

    threads = [threading.Thread(target=submit_in_turn) for _ in range(submitters)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert ended.qsize() == submitters


def test_a_thread_that_was_given_up_is_replaced(pool: ThreadPool) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    workers: SimpleQueue[Worker] = SimpleQueue()
    go = threading.Event()

    class Stuck:
        def run(self, worker: Worker) -> None:
            workers.put(worker)
            go.wait(TIMEOUT_S)

        def report(self) -> None:
            workers_that_ended.put(None)

    workers_that_ended: SimpleQueue[None] = SimpleQueue()
    for _ in range(4):
        pool.submit(Stuck())
    stuck = [workers.get(timeout=TIMEOUT_S) for _ in range(4)]
    pool.submit(Job(ended))
    assert pool.waiting == 1
    pool.abandon(stuck[0])
    ended.get(timeout=TIMEOUT_S)
    assert len(pool) == 4
    go.set()
    for _ in stuck:
        workers_that_ended.get(timeout=TIMEOUT_S)
    thread = stuck[0].thread
    assert thread is not None
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_closing_ends_the_threads_once_their_jobs_are_done() -> None:
    interrupter = Interrupter()
    pool = ThreadPool("test", 4, interrupter)
    ended: SimpleQueue[str] = SimpleQueue()
    barrier = occupy(pool, 4, ended)
    pool.submit(Job(ended))
    barrier.wait(TIMEOUT_S)
    threads = [worker.thread for worker in pool._workers]
    pool.close(TIMEOUT_S)
    interrupter.close()
    assert ended.qsize() == 5
    assert len(threads) == 4
    assert not any(thread is None or thread.is_alive() for thread in threads)


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_who_submits_is_told_that_there_can_be_no_thread(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            pool.submit(Job(ended))
    pool.submit(Job(ended))
    ended.get(timeout=TIMEOUT_S)


def test_jobs_wait_for_the_threads_there_are_when_there_can_be_no_more(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: SimpleQueue[str] = SimpleQueue()
    barrier = occupy(pool, 1, ended)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(3):
        pool.submit(Job(ended))
    barrier.wait(TIMEOUT_S)
    for _ in range(4):
        ended.get(timeout=TIMEOUT_S)
    assert len(pool) == 1
