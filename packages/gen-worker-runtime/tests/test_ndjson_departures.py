"""Requests end when they are canceled, when their client leaves and when the server stops."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime import EngineLimits

if TYPE_CHECKING:
    from conftest import Running, Serve, Stage

pytestmark = pytest.mark.parametrize("new_loop", ["uvloop", "asyncio"], indirect=True)


def cancel(server: Running, request_id: str) -> dict[str, Any]:
    (answer,) = server.talk().send({"cancel": {"request_id": request_id}}).lines()
    return answer


# -- cancel frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "said", "last"), [("hold", "holding", "caller"), ("block", "blocking", "caller")]
)
def test_a_running_request_is_canceled_from_any_connection(
    serve: Serve, stage: Stage, function: str, said: str, last: str
) -> None:
    server = serve()
    talk = server.talk().send({"function": function, "request_id": "r"})
    stage.expect(said)
    assert cancel(server, "r") == {"ok": True, "canceled": True, "request_id": "r"}
    (answer,) = talk.lines()
    assert (answer["ok"], answer["error"]["kind"]) == (False, "canceled")
    assert answer["error"]["exit_code"] == 130
    stage.expect(last)
    assert cancel(server, "r")["canceled"] is False, "it is gone"


def test_a_request_that_waits_for_a_thread_is_canceled(serve: Serve, stage: Stage) -> None:
    server = serve(engine=EngineLimits(max_threads=1))
    first = server.talk().send({"function": "gate", "request_id": "first"})
    stage.expect("at the gate")
    second = server.talk().send({"function": "gate", "request_id": "second"})
    while not cancel(server, "second")["canceled"]:
        pass  # its frame may still be on the way
    assert second.lines()[0]["error"]["kind"] == "canceled"
    stage.go.set()
    assert first.lines()[0]["ok"]
    assert stage.said.empty(), "the second never began"


def test_a_request_that_waits_for_its_turn_is_canceled(serve: Serve, stage: Stage) -> None:
    server = serve()
    talk = server.talk()
    for name in ("first", "second", "third"):
        talk.send({"function": "gate", "request_id": name, "keep_alive": True})
    stage.expect("at the gate")
    assert talk.send({"cancel": {"request_id": "second"}}).line()["canceled"], "answered at once"
    assert cancel(server, "second")["canceled"] is False, "only once"
    stage.go.set()
    answers = [talk.line() for _ in range(3)]
    assert [answer["request_id"] for answer in answers] == ["first", "second", "third"]
    assert [answer["ok"] for answer in answers] == [True, False, True]
    stage.expect("at the gate")
    assert stage.said.empty()


def test_a_stream_that_nobody_reads_is_canceled(serve: Serve) -> None:
    server = serve(write_buffer_bytes=1024)
    talk = server.talk()
    talk.send({"function": "count", "payload": {"count": 10**9}, "request_id": "r", "stream": True})
    assert talk.line()["value"]["count"] == 0
    assert cancel(server, "r")["canceled"]
    assert talk.lines()[-1]["error"]["kind"] == "canceled"


def test_a_deadline_cancels_with_an_exit_code_of_its_own(serve: Serve, stage: Stage) -> None:
    (answer,) = serve().ask("hold", timeout_ms=1)
    assert (answer["error"]["kind"], answer["error"]["exit_code"]) == ("canceled", 1)
    assert answer["error"]["message"] == "deadline exceeded"


# -- clients that leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(
    serve: Serve, stage: Stage, tcp: bool, stream: bool
) -> None:
    frame = {"function": "hold", "request_id": "r", "stream": stream, "keep_alive": True}
    talk = serve(tcp=tcp).talk().send(frame)
    stage.expect("holding")
    talk.close()
    stage.expect("disconnect")


def test_a_client_that_leaves_takes_the_frames_it_sent_ahead(serve: Serve, stage: Stage) -> None:
    server = serve(max_waiting_frames=2)
    frame = {"function": "hold", "keep_alive": True}
    talk = server.talk().send(*({**frame, "request_id": f"r{i}"} for i in range(9)))
    stage.expect("holding")
    talk.close()  # reading has paused: nothing but a look at the socket tells
    stage.expect("disconnect")
    server.stop()
    assert stage.said.empty()


def test_closing_the_sending_side_is_not_leaving(serve: Serve, stage: Stage) -> None:
    server = serve()
    talk = server.talk().send({"function": "gate"}).end_input()
    stage.expect("at the gate")
    stage.go.set()
    assert talk.lines()[0]["ok"]


def test_a_client_may_leave_after_it_closed_its_sending_side(serve: Serve, stage: Stage) -> None:
    talk = serve().talk().send({"function": "hold"}).end_input()
    stage.expect("holding")
    talk.close()
    stage.expect("disconnect")


def test_on_tcp_the_end_of_input_counts_only_for_kept_connections(
    serve: Serve, stage: Stage
) -> None:
    server = serve(tcp=True)
    server.talk().send({"function": "hold", "keep_alive": True}).end_input()
    stage.expect("holding", "disconnect")
    talk = server.talk().send({"function": "gate"}).end_input()
    stage.expect("at the gate")
    stage.go.set()
    assert talk.lines()[0]["ok"]


def test_a_connection_that_is_reset_cancels(serve: Serve, stage: Stage) -> None:
    talk = serve(tcp=True).talk().send({"function": "hold"})
    stage.expect("holding")
    talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()
    stage.expect("disconnect")


def test_a_detached_request_goes_on_without_its_client(serve: Serve, stage: Stage) -> None:
    server = serve()
    talk = server.talk().send({"function": "gate", "request_id": "r"})
    stage.expect("at the gate")
    (answer,) = server.talk().send({"detach": {"request_id": "r"}}).lines()
    assert answer == {"ok": True, "detached": True, "request_id": "r"}
    talk.close()
    while server.server._connections:
        server.ask("echo")
    (answer,) = server.talk().send({"detach": {"request_id": "r"}}).lines()
    assert answer["detached"], "it is still there"
    assert cancel(server, "r")["canceled"], "and may be canceled"


def test_a_detached_stream_runs_to_its_end(serve: Serve, stage: Stage) -> None:
    server = serve(write_buffer_bytes=1024)
    talk = server.talk()
    frame = {"function": "count", "payload": {"count": 50_000}, "stream": True}
    talk.send({**frame, "request_id": "r"})
    assert talk.line()["value"]["count"] == 0
    server.talk().send({"detach": {"request_id": "r"}}).lines()
    talk.close()
    while server.engine.statistics().completed < 1:
        server.talk().send({"cancel": {"request_id": "nobody"}}).lines()
    assert server.engine.statistics().canceled == 0


# -- the server stops ------------------------------------------------------------------------------


def test_a_stopping_server_cancels_and_answers_everything(serve: Serve, stage: Stage) -> None:
    server = serve()
    whole = server.talk().send({"function": "hold", "payload": {"text": "a"}})
    stage.expect("holding a")
    stream = server.talk().send({"function": "count", "payload": {"count": 10**9}, "stream": True})
    first = stream.line()
    ahead = server.talk()
    frame = {"function": "hold", "payload": {"text": "b"}, "keep_alive": True}
    ahead.send(frame, {**frame, "request_id": "waits"})
    stage.expect("holding b")
    idle = server.talk().send({"function": "echo", "keep_alive": True})
    assert idle.line()["ok"]
    server.begin_stop()
    assert idle.lines() == []
    for talk in (whole, stream, ahead):
        lines = talk.lines()
        assert lines[-1]["error"]["kind"] == "canceled"
        if talk is stream:
            counts = [line["value"]["count"] for line in [first, *lines[:-1]]]
            assert counts == list(range(len(counts))), "nothing is lost on the way out"
        if talk is ahead:
            assert [line.get("request_id") for line in lines] == [None, "waits"]


def test_a_large_answer_is_sent_before_the_server_is_gone(serve: Serve) -> None:
    server = serve()
    text = "x" * 5_000_000
    talk = server.talk()
    talk.send({"function": "echo", "payload": {"text": text}, "keep_alive": True})
    while server.engine.statistics().completed < 1:
        server.talk().send({"cancel": {"request_id": "nobody"}}).lines()
    server.begin_stop()
    (answer,) = talk.lines()
    assert answer["events"][0]["value"]["text"] == text


def test_who_comes_too_late_is_told(serve: Serve, stage: Stage) -> None:
    server = serve()
    talk = server.talk()
    talk.send({"function": "gate", "request_id": "r", "keep_alive": True})
    stage.expect("at the gate")
    server.begin_stop()
    while not server.server.is_closing:
        pass
    talk.send({"function": "echo", "keep_alive": True})
    (connection,) = server.server._connections
    while not connection._turns:  # read, and waiting behind the first
        pass
    stage.go.set()
    lines = talk.lines()
    assert len(lines) == 2, lines
    _first, second = lines
    assert second["error"]["message"] == "the server is stopping"


def test_the_idle_clock_stands_while_a_request_runs_or_waits(serve: Serve, stage: Stage) -> None:
    server = serve()
    talk = server.talk().send({"function": "gate"})
    stage.expect("at the gate")
    assert server.server.idle_s == 0.0
    stage.go.set()
    assert talk.lines()[0]["ok"]
    assert server.server.idle_s > 0.0
