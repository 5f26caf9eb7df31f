"""Slow readers hold their own requests back; nothing grows beyond a bound, nothing is lost."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from gen_worker.runtime.engine.streams import BufferedStream

if TYPE_CHECKING:
    from conftest import Running, Serve

KIB = 1024


def stalled(server: Running) -> int:
    """Wait until the one call is held back; return how many values it has produced."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (request,) = server.server.requests.values()
        call, connection = request._call, request._connection
        stream = None if call is None else call.stream
        if connection._is_paused and isinstance(stream, BufferedStream) and stream.is_full:
            assert call is not None
            return int(call.sequence)
        time.sleep(0.001)
    raise AssertionError("the call was never held back")


def test_a_reader_that_stalls_stops_the_function(serve: Serve) -> None:
    server = serve(write_buffer_bytes=16 * KIB)
    talk = server.talk()
    text = "x" * KIB
    talk.send({"function": "count", "payload": {"count": 20_000, "text": text}, "stream": True})
    assert talk.line()["value"]["count"] == 0
    produced = stalled(server)
    # What the system's buffers and ours hold: far from all, and the same for ever.
    assert 100 < produced < 4_000
    lines = talk.lines()
    assert [line["value"]["count"] for line in lines[:-2]] == list(range(1, 20_000))
    assert lines[-1] == {"ok": True, "done": True}


def test_a_stalled_reader_stalls_nobody_else(serve: Serve) -> None:
    server = serve(write_buffer_bytes=KIB)
    slow = server.talk()
    text = "x" * KIB
    slow.send(
        {"function": "count_async", "payload": {"count": 10**9, "text": text}, "stream": True}
    )
    assert slow.line()["value"]["count"] == 0
    stalled(server)
    assert server.ask("echo_async")[0]["ok"]
    assert server.ask("echo")[0]["ok"]
    slow.close()


def test_acknowledgements_nobody_reads_do_not_pile_up(serve: Serve) -> None:
    server = serve(write_buffer_bytes=4 * KIB)
    talk = server.talk()
    talk.socket.settimeout(0.3)
    frame = b'{"cancel":{"request_id":"nobody"},"keep_alive":true}\n' * 1000
    sent = 0
    try:
        while sent < 100_000_000:
            sent += talk.socket.send(frame)
    except TimeoutError:
        pass
    assert sent < 10_000_000, "the server went on reading"
    (connection,) = server.server._connections
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() < 512 * KIB
    talk.close()


def test_answers_nobody_reads_hold_the_next_request_back(serve: Serve) -> None:
    server = serve(write_buffer_bytes=4 * KIB)
    talk = server.talk()
    text = "x" * 100_000
    frames = [
        {"function": "echo", "payload": {"text": text, "count": i}, "keep_alive": True}
        for i in range(60)
    ]
    sender = threading.Thread(target=talk.send, args=frames)
    sender.start()
    counts = [talk.line()["events"][0]["value"]["count"] for _ in frames]
    sender.join()
    assert counts == list(range(60))
