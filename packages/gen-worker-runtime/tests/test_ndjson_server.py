"""The protocol, byte by byte, against a real server on a real socket."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Serve, Stage

MIB = 1024 * 1024

pytestmark = pytest.mark.parametrize("new_loop", ["uvloop", "asyncio"], indirect=True)


def test_version_1_answers_one_frame_and_closes(serve: Serve) -> None:
    talk = serve().talk().send(b'{"function":"echo","payload":{"text":"a"}}\n{"function":"echo"}\n')
    assert talk.file.read() == (
        b'{"ok":true,"events":[{"event":"result","value":{"text":"a","count":1}}]}\n'
    )


def test_a_stream_is_a_line_per_value(serve: Serve) -> None:
    frame = b'{"request_id":"r1","function":"count","payload":{"count":1},"stream":true}\n'
    assert serve().talk().send(frame).file.read() == (
        b'{"event":"yield","value":{"text":"","count":0},"request_id":"r1"}\n'
        b'{"event":"result","value":{"yielded":1},"request_id":"r1"}\n'
        b'{"ok":true,"done":true,"request_id":"r1"}\n'
    )


@pytest.mark.parametrize("function", ["count", "count_async"])
def test_values_arrive_in_order_and_none_is_lost(serve: Serve, function: str) -> None:
    *values, result, done = serve().ask(function, {"count": 5000}, stream=True)
    assert [line["value"]["count"] for line in values] == list(range(5000))
    assert (result["value"], done) == ({"yielded": 5000}, {"ok": True, "done": True})


def test_a_stream_not_asked_for_is_collected(serve: Serve) -> None:
    (answer,) = serve().ask("count", {"count": 3})
    values = [event["value"] for event in answer["events"]]
    assert [value.get("count") for value in values] == [0, 1, 2, None]
    assert values[-1] == {"yielded": 3}


def test_a_collected_answer_is_bounded(serve: Serve) -> None:
    server = serve(max_answer_bytes=1000)
    (answer,) = server.ask("count", {"count": 10**9})
    assert answer["error"]["kind"] == "usage"
    assert "ask for it with `stream`" in answer["error"]["message"]


@pytest.mark.parametrize("payload", [None, {}])
def test_a_payload_may_be_missing_or_null(serve: Serve, payload: object) -> None:
    server = serve()
    assert server.ask("echo", payload)[0]["ok"]
    assert server.talk().send({"function": "echo"}).lines()[0]["ok"]


def test_the_request_id_is_the_callers_or_our_own(serve: Serve) -> None:
    server = serve()
    (answer,) = server.ask("whoami", request_id="mine")
    assert answer["request_id"] == answer["events"][0]["value"]["text"] == "mine"
    (answer,) = server.ask("whoami")
    assert "request_id" not in answer
    assert answer["events"][0]["value"]["text"].startswith("local-")


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        (b"nonsense\n", "usage", "not one JSON object"),
        (b'{"function":"f"', "usage", "truncated"),
        (b'{"function":"\xff"}\n', "usage", "UTF-8|not one JSON"),
        (b'{"function":"echo","payload":' + b"[" * 100_000 + b"\n", "usage", "nested|not one JSON"),
        (b'{"function":"echo","payload":[1]}\n', "usage", "Expected `object`"),
        (b'{"function":"echo","payload":{"text":1}}\n', "usage", r"\$\.text"),
        (b'{"function":"echo","payload":{"text":"\xff"}}\n', "usage", "utf-8|UTF-8"),
        (b'{"function":"nope"}\n', "not_found", "echo"),
    ],
)
def test_bad_input_is_a_typed_error(serve: Serve, frame: bytes, kind: str, text: str) -> None:
    server = serve()
    (answer,) = server.talk().send(frame).end_input().lines()
    assert answer["error"]["kind"] == kind
    assert re.search(text, answer["error"]["message"])
    assert server.ask("echo")[0]["ok"], "the server goes on"


def test_errors_carry_what_every_transport_reports(serve: Serve) -> None:
    (answer,) = serve().ask("echo", {"count": "x"}, request_id="r")
    error = answer["error"]
    assert (error["error_type"], error["path"], error["exit_code"]) == ("validation", "$.count", 2)
    assert answer["request_id"] == "r"


def test_what_a_handler_raises(serve: Serve) -> None:
    server = serve()
    (answer,) = server.ask("fail", {"text": "secret"})
    assert answer["error"] == {
        "kind": "user_exception",
        "message": "internal error",
        "error_type": "internal",
        "exit_code": 1,
    }
    assert "RuntimeError: secret" in server.failures[0].detail
    (answer,) = server.ask("fail", {"text": "secret"}, traceback=True)
    assert answer["error"]["traceback"].endswith("RuntimeError: secret\n")


def test_a_message_that_is_no_text_is_sent_all_the_same(serve: Serve) -> None:
    (answer,) = serve().ask("refuse")
    assert answer["error"]["message"] == "no \\udcff here"


def test_an_empty_line_is_no_frame(serve: Serve) -> None:
    assert serve().talk().send(b"\n  \r\n", {"function": "echo"}).lines()[0]["ok"]


def test_a_frame_may_come_in_pieces(serve: Serve) -> None:
    talk = serve().talk()
    for piece in (b'{"func', b'tion":"echo",', b'"payload":{"text":"\xc3', b'\xa9"}}\n'):
        talk.send(piece)
    assert talk.lines()[0]["events"][0]["value"]["text"] == "é"


def test_context_events_come_between_the_values(serve: Serve) -> None:
    lines = serve().ask("chatter", request_id="r", stream=True, events=True)
    assert [line.get("event") for line in lines[:-1]] == [
        "context",
        "yield",
        "context",
        "context",
        "result",
    ]
    log, progress, strange = [line["value"] for line in lines if line.get("event") == "context"]
    assert log["payload"] == {"level": "info", "message": "hello"}
    assert (strange["type"], strange["request_id"]) == ("strange", "r")
    assert sorted(progress) == ["payload", "request_id", "timestamp", "type"]
    assert progress["payload"] == {"progress": 0.5, "stage": "half"}
    (answer,) = serve().ask("chatter", events=True)
    assert len(answer["events"]) == 5
    assert len(serve().ask("chatter", stream=True)) == 3


# -- several frames on one connection --------------------------------------------------------------


def test_keep_alive_keeps_the_connection(serve: Serve) -> None:
    talk = serve().talk()
    for index in range(3):
        frame = {"function": "echo", "payload": {"count": index}, "keep_alive": True}
        assert talk.send(frame).line()["events"][0]["value"]["count"] == index
    assert talk.send({"function": "echo"}).lines()[0]["ok"], "the last one closes it"


def test_frames_sent_ahead_are_answered_in_order(serve: Serve) -> None:
    talk = serve(max_waiting_frames=4).talk()
    ahead: list[dict[str, object] | bytes] = [
        {"function": "echo_async" if i % 2 else "echo", "payload": {"count": i}, "keep_alive": True}
        for i in range(50)
    ]
    ahead[7] = b"nonsense\n"
    ahead.append({"function": "echo", "payload": {"count": 50}})
    answers = talk.send(*ahead, {"function": "echo"}).lines()
    counts = [a["events"][0]["value"]["count"] if a["ok"] else None for a in answers]
    assert counts == [*range(7), None, *range(8, 51)], "and nothing after the frame that closes"


def test_one_id_may_be_used_again_at_once(serve: Serve) -> None:
    frame = {"function": "echo", "request_id": "r", "keep_alive": True}
    talk = serve().talk()
    for _ in range(20):
        assert talk.send(frame).line()["ok"]
        assert talk.send(frame, {**frame, "request_id": "s"}).line()["ok"]
        assert talk.line()["ok"]


def test_an_id_that_is_running_is_refused(serve: Serve, stage: Stage) -> None:
    server = serve()
    first = server.talk().send({"function": "gate", "request_id": "r"})
    stage.expect("at the gate")
    (answer,) = server.ask("echo", request_id="r")
    assert answer["error"]["kind"] == "usage"
    assert "already running" in answer["error"]["message"]
    stage.go.set()
    assert first.lines()[0]["ok"], "the first goes on undisturbed"


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2 * MIB, 20 * MIB])
def test_large_payloads_and_answers_go_through(serve: Serve, size: int) -> None:
    text = "x" * size
    talk = serve().talk()
    sender = threading.Thread(
        target=talk.send, args=({"function": "echo", "payload": {"text": text}},)
    )
    sender.start()
    (answer,) = talk.lines()
    sender.join()
    assert answer["events"][0]["value"]["text"] == text


def test_a_frame_over_the_limit_is_answered_while_it_is_sent(serve: Serve) -> None:
    server = serve(max_frame_bytes=MIB)
    talk = server.talk()
    for _ in range(100):
        talk.send(b"x" * MIB)
    talk.send(b"\n")
    assert talk.line()["error"]["message"] == f"the frame has more than {MIB} bytes"
    assert server.ask("echo")[0]["ok"]


def test_a_long_line_costs_a_kept_connection_only_itself(serve: Serve) -> None:
    talk = serve(max_frame_bytes=100).talk()
    assert talk.send({"function": "echo", "keep_alive": True}).line()["ok"]
    talk.send(b"x" * 1000, b"y" * 1000, b"\n", {"function": "echo"})
    long, ok = talk.lines()
    assert "more than 100 bytes" in long["error"]["message"]
    assert ok["ok"]


def test_a_client_has_to_say_something_in_time(serve: Serve) -> None:
    server = serve(frame_timeout_s=0.3)
    (answer,) = server.talk().send(b'{"function":').lines()
    assert "no complete frame within 0.3 s" in answer["error"]["message"]
    with server.stalled():  # what it says is there once it is accepted
        talk = server.talk().send({"function": "echo", "keep_alive": True})
    assert talk.line()["ok"]
    server.talk().lines()  # as long as a connection without a frame lives
    assert talk.send({"function": "echo"}).line()["ok"], "a kept connection may be silent"


# -- who may --------------------------------------------------------------------------------------


def test_every_frame_needs_the_token(serve: Serve) -> None:
    server = serve(tcp=True, token="s3cret")
    for token in ("", "s3cre", "s3crets", "é"):
        (answer,) = server.ask("echo", token=token, keep_alive=True)
        assert answer["error"]["kind"] == "auth"
    (answer,) = server.talk().send({"cancel": {"request_id": "r"}}).lines()
    assert answer["error"]["kind"] == "auth"
    assert server.ask("echo", token="s3cret")[0]["ok"]


# -- many -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
def test_64_clients_at_once_never_try_again(serve: Serve, tcp: bool) -> None:
    server = serve(tcp=tcp)
    frames = [{"function": "echo", "payload": {"count": i}} for i in range(64)]
    with server.stalled():
        talks = [server.talk().send(frame) for frame in frames]
    assert [talk.lines()[0]["events"][0]["value"]["count"] for talk in talks] == list(range(64))


def test_nothing_stays_behind(serve: Serve) -> None:
    server = serve()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        assert server.ask("echo")[0]["ok"]
    server.talk().send({"function": "echo", "keep_alive": True}).line()  # and stays
    server.stop()
    assert len(os.listdir("/proc/self/fd")) <= before
