"""Where in its code a thread can be interrupted without harm.

`PyThreadState_SetAsyncExc` makes an exception appear between two bytecodes. Thrown blindly it cuts
`__exit__` methods in half and leaves locks held: measured on CPython 3.11, stdlib logging kept its
lock in 1 of 35 to 1 of 200 trials, and the next thread that logged hung. So the engine looks at
the thread's frames first and waits for a better moment.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from gen_worker.runtime.engine.lookahead import (
    APPEARS_LATER,
    LEAVES,
    UNKNOWN,
    closes_block,
    next_checks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

__all__ = ["BOUNDARIES", "is_interruptible"]

BOUNDARIES: set[CodeType] = set()
"""The functions that call the author's code: a stack is inspected down to one of these."""

# A handler that never reaches a good moment gets a less good one later.
_RELAXED_AFTER_S = 0.03
_LATE_AFTER_S = 1.0

_MAX_DEPTH = 400
_CLEANUP_FUNCTIONS = frozenset(
    {"__enter__", "__exit__", "__aenter__", "__aexit__", "__del__", "acquire", "release"}
)
# These take locks with acquire/try/finally, or leave state behind that the whole process shares.
_UNTOUCHABLE_MODULES = frozenset({"logging", "threading.py", "weakref.py", "_weakrefset.py"})

Origin = Literal["author", "library", "untouchable"]


def is_interruptible(
    frame: FrameType, at: int, waited_s: float, *, is_blocked: bool = False
) -> bool:
    """Tell whether an exception may appear in a thread that stands in `frame`.

    Args:
        frame: The thread's innermost frame.
        at: Its `f_lasti`, read once by the caller: the thread may move on meanwhile.
        waited_s: How long a good moment has been waited for. At once only author code that is
            about to check for interrupts will do; after 30 ms the standard library too; after a
            second the body of an `except` as well. Never: SDK, logging and threading frames,
            `__enter__`, `__exit__`, `acquire`, `release`, a `finally` body, an import.
        is_blocked: Whether the thread is known to be inside a C function, so that the exception
            appears where that returns; else it may appear at the next check, see `lookahead`.
    """
    if not _may_stop_at(frame.f_code, at, waited_s):
        return False
    if APPEARS_LATER and not is_blocked and not _may_appear_later(frame, at, waited_s):
        return False
    for outer in _authors_stack(frame):
        if outer is None:
            return False
        is_innermost = outer is frame
        if not _may_unwind(outer.f_code, at if is_innermost else outer.f_lasti, waited_s):
            return False
    return True


def _authors_stack(frame: FrameType) -> Iterator[FrameType | None]:
    """Yield the frames above the engine's own, innermost first; None when there is no bottom."""
    current: FrameType | None = frame
    for _ in range(_MAX_DEPTH):
        if current is None:
            break
        if current.f_code in BOUNDARIES:
            return
        yield current
        current = current.f_back
    yield None


def _may_stop_at(code: CodeType, at: int, waited_s: float) -> bool:
    if at < 0 or code in BOUNDARIES:
        return False
    is_relaxed = waited_s >= _RELAXED_AFTER_S
    if _is_acquiring(code, at):
        # `Condition.wait` is written to survive an exception where it waits.
        return is_relaxed and code is _CONDITION_WAIT and _is_in_try(code, at)
    if code in _WAITS:
        return False
    if is_relaxed:
        return True
    return _origin(code.co_filename) == "author" and code.co_code[at] in _opcodes().checking


def _may_appear_later(frame: FrameType, at: int, waited_s: float) -> bool:
    """Judge the next checks, too: the exception may appear there. See `lookahead`."""
    for check in next_checks(frame.f_code, at):
        if check == UNKNOWN:
            return False
        if check == LEAVES:
            caller = frame.f_back
            if caller is None:
                return False
            # At a boundary it appears in the region's own code, which expects it.
            if caller.f_code not in BOUNDARIES and not (
                _may_appear_at(caller.f_code, caller.f_lasti, waited_s)
                and _may_appear_later(caller, caller.f_lasti, waited_s)
            ):
                return False
        elif not _may_appear_at(frame.f_code, check, waited_s):
            return False
    return True


def _may_appear_at(code: CodeType, at: int, waited_s: float) -> bool:
    if _is_acquiring(code, at) or closes_block(code, at):
        return False
    return _may_unwind(code, at, waited_s)


