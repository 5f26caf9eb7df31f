"""A file that a handler writes piece by piece, and what its followers are told meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from gen_worker.cancel import shield
from gen_worker.context.outputs import check_size

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from gen_worker.context.call import CallContext
    from gen_worker.ports import OutputStream
    from gen_worker.types import Asset, Tensors

__all__ = ["OutputWriter"]

Stored = TypeVar("Stored", bound="Asset | Tensors")

_REPORT_INTERVAL_S = 0.2  # between two `request.upload_progress` events of one file

Stage = Literal["stream_write", "stream_upload", "stream_finalized", "stream_aborted"]


class OutputWriter(Generic[Stored]):
    """An output being written: `with ctx.open_output_stream("video.mp4") as out: out.write(…)`.

    Leaving the block stores the file; leaving it with an exception discards it.
    """

    def __init__(self, context: CallContext, stream: OutputStream, ref: str) -> None:
        self.ref = ref
        self._context = context
        self._stream = stream
        self._stored: Stored | None = None
        self._state: Literal["open", "stored", "discarded"] = "open"
        self._started_at = context._clock()
        self._ended_at: float | None = None
        self._chunks_written = 0
        self._reported_at = float("-inf")
        self._reported_bytes = 0
        # A host may want fewer reports; the port does not ask for it.
        self._interval_s = getattr(stream, "report_interval_s", _REPORT_INTERVAL_S)

    def __repr__(self) -> str:
        return f"<OutputWriter {self.ref!r} {self._state} {self.bytes_written} bytes>"

    @property
    def bytes_written(self) -> int:
        return self._stream.bytes_written

    @property
    def bytes_uploaded(self) -> int:
        return self._stream.bytes_uploaded

    @property
    def stream_mode(self) -> str:
        """How the host moves the bytes, such as `presigned` or `local_fallback`."""
        return self._stream.stream_mode

    @property
    def elapsed_s(self) -> float:
        """Seconds from opening until now, or until the file was stored or discarded."""
        end = self._context._clock() if self._ended_at is None else self._ended_at
        return max(0.0, end - self._started_at)

    @property
    def average_upload_bps(self) -> float:
        """Bytes per second; 0 until time has passed."""
        return self.bytes_uploaded / self.elapsed_s if self.elapsed_s else 0.0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to the file and return the number of bytes taken.

        Raises:
            CanceledError: The call was canceled.
            OutputTooLargeError: The file would exceed `MAX_OUTPUT_BYTES`.
            RuntimeError: The file is stored or discarded already.
        """
        self._check_open("write to")
        self._context.raise_if_canceled()
        check_size(self.bytes_written + memoryview(data).nbytes)
        with shield():
            taken = self._stream.write(data)
        self._chunks_written += 1
        self._report("stream_write")
        return taken

    def flush(self) -> None:
        """Hand what is buffered to the host."""
        self._check_open("flush")
        with shield():
            self._stream.flush()
        self._report("stream_upload")

    def finalize(self) -> Stored:
        """Store the file and return its record; calling it again returns the same record.

        Raises:
            RuntimeError: The file was discarded.
        """
        if self._state == "stored":
            return cast("Stored", self._stored)
        self._check_open("finalize")
        begun_at = self._context._clock()
        self._state = "discarded"  # unless it is stored below: a failed stream cleans up by itself
        with shield():
            try:
                self._stored = cast("Stored", self._stream.finalize())
            except BaseException as error:
                self._end("stream_aborted", error_class=type(error).__name__)
                raise
        self._state = "stored"
        spent_s = max(0.0, self._context._clock() - begun_at)
        self._end("stream_finalized", finalize_elapsed_s=round(spent_s, 6))
        return self._stored

    def close(self) -> None:
        """Discard the file, unless it is stored already."""
        self._discard(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard(kind.__name__)
        elif self._state == "open":
            self.finalize()

    def _discard(self, error_class: str | None) -> None:
        if self._state != "open":
            return
        self._state = "discarded"
        with shield():
            self._stream.abort()
        self._end("stream_aborted", error_class=error_class)

    def _check_open(self, verb: str) -> None:
        if self._state != "open":
            raise RuntimeError(f"cannot {verb} output {self.ref!r}: it is {self._state} already")

    def _end(self, stage: Stage, **facts: Any) -> None:
        self._ended_at = self._context._clock()
        self._report(stage, is_last=True, **facts)

    def _report(self, stage: Stage, *, is_last: bool = False, **facts: Any) -> None:
        now = self._context._clock()
        since_s = now - self._reported_at
        if not is_last and 0 <= since_s < self._interval_s:
            return
        fresh_bytes = self.bytes_uploaded - self._reported_bytes
        self._reported_at, self._reported_bytes = now, self.bytes_uploaded
        payload = {
            "stage": stage,
            "ref": self.ref,
            "stream_mode": self.stream_mode,
            "bytes_written": self.bytes_written,
            "bytes_uploaded": self.bytes_uploaded,
            "chunks_written": self._chunks_written,
            # Hosts that send in parts count them; the port does not ask for it.
            "chunks_uploaded": getattr(self._stream, "chunks_uploaded", 0),
            "upload_bps": round(self.average_upload_bps, 1),
            "inst_upload_bps": round(fresh_bytes / since_s, 1) if since_s > 0 else 0.0,
            "elapsed_s": round(self.elapsed_s, 6),
        }
        payload.update((name, fact) for name, fact in facts.items() if fact is not None)
        self._context.emit("request.upload_progress", payload)
