"""Read files into the memory of a GPU, through page-locked buffers and one stream per thread."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gen_worker.errors import ResourceError
from gen_worker.models.reader.memory import HostMemory
from gen_worker.models.reader.plan import BLOCK_BYTES, Block, Run, blocks_of, device_runs, host_runs
from gen_worker.models.reader.pump import Feed, pump

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.formats import TensorInfo
    from gen_worker.models.reader.hashing import FileHash
    from gen_worker.models.reader.source_files import SourceFile

__all__ = ["CudaLane", "Delivered", "Lane", "Ring", "Slot", "deliver", "process_ring"]

_SLOTS = 16
"""Two for each of eight threads: one is read into while the other is copied from."""
_WAIT_S = 0.05


class Slot:
    """A page-locked buffer, and the copies that were last made from it."""

    def __init__(self, memory: HostMemory) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]

        self.memory = memory
        self.tensor: Any = torch.frombuffer(memory, dtype=torch.uint8)
        self.wait: Callable[[], None] | None = None
        """Blocks until the copies are done."""


class Ring:
    """Buffers that readings take in turn; their number bounds what is under way."""

    def __init__(self, slots: int, slot_bytes: int, *, page_lock: bool = True) -> None:
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for _ in range(slots):
            memory = HostMemory(slot_bytes)
            if page_lock:
                memory.page_lock()
            self._free.put(Slot(memory))

    def acquire(self, feed: Feed) -> Slot | None:
        """Return a buffer that nothing reads from any more; None when waiting is in vain."""
        while not feed.is_over():
            try:
                slot = self._free.get(timeout=_WAIT_S)
            except Empty:
                continue
            wait, slot.wait = slot.wait, None
            if wait is not None:
                wait()
            return slot
        return None

    def release(self, slot: Slot) -> None:
        self._free.put(slot)


_ring: Ring | None = None
_ring_lock = threading.Lock()


def process_ring() -> Ring:
    """Return the one ring of this process: page-locking costs half a second per GiB."""
    global _ring
    with _ring_lock:
        if _ring is None:
            _ring = _new_ring()
        return _ring


def _new_ring() -> Ring:
    try:
        return Ring(_SLOTS, BLOCK_BYTES)
    except ResourceError as error:
        import logging

        logging.getLogger(__name__).warning("loading will take longer: %s", error)
        return Ring(_SLOTS, BLOCK_BYTES, page_lock=False)


class Lane(Protocol):
    """One thread's way to a device. Made, used and left in that thread."""

    def __enter__(self) -> Lane: ...

    def __exit__(self, *exc: object) -> None:
        """Wait until all copies are done."""

    def copy(self, destination: Any, source: Any) -> None:
        """Begin to copy bytes."""

    def mark(self) -> Callable[[], None]:
        """Return what blocks until the copies so far are done."""


class CudaLane:
    """A stream of its own on a CUDA device."""

    def __init__(self, device: Any, after: Any) -> None:
        """Wait on the device for `after`, the stream that the destination was allocated on."""
        import torch

        cuda: Any = torch.cuda
        self._stack = contextlib.ExitStack()
        self._stream = cuda.Stream(device=device)
        # The allocator hands out memory that earlier work of that stream may still use.
        self._stream.wait_stream(after)

    def __enter__(self) -> CudaLane:
        import torch

        self._stack.enter_context(torch.cuda.stream(self._stream))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        self._stream.synchronize()

    def copy(self, destination: Any, source: Any) -> None:
        destination.copy_(source, non_blocking=True)

    def mark(self) -> Callable[[], None]:
        import torch

        cuda: Any = torch.cuda
        event = cuda.Event(blocking=True)  # the cores are needed for reading
        event.record(self._stream)
        wait: Callable[[], None] = event.synchronize
        return wait


class Delivered(NamedTuple):
    """Memory of a device that holds the wanted bytes of a file."""

    memory: Any
    runs: Sequence[Run]


def deliver(
    sources: Sequence[SourceFile],
    wanted: Sequence[Mapping[str, TensorInfo]],
    hashes: Sequence[FileHash | None],
    *,
    allocate: Callable[[int], Any],
    lane: Callable[[], Lane],
    ring: Ring,
    threads: int,
    progress: Callable[[int], None],
    token: CancelToken | None,
) -> list[Delivered]:
    """Read files into memory of a device.

    Args:
        sources: The files.
        wanted: Of each, the tensors.
        hashes: Of each, its hash when it is asked for; the file is then read as a whole.
        allocate: Returns so many bytes of the device as a tensor.
        lane: Returns a new lane to it.
        ring: Buffers on the way.
        threads: How many read and copy.
        progress: Told the bytes of each block.
        token: Ends it between two blocks.
    """
    delivered: list[Delivered] = []
    blocks: list[Block] = []
    for file, (source, tensors) in enumerate(zip(sources, wanted, strict=True)):
        runs = device_runs(tensors, source.header)
        delivered.append(Delivered(allocate(runs[-1].place(runs[-1].end) if runs else 0), runs))
        whole = hashes[file] is not None
        blocks += blocks_of(file, host_runs(tensors, source.header, whole=whole))
    transit = _Transit(sources, delivered, hashes, ring)

    def work(feed: Feed) -> None:
        with lane() as way:
            transit.carry(feed, way)

    def finished(block: Block) -> None:
        progress(block.end - block.start)
        transit.finish(block)

    try:
        pump(blocks, work, finished, threads=min(threads, len(blocks)), token=token)
    finally:
        transit.abandon()
    return delivered


class _Transit:
    """Blocks on their way: each is in a buffer until its copy is under way and it is hashed."""

    def __init__(
        self,
        sources: Sequence[SourceFile],
        delivered: Sequence[Delivered],
        hashes: Sequence[FileHash | None],
        ring: Ring,
    ) -> None:
        self._sources = sources
        self._delivered = delivered
        self._hashes = hashes
        self._ring = ring
        self._slots: dict[Block, Slot] = {}

    def carry(self, feed: Feed, way: Lane) -> None:
        """Read blocks and begin to copy them, until there are no more."""
        while (slot := self._ring.acquire(feed)) is not None:
            # The buffer first: whoever has the earliest block can always go on.
            block = feed.take()
            if block is None:
                self._ring.release(slot)
                return
            self._slots[block] = slot
            with self._content(block) as buffer:
                self._sources[block.file].read(buffer, block.start)
            _copy(way, slot, block, self._delivered[block.file])
            slot.wait = way.mark()
            feed.put(block)

    def _content(self, block: Block) -> memoryview:
        return memoryview(self._slots[block].memory)[: block.end - block.start]

    def finish(self, block: Block) -> None:
        """Hash a block where that is asked for, and give its buffer back."""
        hash_ = self._hashes[block.file]
        if hash_ is None:
            self._release(block)
            return
        data = self._content(block)

        def release() -> None:
            data.release()
            self._release(block)

        hash_.add(block.start, data, release)

    def _release(self, block: Block) -> None:
        self._ring.release(self._slots.pop(block))

    def abandon(self) -> None:
        """Give the buffers back of blocks that were never finished."""
        for block in list(self._slots):
            self._release(block)


def _copy(way: Lane, slot: Slot, block: Block, into: Delivered) -> None:
    """Begin to copy what is wanted of a block; mostly one piece."""
    for run in into.runs:
        start, end = max(run.start, block.start), min(run.end, block.end)
        if start < end:
            source = slot.tensor[start - block.start : end - block.start]
            place = run.place(start)
            way.copy(into.memory[place : place + end - start], source)
