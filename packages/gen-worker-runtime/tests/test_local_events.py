"""Telemetry as lines of JSON that never fail or hold up the call."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from gen_worker.events import Emitted, Log, Metric, Progress, Started, Telemetry
from gen_worker.runtime.local import JsonLineEvents


def emitted(payload: Any, *, type: str = "x", request_id: str = "r") -> Emitted:
    return Emitted(request_id=request_id, type=type, payload=payload, at=1.5)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Progress(request_id="r", progress=0.5, at=1.5, stage="s"),
            '{"payload":{"progress":0.5,"stage":"s"},"request_id":"r","timestamp":1.5,'
            '"type":"request.progress"}',
        ),
        (
            Log(request_id="r", message="größer", at=1.5, level="warning"),
            '{"payload":{"level":"warning","message":"größer"},"request_id":"r","timestamp":1.5,'
            '"type":"request.log"}',
        ),
        (
            emitted({"b": 1, "a": {"d": None, "c": [True]}}),
            '{"payload":{"a":{"c":[true],"d":null},"b":1},"request_id":"r","timestamp":1.5,'
            '"type":"x"}',
        ),
        (
            emitted({"ref": "a/b", "provider": "hf"}, type="model_fetch.started", request_id=""),
            '{"kind":"model_fetch.started","provider":"hf","ref":"a/b"}',
        ),
    ],
)
def test_an_event_is_one_line_with_sorted_keys(event: Telemetry, line: str) -> None:
    stream = io.StringIO()
    JsonLineEvents(stream).emit(event)

    assert stream.getvalue() == f"{line}\n"


def test_what_the_author_did_not_report_is_not_printed() -> None:
    stream = io.StringIO()
    events = JsonLineEvents(stream)
    events.emit(Started(request_id="r", function="f", at=1.0))
    events.emit(Metric(request_id="r", name="queue_ms", value=1.0, at=1.0))

    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "payload",
    [
        {"path": Path("/x"), "set": {1}, "number": float("nan")},
        {"bytes": b"x"},
        {("a", 1): 2},
        {None: 1, "a": 2},
        {"text": "\ud800"},
        {"object": object()},
    ],
)
def test_what_json_cannot_say_is_said_somehow(payload: Any) -> None:
    stream = io.StringIO()
    events = JsonLineEvents(stream)
    events.emit(emitted(payload))

    (line,) = stream.getvalue().splitlines()
    assert "type" in json.loads(line)
    assert events.dropped == 0


def test_a_payload_that_contains_itself_is_said_somehow() -> None:
    stream = io.StringIO()
    payload: dict[str, Any] = {}
    payload["self"] = payload
    JsonLineEvents(stream).emit(emitted(payload))

    assert json.loads(stream.getvalue())


def test_a_closed_stream_fails_no_call() -> None:
    stream = io.StringIO()
    events = JsonLineEvents(stream)
    stream.close()
    events.emit(emitted({}))

    assert events.dropped == 1


def test_a_vanished_reader_fails_no_call() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = open(writing, "w", encoding="utf-8")
    events = JsonLineEvents(stream)
    events.emit(emitted({}))

    assert events.dropped == 1
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_lines_of_threads_do_not_mix() -> None:
    stream = io.StringIO()
    events = JsonLineEvents(stream)

    def work(number: int) -> None:
        for index in range(200):
            events.emit(emitted({"n": number, "i": index, "pad": "x" * 50}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = [json.loads(line)["payload"] for line in stream.getvalue().splitlines()]
    assert len(lines) == 800
    for number in range(4):
        assert [line["i"] for line in lines if line["n"] == number] == list(range(200))


class Pipe:
    """A pipe whose reader is behind: it takes nothing until it drains."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.stream: TextIO = open(writing, "w", encoding="utf-8")

    def fill(self) -> None:
        number = self.stream.fileno()
        os.set_blocking(number, False)
        try:
            while True:
                os.write(number, b"." * 4095 + b"\n")
        except BlockingIOError:
            os.set_blocking(number, True)

    def drain(self) -> list[str]:
        text = b""
        try:
            while piece := os.read(self.reading, 65536):
                text += piece
        except BlockingIOError:
            pass
        return text.decode().splitlines()

    def close(self) -> None:
        self.stream.close()
        os.close(self.reading)


@pytest.mark.skipif(os.name == "nt", reason="pipes cannot be watched on Windows")
def test_a_reader_that_is_stuck_costs_events_not_time() -> None:
    pipe = Pipe()
    events = JsonLineEvents(pipe.stream)
    pipe.fill()
    for _ in range(1000):
        events.emit(emitted({}))
    assert events.dropped == 1000

    pipe.drain()
    events.emit(emitted({"n": 1}))
    events.emit(emitted({"n": 2}))
    lines = [json.loads(line) for line in pipe.drain()]
    pipe.close()

    assert lines[0] == {"kind": "events.dropped", "count": 1000}
    assert [line["payload"] for line in lines[1:]] == [{"n": 1}, {"n": 2}]


def test_a_signal_handler_may_emit_in_the_middle_of_a_line() -> None:
    class Interrupted(io.StringIO):
        is_inside = False

        def write(self, text: str) -> int:
            if not self.is_inside:
                self.is_inside = True
                events.emit(emitted({"n": "inner"}))
            return super().write(text)

    stream = Interrupted()
    events = JsonLineEvents(cast("TextIO", stream))
    events.emit(emitted({"n": "outer"}))

    assert [json.loads(line)["payload"]["n"] for line in stream.getvalue().splitlines()] == [
        "inner",
        "outer",
    ]
