"""What is shown of the processes' lines, and what is kept of them."""

from __future__ import annotations

import io
import os
import re
import threading
from typing import TYPE_CHECKING

from gen_worker.cli.platform import logbook
from gen_worker.cli.platform.lines import Block
from gen_worker.cli.platform.logbook import Logbook, Screen, painted
from gen_worker.cli.platform.reading import Tail

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_lines_stand_behind_the_name_of_their_process() -> None:
    assert painted("hub", "gen-worker hub: ready", 9, False) == "hub       | ready\n"
    assert painted("a", "x ERROR", 1, False) == "a | x ERROR\n"
    logged = "2026-01-31 12:00:00,000 ERROR gen_worker.worker: bad"
    assert painted("a", logged, 1, False) == "a | error: bad\n"
    assert painted("a", 'worker.startup.phase {"phase":"boot","status":"ok"}', 1, False) == ""


def test_colours_change_nothing_else() -> None:
    for line in ("hello", "2026-01-31 12:00:00,000 ERROR gen_worker.worker: bad"):
        coloured = painted("a", line, 3, True)
        assert "\x1b[" in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == painted("a", line, 3, False)


def test_every_line_is_kept_with_its_time(tmp_path: Path) -> None:
    shown = io.StringIO()
    screen = Screen(shown, is_coloured=False)
    book = Logbook(str(tmp_path / "logs"), screen)
    book.write("hub", Block(("one", "two")))
    book.write("hub", Block(("three",)))
    book.close()
    screen.close()
    kept = (tmp_path / "logs" / "hub.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in kept] == ["one", "two", "three"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in kept)
    assert shown.getvalue() == "hub       | one\nhub       | two\nhub       | three\n"


def test_a_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logbook, "_MAX_FILE_BYTES", 1000)
    screen = Screen(io.StringIO(), is_coloured=False)
    book = Logbook(str(tmp_path), screen)
    for number in range(200):
        book.write("hub", Block((f"{number}",)))
    book.close()
    screen.close()
    assert sorted(os.listdir(tmp_path)) == ["hub.log", "hub.log.1"]
    assert all((tmp_path / name).stat().st_size < 1100 for name in os.listdir(tmp_path))
    assert (tmp_path / "hub.log").read_text().endswith(" 199\n")


def test_nothing_is_missed_when_a_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "_MAX_FILE_BYTES", 1000)
    screen = Screen(io.StringIO(), is_coloured=False)
    tail, seen = Tail(str(tmp_path / "hub.log")), b""
    for start in range(3):  # each of another `gen-worker up`
        book = Logbook(str(tmp_path), screen)
        for number in range(100):
            book.write("hub", Block((f"{start}.{number}",)))
            if number % 7 == 0:
                seen += tail.read()
        book.close()
    seen += tail.read()
    tail.close()
    screen.close()
    words = [line.split()[1] for line in seen.decode().splitlines()]
    assert words == [f"{start}.{number}" for start in range(3) for number in range(100)]


def test_half_a_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hub.log"
    tail = Tail(str(path))
    assert tail.read() == b""
    path.write_bytes(b"one\ntw")
    assert tail.read() == b"one\n"
    with path.open("ab") as file:
        file.write(b"o\n")
    assert tail.read() == b"two\n"
    tail.close()


class Stalled(io.StringIO):
    """A terminal that shows nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.is_asked = threading.Event()

    def write(self, text: str) -> int:
        self.is_asked.set()
        self.goes_on.wait(60)
        return super().write(text)


def test_a_terminal_that_stalls_holds_nobody_up() -> None:
    stream = Stalled()
    screen = Screen(stream, is_coloured=False)
    screen.show("first\n")
    assert stream.is_asked.wait(60)
    for number in range(2_500):
        screen.show(f"{number}\n")
    stream.goes_on.set()
    screen.close(60)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["first", "0"]
    assert len(lines) == 2_001


def test_a_terminal_that_has_gone_harms_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(Gone(), is_coloured=False)
    screen.show("first\n")
    screen.show("second\n")
    screen.close(60)


def test_a_file_that_cannot_be_put_aside_loses_lines_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logbook, "_MAX_FILE_BYTES", 100)
    (tmp_path / "hub.log.1").mkdir()
    shown = io.StringIO()
    screen = Screen(shown, is_coloured=False)
    book = Logbook(str(tmp_path), screen)
    for number in range(20):
        book.write("hub", Block((f"{number}",)))
    book.close()
    screen.close()
    assert len(shown.getvalue().splitlines()) == 20
