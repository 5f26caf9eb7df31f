"""Where an exception may appear in a thread, judged for every line of sample functions."""

import contextlib
import dis
import linecache
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from gen_worker.runtime.engine import frames
from gen_worker.runtime.engine.frames import BOUNDARIES, is_interruptible
from gen_worker.runtime.engine.lookahead import APPEARS_LATER, UNKNOWN, next_checks

LOCK = threading.Lock()
EARLY, RELAXED, LATE = 0.0, 0.1, 2.0


work = math.hypot
"""Any C function: a thread that is inside of one has its innermost frame where it was called."""


def cleaning(flag: bool) -> None:
    try:
        work(1)  # may
        if flag:
            work(2)  # may
    except ValueError:
        work(3)  # late
    finally:
        work(4)  # never
        work(
            5,  # never
        )


def cleaning_up_inside(flag: bool) -> int:
    try:
        return len([work(1)])  # may
    finally:
        try:
            work(2)  # never
        except OSError:
            work(3)  # never


def handling(error: Exception) -> None:
    try:
        raise error
    except (KeyError, IndexError):
        work(1)  # late
    except Exception:
        work(2)  # late
    work(3)  # may


def handling_all() -> None:
    for _ in range(2):
        try:
            raise KeyError
        except:  # noqa: E722 - what is tested
            work(1)  # late
            continue


def managing() -> None:
    with LOCK:
        work(1)  # may
    with contextlib.suppress(OSError):
        work(2)  # may
    work(3)  # may


def looping() -> None:
    for _ in range(3):
        try:
            work(1)  # may
        finally:
            work(2)  # never


class Managed:
    def __enter__(self) -> None:
        work(1)  # never

    def __exit__(self, *error: object) -> None:
        work(2)  # never


def using_managed() -> None:
    with Managed():
        work(3)  # may


@contextlib.contextmanager
def managed() -> Iterator[None]:
    work(1)  # never
    yield
    work(2)  # never


def using_generator() -> None:
    with managed():
        work(3)  # may


def observe(
    judged: Callable[..., Any], function: Callable[..., Any], *args: Any
) -> list[tuple[FrameType, int, tuple[bool, ...]]]:
    """Run a function; judge each call of the C function `judged` early, later and late."""
    seen: list[tuple[FrameType, int, tuple[bool, ...]]] = []

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and arg == judged:
            at = frame.f_lasti
            verdicts = tuple(
                is_interruptible(frame, at, s, is_blocked=True) for s in (EARLY, RELAXED, LATE)
            )
            seen.append((frame, frame.f_lineno, verdicts))

    BOUNDARIES.add(call_it.__code__)
    sys.setprofile(profile)
    try:
        call_it(function, *args)
    finally:
        sys.setprofile(None)
        BOUNDARIES.discard(call_it.__code__)
    return seen


def call_it(function: Callable[..., Any], *args: Any) -> None:
    with contextlib.suppress(ValueError, KeyError):
        function(*args)


MAY, NEVER = (True, True, True), (False, False, False)
VERDICTS = {"may": MAY, "never": NEVER, "late": (False, False, True)}


