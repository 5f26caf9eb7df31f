"""What processes write: cut into blocks, and told in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.cli.platform.lines import Block, Blocks, told

TRACE = b"""Traceback (most recent call last):
  File "a.py", line 1, in f
    g()

ValueError: bad

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in h
KeyError: 'x'
"""


def cut(data: bytes, size: int) -> list[Block]:
    blocks = Blocks()
    found = []
    for start in range(0, len(data), size):
        found += blocks.feed(data[start : start + size])
    return [*found, *blocks.flush()]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_traceback_is_one_block_however_it_arrives(size: int) -> None:
    before, trace, after = cut(b"before\n" + TRACE + b"after\n", size)
    assert (before.lines, after.lines) == (("before",), ("after",))
    assert trace.lines[0].startswith("Traceback")
    assert trace.lines[-1] == "KeyError: 'x'"
    assert "ValueError: bad" in trace.lines


def test_a_traceback_is_held_back_until_its_end_is_known() -> None:
    blocks = Blocks()
    assert blocks.feed(TRACE) == []
    assert blocks.is_open
    assert len(blocks.flush()) == 1
    assert not blocks.is_open


def test_two_tracebacks_are_two_blocks() -> None:
    one = b"Traceback (most recent call last):\n  File\nE: 1\n"
    assert [block.lines[-1] for block in cut(one + b"between\n" + one, 5)] == [
        "E: 1",
        "between",
        "E: 1",
    ]


def test_a_group_of_exceptions_stays_together() -> None:
    group = (
        b"  + Exception Group Traceback (most recent call last):\n"
        b"  |   File\n  | ExceptionGroup: two (2 sub-exceptions)\n"
        b"  +-+---------------- 1 ----------------\n    | ValueError: 1\n"
        b"    +------------------------------------\nnext\n"
    )
    assert [len(block.lines) for block in cut(group, 9)] == [6, 1]


@given(data=st.binary(), size=st.integers(1, 50))
def test_no_line_is_lost_and_none_is_cut_in_two(data: bytes, size: int) -> None:
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    lines = [line for block in cut(data, size) for line in block.lines]
    wanted = [line.rstrip(b"\r").decode("utf-8", "replace") for line in expected]
    assert [line for line in lines if line] == [line for line in wanted if line]


def test_a_line_without_end_is_cut() -> None:
    (first, *_) = Blocks().feed(b"x" * 100_000)
    assert first.lines == ("x" * 16_384,)


PHASE = 'worker.startup.phase {"phase":"%s","status":"%s","pid":1,"cwd":"/","reason":"no room"}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hello", ("hello", "info")),
        (
            "2026-01-31 12:00:00,000 WARNING gen_worker.worker: slow",
            ("slow", "warning"),
        ),
        (
            '{"timestamp":1.0,"level":"error","logger":"x","message":"bad","traceback":"T\\n"}',
            ("bad\nT", "error"),
        ),
        ('{"a":1}', ('{"a":1}', "info")),
        ("{'a':1}", ("{'a':1}", "info")),
        ('{"a":', ('{"a":', "info")),
        (PHASE % ("boot", "ok"), None),
        (PHASE % ("ready", "ok"), ("ready (reason no room)", "info")),
        (PHASE % ("warming", "starting"), ("warming (reason no room)", "info")),
        (PHASE % ("cache_preflight_ok", "error"), ("cache preflight ok (reason no room)", "error")),
        ("worker.startup.phase {broken", ("worker.startup.phase {broken", "info")),
        (
            'worker.fatal {"phase_context":"import","exception_class":"KeyError",'
            '"exception_message":"x","traceback":"Traceback\\n  f","exit_code":1}',
            ("failed at import: KeyError: x\nTraceback\n  f", "critical"),
        ),
        (
            'worker.fatal {"phase_context":"settings_load","exception_class":"SettingsError",'
            '"exception_message":"set WORKER_JWT","traceback":"Traceback\\n  f"}',
            ("failed at settings load: SettingsError: set WORKER_JWT", "critical"),
        ),
        (
            'worker.fatal {"phase_context":"runtime","exception_class":"ListenError",'
            '"exception_message":"give another address","traceback":"Traceback\\n  f"}',
            ("failed at runtime: ListenError: give another address", "critical"),
        ),
    ],
)
def test_lines_are_told_in_words(line: str, words: tuple[str, str] | None) -> None:
    assert told(line) == words


@given(st.text())
def test_whatever_is_written_is_told(line: str) -> None:
    for text in (line, "worker.startup.phase " + line, "worker.fatal " + line, "{" + line + "}"):
        told(text)
