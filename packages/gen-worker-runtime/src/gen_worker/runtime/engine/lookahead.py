"""Where an exception appears that is thrown at a waiting thread.

A thread waits for the GIL where it checks for interrupts. CPython 3.11 and 3.12 look for a thrown
exception after the wait, so it appears right there. 3.13 and later have looked before it: the
exception appears at the next check, which may be a `lock.acquire()` or the `__exit__` of a block.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["APPEARS_LATER", "LEAVES", "UNKNOWN", "closes_block", "next_checks"]

APPEARS_LATER = sys.version_info >= (3, 13)

LEAVES = -1
"""Instead of an offset: the next check is in the calling frame."""
UNKNOWN = -2
"""Instead of an offset: in a generator that is resumed, or wherever an exception is caught."""

_CHECKING = frozenset({"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"})
_LEAVING = frozenset({"RETURN_VALUE", "RETURN_CONST", "RETURN_GENERATOR", "YIELD_VALUE"})
_RAISING = frozenset({"RAISE_VARARGS", "RERAISE"})
# What the interpreter turns a loop over a generator into, after the first few rounds.
_RESUMING = ("FOR_ITER_GEN", "SEND_GEN")
_ALWAYS_JUMPING = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})


class _Step(NamedTuple):
    """One instruction, as far as it matters here."""

    name: str
    following: int | None
    """Offset of the instruction behind it; None for the last."""
    target: int | None
    """Where it may jump to."""
    is_none: bool
    """Whether it loads None."""


@lru_cache(maxsize=1024)
def _steps(code: CodeType) -> dict[int, _Step]:
    import dis

    steps: dict[int, _Step] = {}
    jumping = {*dis.hasjrel, *dis.hasjabs}
    instructions = list(dis.get_instructions(code))
    for index, this in enumerate(instructions):
        following = instructions[index + 1].offset if index + 1 < len(instructions) else None
        target = this.argval if this.opcode in jumping else None
        is_none = this.opname == "LOAD_CONST" and this.argval is None
        steps[this.offset] = _Step(this.opname, following, target, is_none)
    return steps


def _step_at(code: CodeType, at: int) -> int:
    """Return the instruction an offset belongs to; inside a call it is that of a cache entry."""
    return max((offset for offset in _steps(code) if offset <= at), default=0)


@lru_cache(maxsize=1)
def _resuming() -> frozenset[int]:
    import opcode

    numbers: dict[str, int] = getattr(opcode, "_specialized_opmap", {})
    return frozenset(numbers[name] for name in _RESUMING if name in numbers)


def next_checks(code: CodeType, at: int) -> frozenset[int]:
    """Return where the first check behind an instruction may be; also `LEAVES` or `UNKNOWN`."""
    steps, running = _steps(code), getattr(code, "_co_code_adaptive", code.co_code)
    found: set[int] = set()
    seen: set[int] = set()
    ahead = _successors(steps, _step_at(code, at))
    while ahead:
        offset = ahead.pop()
        if offset in seen:
            continue
        seen.add(offset)
        step = steps.get(offset)
        if step is None or step.name in _RAISING or running[offset] in _resuming():
            found.add(UNKNOWN)
        elif step.name in _LEAVING:
            found.add(LEAVES)
        elif step.name in _CHECKING:
            found.add(offset)
        else:
            ahead += _successors(steps, offset)
    return frozenset(found)


def _successors(steps: dict[int, _Step], offset: int) -> list[int]:
    step = steps[offset]
    if step.name in _RAISING:
        return [UNKNOWN]
    following = [] if step.name in _ALWAYS_JUMPING or step.following is None else [step.following]
    return following if step.target is None else [*following, step.target]


@lru_cache(maxsize=4096)
def closes_block(code: CodeType, at: int) -> bool:
    """Tell whether the instruction calls the `__exit__` of a `with` block, on the normal way out.

    An exception that appears when a Python `__exit__` is entered keeps it from ever running.
    """
    steps = _steps(code)
    offsets = [offset for offset in steps if offset < at]
    is_call = steps[_step_at(code, at)].name == "CALL"
    return is_call and len(offsets) >= 3 and all(steps[offset].is_none for offset in offsets[-3:])
