"""How far a conversion is: what was made, and what of it was sent."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cli.converting import progress as progress_module
from gen_worker.cli.converting.progress import ConversionBar, SendingLines
from gen_worker.cli.hub_progress import TransferBar
from gen_worker.conversion.convert import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock whose `now` a test moves on."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


class Told:
    """What a program reads."""

    def __init__(self, sending: TransferBar | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._bar = ConversionBar(self._take, sending=sending)

    def _take(self, kind: str, facts: dict[str, Any]) -> None:
        assert kind == "convert.progress"
        self.events.append(facts)

    def follow(self, done_bytes: int) -> None:
        made = Progress(flavor="bf16", component="", done_bytes=done_bytes, total_bytes=100)
        self._bar.follow(made)


@pytest.mark.claims("convert.progress")
def test_the_end_is_told_at_once_and_once(clock: SimpleNamespace) -> None:
    told = Told()
    for done_bytes, pause_s in ((10, 0.1), (20, 0.1), (100, 1.0), (100, 1.0)):
        told.follow(done_bytes)
        clock.now += pause_s
    assert [one["done_bytes"] for one in told.events] == [10, 100]
    assert "sent_bytes" not in told.events[-1]


@pytest.mark.claims("convert.progress")
def test_what_was_sent_stands_beside_what_was_made(clock: SimpleNamespace) -> None:
    sending = TransferBar("publish")
    told = Told(sending)
    told.follow(10)
    for ref, sent in (("0/a", 3), ("1/a", 4), ("0/a", 5)):
        sending.sent(
            "request.upload_progress", {"ref": ref, "bytes_uploaded": sent, "bytes_written": 9}
        )
    told.follow(100)
    assert [one["sent_bytes"] for one in told.events] == [0, 9]


@pytest.mark.claims("convert.progress")
def test_a_publication_is_told_once_nothing_else_is(clock: SimpleNamespace) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    lines = SendingLines(TransferBar("publish"), lambda kind, facts: told.append((kind, facts)))
    for ref, is_on, pause_s in (
        ("a", False, 1.0),
        ("b", True, 0.1),
        ("c", True, 0.4),
        ("d", True, 0),
    ):
        lines.is_on = is_on
        lines.follow(
            "request.upload_progress", {"ref": ref, "bytes_uploaded": 2, "bytes_written": 2}
        )
        clock.now += pause_s
    assert told == [
        ("convert.sending", {"sent_bytes": 4}),
        ("convert.sending", {"sent_bytes": 8}),
    ]


class Screen:
    """What stands on a person's terminal."""

    stages: list[str]

    def __init__(self) -> None:
        type(self).stages = []

    @contextmanager
    def showing(self, _label: str) -> Iterator[None]:
        yield

    def emit(self, event: Any) -> None:
        self.stages.append(event.stage)


@pytest.mark.claims("convert.terminal")
def test_a_person_sees_what_was_sent(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.time = lambda: clock.now
    monkeypatch.setattr("os.isatty", lambda _descriptor: True)
    monkeypatch.setattr("gen_worker.cli.terminal.TerminalReports", Screen)
    sending = TransferBar("publish")
    bar = ConversionBar(None, sending=sending)
    sending.sent("request.upload_progress", {"ref": "a", "bytes_uploaded": 4, "bytes_written": 4})
    with bar.showing():
        bar.follow(Progress(flavor="bf16", component="unet", done_bytes=9, total_bytes=100))
    assert Screen.stages == ["bf16/unet 9 B of 100 B, 0 B/s; 4 B sent"]
