"""The streamed outputs that wait to be written: fair among requests, bounded, never dropped."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import msgspec

from gen_worker.runtime.wire import StreamDone, StreamError, TokenDelta
from gen_worker.runtime.wire.outputs import merge_deltas

__all__ = ["DeltaQueue", "Gate"]


class Gate(Protocol):
    """What can hold a request's output back: the engine's `RunningCall`."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class DeltaQueue:
    """Deltas of every streaming request, and the marker that ends each of them.

    Requests take turns, one message each. What waits of one request beyond a bound holds its
    handler back until half of it is written.
    """

    def __init__(
        self, *, max_bytes: int, max_total_bytes: int, max_message_bytes: int, merges: bool
    ) -> None:
        """Start empty.

        Args:
            max_bytes: That may wait of one request.
            max_total_bytes: Of all of them.
            max_message_bytes: Of the JSON of one message, when text is merged.
            merges: Whether plain text that waits is written as one message.
        """
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._max_message_bytes = max_message_bytes
        self._merges = merges
        self._outputs: dict[str, _Output] = {}
        self._turns: deque[_Output] = deque()
        self._held_back: set[_Output] = set()
        self._total_bytes = 0

    def __len__(self) -> int:
        return sum(len(output.waiting) for output in self._outputs.values())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._outputs

    def put(self, delta: TokenDelta, gate: Gate) -> None:
        """Take a delta; its sequence is given to it when it is written."""
        output = self._outputs.get(delta.request_id)
        if output is None:
            output = self._outputs[delta.request_id] = _Output(gate)
        size_bytes = _size(delta)
        output.size_bytes += size_bytes
        self._total_bytes += size_bytes
        self._wait(output, delta)
        too_much = output.size_bytes > self._max_bytes or self._total_bytes > self._max_total_bytes
        if too_much and output not in self._held_back:
            self._held_back.add(output)
            gate.pause()

    def end(self, marker: StreamDone | StreamError) -> None:
        """Take the last message of a request."""
        output = self._outputs.setdefault(marker.request_id, _Output(None))
        self._wait(output, marker)

    def next(self) -> TokenDelta | StreamDone | StreamError | None:
        """Return the next message to write; None when nothing waits."""
        if not self._turns:
            return None
        output = self._turns.popleft()
        message = output.waiting[0]
        if isinstance(message, TokenDelta):
            message = self._take_delta(output)
        else:
            output.waiting.popleft()
            del self._outputs[message.request_id]
        if output.waiting:
            self._turns.append(output)
        output.sequence += 1
        self._relieve()
        return msgspec.structs.replace(message, sequence=output.sequence)

    def _wait(self, output: _Output, message: TokenDelta | StreamDone | StreamError) -> None:
        if not output.waiting:
            self._turns.append(output)
        output.waiting.append(message)

    def _take_delta(self, output: _Output) -> TokenDelta:
        """Take what waits of an output, as much as one message may say."""
        limit = self._max_message_bytes if self._merges else 0
        delta, count = merge_deltas(output.waiting, limit)
        for _ in range(count):
            taken = output.waiting.popleft()
            assert isinstance(taken, TokenDelta)
            size_bytes = _size(taken)
            output.size_bytes -= size_bytes
            self._total_bytes -= size_bytes
        return delta

    def _relieve(self) -> None:
        """Let handlers go on that were held back; they may put more at once."""
        if not self._held_back or self._total_bytes > self._max_total_bytes:
            return
        roomy = [output for output in self._held_back if output.size_bytes <= self._max_bytes // 2]
        for output in roomy:
            self._held_back.discard(output)
            if output.gate is not None:
                output.gate.resume()


class _Output:
    """What waits of one request."""

    __slots__ = ("gate", "sequence", "size_bytes", "waiting")

    def __init__(self, gate: Gate | None) -> None:
        self.gate = gate
        self.waiting: deque[TokenDelta | StreamDone | StreamError] = deque()
        self.size_bytes = 0
        self.sequence = 0


def _size(delta: TokenDelta) -> int:
    return len(delta.payload_json) + len(delta.delta_text) + len(delta.audio_chunk) + 64
