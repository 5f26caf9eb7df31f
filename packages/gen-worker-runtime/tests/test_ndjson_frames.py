"""Frames decode strictly, and every malformed line is a `ValueError` that says why."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import (
    CanceledError,
    DeadlineExceededError,
    DuplicateRequestError,
    ModelResolutionError,
    OverloadedError,
    UnknownFunctionError,
    ValidationError,
    classify,
)
from gen_worker.events import Delta, Emitted, Result, Started, Timings
from gen_worker.runtime.ndjson import frames


def test_a_request_keeps_its_payload_as_written() -> None:
    frame = frames.decode_frame(
        b'{"function":"f","payload":{"a": 1},"request_id":"r","stream":true}'
    )
    assert frame.function == "f"
    assert bytes(frame.payload) == b'{"a": 1}'
    assert (frame.request_id, frame.stream, frame.keep_alive) == ("r", True, False)


def test_a_cancel_names_its_request() -> None:
    frame = frames.decode_frame(b'{"cancel":{"request_id":"r"}}')
    assert frame.cancel is not None
    assert frame.cancel.request_id == "r"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", "not one JSON object"),
        (b"{", "not one JSON object"),
        (b'{"function":"f"} {}', "not one JSON object"),
        (b"[]", "bad frame"),
        (b"{}", "give `function`"),
        (b'{"function":7}', "bad frame"),
        (b'{"function":"f","stream":"yes"}', "bad frame"),
        (b'{"cancel":{}}', "bad frame"),
        (b'{"function":"f","timeout_ms":-1}', "timeout_ms"),
        (b'{"function":"f","timeout_ms":1e30}', "timeout_ms"),
        (b'{"function":"\xff"}', "UTF-8|not one JSON"),
        (b'{"function":"f","payload":' + b"[" * 5000, "nested|not one JSON"),
    ],
)
def test_malformed_lines_are_refused(line: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        frames.decode_frame(line)


@given(st.binary())
def test_any_bytes_decode_or_are_refused(line: bytes) -> None:
    try:
        frame = frames.decode_frame(line)
    except ValueError:
        return
    assert frame.function or frame.cancel or frame.detach


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def yielded(value: bytes) -> Delta:
    return Delta(request_id="call", value=msgspec.Raw(value), sequence=1)


def result(value: bytes) -> Result:
    return Result(request_id="call", value=msgspec.Raw(value), timings=Timings())


@given(json_values, st.none() | st.text())
def test_every_line_is_one_json_object_on_one_line(value: object, request_id: str | None) -> None:
    raw = json.dumps(value, indent=1).encode()  # as an author may have written it
    lines = [
        frames.event_lines([yielded(raw)], request_id),
        frames.answer_line([frames.event_items([result(raw)], request_id)], request_id),
        frames.result_line(result(raw), request_id),
        frames.done_line(request_id),
        frames.error_line(classify(ValueError("no\nway \udcff")), request_id),
    ]
    for line in lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert json.loads(line).get("request_id") == request_id
        assert ("request_id" in json.loads(line)) == (request_id is not None)
    assert json.loads(lines[0])["value"] == value
    assert json.loads(lines[1])["events"][0]["value"] == value
    assert lines[1] == lines[2]


def test_an_answer_is_as_version_1_writes_it() -> None:
    one = frames.event_items([yielded(b"1"), yielded(b"2")], "r")
    two = frames.event_items([result(b'{"yielded":2}')], "r")
    assert frames.answer_line([one, two], "r") == (
        b'{"ok":true,"events":['
        b'{"event":"yield","value":1,"request_id":"r"},'
        b'{"event":"yield","value":2,"request_id":"r"},'
        b'{"event":"result","value":{"yielded":2},"request_id":"r"}],"request_id":"r"}\n'
    )
    assert frames.done_line(None) == b'{"ok":true,"done":true}\n'
    assert frames.canceled_line("r", canceled=False) == (
        b'{"ok":true,"canceled":false,"request_id":"r"}\n'
    )


def test_what_json_cannot_say_is_shown_as_python_does() -> None:
    event = Emitted(request_id="r", type="t", payload={"file": "\udcff"}, at=1.0)
    shown = json.loads(frames.event_lines([event], None))["value"]
    assert "udcff" in shown["payload"]["text"]
    assert (shown["request_id"], shown["type"]) == ("r", "t")


def test_what_is_no_ones_business_is_not_shown() -> None:
    assert frames.event_lines([Started(request_id="r", function="f", at=1.0)], None) == b""


@pytest.mark.parametrize(
    ("error", "origin", "kind"),
    [
        (ValidationError("x"), "input", "usage"),
        (ValidationError("x"), "handler", "user_exception"),
        (KeyError("x"), "handler", "user_exception"),
        (UnknownFunctionError("x"), "input", "not_found"),
        (ModelResolutionError("x"), "input", "model_resolution"),
        (CanceledError(), "handler", "canceled"),
        (DeadlineExceededError(), "handler", "canceled"),
        (OverloadedError(), "input", "overloaded"),
        (DuplicateRequestError(), "input", "usage"),
    ],
)
def test_error_kinds(error: Exception, origin: str, kind: str) -> None:
    assert frames.error_kind(classify(error, origin=origin)) == kind  # type: ignore[arg-type]