def check(function: Callable[..., Any], *args: Any) -> None:
    """Compare with what is written behind each line that calls `work`."""
    seen = observe(work, function, *args)
    assert seen, "the sample must call work"
    for frame, line, verdicts in seen:
        # A call over several lines is marked inside.
        texts = (linecache.getline(__file__, line + more) for more in range(3))
        mark = next(text.rpartition("#")[2].strip() for text in texts if "#" in text)
        assert verdicts == VERDICTS[mark], f"{frame.f_code.co_name}:{line}"


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (cleaning, (True,)),
        (cleaning_up_inside, (True,)),
        (handling, (KeyError(),)),
        (handling, (OSError(),)),
        (handling_all, ()),
        (managing, ()),
        (looping, ()),
        (using_managed, ()),
        (using_generator, ()),
    ],
)
def test_lines_are_judged_by_what_they_are_part_of(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    check(function, *args)


def test_a_finally_reached_by_an_exception_is_protected_too() -> None:
    def failing() -> None:
        try:
            raise ValueError
        finally:
            work(1)  # never

    check(failing)


def test_whatever_a_finally_calls_is_protected() -> None:
    def inner() -> None:
        work(1)  # never

    def outer() -> None:
        try:
            len(())
        finally:
            inner()

    check(outer)


def test_never_between_acquire_and_try() -> None:
    def locking() -> None:
        LOCK.acquire()
        try:
            work(1)
        finally:
            LOCK.release()

    assert [v for _, _, v in observe(LOCK.acquire, locking)] == [NEVER]
    assert [v for _, _, v in observe(work, locking)] == [MAY]
    assert [v for _, _, v in observe(LOCK.release, locking)] == [NEVER]


def test_never_inside_logging() -> None:
    verdicts: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            frame = sys._getframe()
            verdicts.append(is_interruptible(frame, frame.f_lasti, LATE, is_blocked=True))

    logger = logging.Logger("test")
    logger.addHandler(Handler())
    BOUNDARIES.add(call_it.__code__)
    try:
        call_it(logger.info, "hello")
    finally:
        BOUNDARIES.discard(call_it.__code__)
    assert verdicts == [False]


def test_never_without_a_handler_below() -> None:
    frame = sys._getframe()
    assert not is_interruptible(frame, frame.f_lasti, LATE, is_blocked=True)


def test_a_thread_that_waits_for_an_event_may_be_interrupted_after_a_while() -> None:
    ready, never = threading.Event(), threading.Event()

    def waiting() -> None:
        ready.set()
        never.wait(60)

    thread = threading.Thread(target=call_it, args=(waiting,), daemon=True)
    BOUNDARIES.add(call_it.__code__)
    thread.start()
    ready.wait()
    assert thread.ident is not None
    verdicts: list[tuple[bool, ...]] = []
    while (False, True) not in verdicts and len(verdicts) < 3000:
        frame = sys._current_frames()[thread.ident]
        at = frame.f_lasti
        verdicts.append(
            tuple(is_interruptible(frame, at, s, is_blocked=True) for s in (EARLY, RELAXED))
        )
        time.sleep(0.01)  # it may be on its way there still
    never.set()
    thread.join()
    BOUNDARIES.discard(call_it.__code__)
    assert verdicts[-1] == (False, True)
    assert not any(is_early for is_early, _ in verdicts)


@pytest.mark.parametrize(
    ("filename", "origin"),
    [
        (frames.__file__, "untouchable"),
        ("<frozen importlib._bootstrap>", "untouchable"),
        ("<frozen os>", "library"),
        (logging.__file__, "untouchable"),
        (threading.__file__, "untouchable"),
        (contextlib.__file__, "library"),
        (pytest.__file__, "author"),
        (__file__, "author"),
        ("<string>", "author"),
    ],
)
def test_origin_of_code(filename: str, origin: str) -> None:
    assert frames._origin(filename) == origin


class Lookahead:
    """Samples whose comment names what comes behind the line that calls `work`."""

    @staticmethod
    def calling() -> None:
        work(1)
        len(())

    @staticmethod
    def acquiring() -> None:
        work(1)
        LOCK.acquire()

    @staticmethod
    def closing() -> None:
        with Managed():
            work(1)

    @staticmethod
    def cleaning() -> None:
        try:
            work(1)
        finally:
            len(())

    @staticmethod
    def branching(flag: bool = True) -> None:
        work(1)
        if flag:
            LOCK.acquire()
        len(())

    @staticmethod
    def looping() -> None:
        for _ in range(3):
            work(1)

    @staticmethod
    def generating() -> None:
        for _ in numbers():
            work(1)

    @staticmethod
    def returning() -> None:
        def inner() -> None:
            work(1)

        inner()
        LOCK.acquire()

    @staticmethod
    def raising() -> None:
        work(1)
        raise ValueError


def numbers() -> Iterator[int]:
    yield from range(3)


@pytest.mark.skipif(not APPEARS_LATER, reason="exceptions appear where they are thrown")
@pytest.mark.parametrize(
    ("function", "allowed"),
    [
        (Lookahead.calling, True),
        (Lookahead.acquiring, False),
        (Lookahead.closing, False),
        (Lookahead.cleaning, False),
        (Lookahead.branching, False),
        (Lookahead.looping, True),
        (Lookahead.generating, True),  # the check at the loop's end comes first
        (Lookahead.returning, False),
        (Lookahead.raising, False),
    ],
)
def test_what_comes_next_counts_where_exceptions_appear_later(
    function: Callable[..., Any], allowed: bool
) -> None:
    seen = []

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and arg is work:
            seen.append(is_interruptible(frame, frame.f_lasti, EARLY))

    BOUNDARIES.add(call_it.__code__)
    for _ in range(50):  # until the loops are specialised
        with contextlib.suppress(ValueError):
            function()
        if LOCK.locked():
            LOCK.release()
    sys.setprofile(profile)
    try:
        call_it(function)
    finally:
        sys.setprofile(None)
        BOUNDARIES.discard(call_it.__code__)
        if LOCK.locked():
            LOCK.release()
    assert set(seen) == {allowed}


@pytest.mark.skipif(not APPEARS_LATER, reason="exceptions appear where they are thrown")
def test_the_end_of_a_loop_over_a_generator_is_unknown() -> None:
    code = Lookahead.generating.__code__
    for _ in range(50):
        Lookahead.generating()
    backward = [i for i in dis.get_instructions(code) if i.opname == "JUMP_BACKWARD"][-1]
    assert UNKNOWN in next_checks(code, backward.offset)