def _may_unwind(code: CodeType, at: int, waited_s: float) -> bool:
    if _origin(code.co_filename) == "untouchable" and code not in _WAITS:
        return False
    if code.co_name in _CLEANUP_FUNCTIONS:
        return False
    cleanup = _cleanup(code)
    line = cleanup.lines[at // 2] if cleanup.lines else None
    if line in cleanup.finally_lines:
        return False
    return waited_s >= _LATE_AFTER_S or line not in cleanup.except_lines


# The functions of threading in which a handler may spend its time.
_CONDITION_WAIT = threading.Condition.wait.__code__
_WAITS = frozenset({_CONDITION_WAIT, threading.Event.wait.__code__})

_STDLIB = os.path.dirname(os.__file__) + os.sep
_SITE = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@lru_cache(maxsize=4096)
def _origin(filename: str) -> Origin:
    import gen_worker

    if any(filename.startswith(root + os.sep) for root in gen_worker.__path__):
        return "untouchable"
    if filename.startswith("<frozen importlib"):
        return "untouchable"
    if filename.startswith("<frozen "):
        return "library"
    if not filename.startswith(_STDLIB) or any(part in filename for part in _SITE):
        return "author"
    first = filename[len(_STDLIB) :].split(os.sep, 1)[0]
    return "untouchable" if first in _UNTOUCHABLE_MODULES else "library"


class _Opcodes(NamedTuple):
    checking: frozenset[int]
    """Instructions that look for a pending interrupt themselves, so it appears right there."""
    calling: frozenset[int]
    attributes: dict[int, int]
    """Instructions that load an attribute, with how far to shift their argument to its name."""
    push_exc_info: int
    pop_top: int
    with_except_start: int
    matching: frozenset[int]
    bookkeeping: frozenset[int]
    """Instructions of a handler whose line says nothing about the author's code."""


@lru_cache(maxsize=1)
def _opcodes() -> _Opcodes:
    import sys
    from opcode import opmap

    def numbers(*names: str) -> frozenset[int]:
        return frozenset(opmap[name] for name in names if name in opmap)

    # From 3.12 on the lowest bit of LOAD_ATTR says whether it loads a method.
    attributes = dict.fromkeys(numbers("LOAD_ATTR"), 1 if sys.version_info >= (3, 12) else 0)
    attributes |= dict.fromkeys(numbers("LOAD_METHOD"), 0)
    calling = numbers("PRECALL", "CALL", "CALL_KW", "CALL_FUNCTION_EX")
    return _Opcodes(
        checking=calling | numbers("RESUME", "JUMP_BACKWARD"),
        calling=calling,
        attributes=attributes,
        push_exc_info=opmap["PUSH_EXC_INFO"],
        pop_top=opmap["POP_TOP"],
        with_except_start=opmap["WITH_EXCEPT_START"],
        matching=numbers("CHECK_EXC_MATCH", "CHECK_EG_MATCH"),
        bookkeeping=numbers("CACHE", "PUSH_EXC_INFO", "RERAISE", "COPY", "POP_EXCEPT"),
    )


@lru_cache(maxsize=4096)
def _is_acquiring(code: CodeType, at: int) -> bool:
    """Tell whether the instruction calls something named `acquire`.

    The exception would appear after the lock was taken and before the `try` that gives it back.
    """
    instructions = code.co_code
    if instructions[at] not in _opcodes().calling:
        return False
    positions = list(code.co_positions())
    first_line, last_line, first_column, last_column = positions[at // 2]
    for index in range(0, at, 2):
        shift = _opcodes().attributes.get(instructions[index])
        if shift is None or _name(code, index, shift) != "acquire":
            continue
        line, _, column, _ = positions[index // 2]
        if None in (line, column, first_line, last_line, first_column, last_column):
            return True
        if (first_line, first_column) <= (line, column) <= (last_line, last_column):
            return True
    return False


def _name(code: CodeType, index: int, shift: int) -> str:
    argument = code.co_code[index + 1] >> shift
    return code.co_names[argument] if argument < len(code.co_names) else ""


class _Range(NamedTuple):
    """One row of a code object's exception table, in bytes."""

    start: int
    end: int
    target: int
    is_cleanup: bool
    """Whether it guards the interpreter's own handling of an exception."""


def _exception_table(code: CodeType) -> Iterator[_Range]:
    # Format: CPython's Objects/exception_handling_notes.txt, the same since 3.11.
    numbers = _varints(iter(code.co_exceptiontable))
    for start in numbers:
        length, target, depth_and_lasti = next(numbers), next(numbers), next(numbers)
        yield _Range(start * 2, (start + length) * 2, target * 2, bool(depth_and_lasti & 1))


def _varints(data: Iterator[int]) -> Iterator[int]:
    for byte in data:
        value = byte & 63
        while byte & 64:
            byte = next(data)
            value = value << 6 | byte & 63
        yield value


def _is_in_try(code: CodeType, at: int) -> bool:
    return any(row.start <= at < row.end and not row.is_cleanup for row in _exception_table(code))


class _Cleanup(NamedTuple):
    finally_lines: frozenset[int]
    except_lines: frozenset[int]
    lines: list[int | None]
    """Line of each instruction; empty when there is nothing to clean up."""


@lru_cache(maxsize=4096)
def _cleanup(code: CodeType) -> _Cleanup:
    """Return the lines of `finally` and of `except` bodies.

    A `finally` body is compiled twice, once for the normal way out and once as a handler. Both
    have the same lines, and only the handler can be recognised.
    """
    finally_lines: set[int] = set()
    except_lines: set[int] = set()
    table = list(_exception_table(code))
    lines = _lines(code) if table else []
    opcodes = _opcodes()
    for start in {row.target for row in table}:
        if code.co_code[start] != opcodes.push_exc_info:
            continue
        end = next((row.target for row in table if row.is_cleanup and row.start == start), start)
        kind = _handler_kind(code, lines, start, end)
        body = {
            line
            for index in range(start, end, 2)
            if code.co_code[index] not in opcodes.bookkeeping
            and (line := lines[index // 2]) is not None
        }
        if kind == "finally":
            finally_lines |= body
        elif kind == "except":
            except_lines |= body
    return _Cleanup(frozenset(finally_lines), frozenset(except_lines), lines)


def _handler_kind(
    code: CodeType, lines: list[int | None], start: int, end: int
) -> Literal["with", "except", "finally"]:
    opcodes = _opcodes()
    body = [index for index in range(start + 2, end, 2) if code.co_code[index]]
    if not body or code.co_code[body[0]] == opcodes.with_except_start:
        return "with"
    if code.co_code[body[0]] == opcodes.pop_top:
        return "except"
    # The classes of `except A:` are matched on its own line, before anything else happens.
    own_line = lines[body[0] // 2]
    if any(code.co_code[i] in opcodes.matching and lines[i // 2] == own_line for i in body):
        return "except"
    return "finally"


def _lines(code: CodeType) -> list[int | None]:
    lines: list[int | None] = [None] * (len(code.co_code) // 2)
    for start, end, line in code.co_lines():
        lines[start // 2 : end // 2] = [line] * ((end - start) // 2)
    return lines
