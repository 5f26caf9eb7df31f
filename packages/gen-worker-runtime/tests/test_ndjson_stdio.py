"""Frames on standard input are answered on standard output, whatever the two are."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.runtime.ndjson.stdio import attach_stdio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Running, Serve, Stage

TIMEOUT_S = 60.0


class Console:
    """A server's standard streams; `ended` is set with what `on_end` was told."""

    def __init__(self, server: Running, stdin: int, stdout: int) -> None:
        self.ended = threading.Event()
        self.error: OSError | None = None
        server.on_loop(lambda: attach_stdio(server.server, self._end, stdin=stdin, stdout=stdout))

    def _end(self, error: OSError | None) -> None:
        self.error = error
        self.ended.set()


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """Return stdin's read and write ends, then stdout's."""
    ends = (*os.pipe(), *os.pipe())
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def decoded(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line, type=dict[str, Any]) for line in data.splitlines()]


def test_frames_are_answered_in_order_until_the_input_ends(serve: Serve, tmp_path: Path) -> None:
    frames = [
        {"function": "echo", "payload": {"count": i}, "request_id": f"r{i}"} for i in range(200)
    ]
    source, sink = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"\n".join(map(msgspec.json.encode, frames)))  # the last line has no end
    with open(source, "rb") as stdin, open(sink, "wb") as stdout:
        console = Console(serve(token="not asked for here"), stdin.fileno(), stdout.fileno())
        assert console.ended.wait(TIMEOUT_S)
    answers = decoded(sink.read_bytes())
    assert [a["request_id"] for a in answers] == [f"r{i}" for i in range(200)]
    assert all(answer["ok"] for answer in answers)
    assert console.error is None


def test_bad_lines_are_answered_and_the_next_one_read(
    serve: Serve, pipes: tuple[int, int, int, int]
) -> None:
    stdin, typed, shown, stdout = pipes
    console = Console(serve(max_frame_bytes=100), stdin, stdout)
    os.write(typed, b"x" * 1000 + b"\nnonsense\n\n" + b'{"function":"echo"}\n')
    os.close(typed)
    assert console.ended.wait(TIMEOUT_S)
    long, bad, good = decoded(os.read(shown, 65536))
    assert "more than 100 bytes" in long["error"]["message"]
    assert "not one JSON object" in bad["error"]["message"]
    assert good["ok"]


def test_a_cancel_frame_reaches_the_running_request(
    serve: Serve, stage: Stage, pipes: tuple[int, int, int, int]
) -> None:
    stdin, typed, shown, stdout = pipes
    console = Console(serve(), stdin, stdout)
    os.write(typed, b'{"function":"hold","request_id":"r"}\n')
    stage.expect("holding")
    os.write(typed, b'{"cancel":{"request_id":"r"}}\n')
    os.close(typed)
    assert console.ended.wait(TIMEOUT_S)
    assert [line["ok"] for line in decoded(os.read(shown, 65536))] == [True, False]


def test_a_stalled_reader_stalls_nobody_else(
    serve: Serve, pipes: tuple[int, int, int, int]
) -> None:
    stdin, typed, shown, stdout = pipes
    server = serve()
    console = Console(server, stdin, stdout)
    os.write(typed, b'{"function":"count","payload":{"count":100000},"stream":true}\n')
    os.read(shown, 1)  # it has begun, and nobody reads on
    assert server.ask("echo")[0]["ok"]
    os.close(typed)
    data = [b"{"]
    while not data[-1].endswith(b'"done":true}\n'):
        data.append(os.read(shown, 65536))
    assert console.ended.wait(TIMEOUT_S)
    assert len(decoded(b"".join(data))) == 100_002


def test_a_reader_that_leaves_ends_it(serve: Serve, pipes: tuple[int, int, int, int]) -> None:
    stdin, typed, shown, stdout = pipes
    console = Console(serve(), stdin, stdout)
    os.close(shown)
    os.write(typed, b'{"function":"count","payload":{"count":1000000000},"stream":true}\n')
    assert console.ended.wait(TIMEOUT_S)
    assert isinstance(console.error, BrokenPipeError)


def test_descriptors_somebody_made_nonblocking_will_do(
    serve: Serve, pipes: tuple[int, int, int, int]
) -> None:
    stdin, typed, shown, stdout = pipes
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    console = Console(serve(), stdin, stdout)
    os.write(typed, b'{"function":"count","payload":{"count":20000},"stream":true}\n')
    data = [b""]
    while not data[-1].endswith(b'"done":true}\n'):
        data.append(os.read(shown, 65536))
    os.close(typed)
    assert console.ended.wait(TIMEOUT_S)
    assert len(decoded(b"".join(data))) == 20_002
