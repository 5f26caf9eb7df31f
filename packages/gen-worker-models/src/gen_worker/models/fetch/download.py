"""One file being downloaded: its partial, what is known of its blocks, and its digest so far."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from gen_worker.models.fetch.blocks import BlockMap, Fragment, Mark, Segment
from gen_worker.models.fetch.digests import Digest, block_hasher, new_hasher
from gen_worker.models.fetch.disk import read_at, start_writeback, write_at
from gen_worker.models.fetch.errors import disk_errors
from gen_worker.models.fetch.journal import Header, encode_header, encode_mark
from gen_worker.models.fetch.values import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.models.fetch.digests import Hasher
    from gen_worker.models.fetch.partials import Partial

__all__ = ["Download", "SegmentVoidError"]

_WRITEBACK_BYTES = 32 * 1024 * 1024


class SegmentVoidError(Exception):
    """The file was started again, or taken over: this connection's work is of no use any more."""


class Download:
    """The state of one file. Thread-safe: several connections write into it at once.

    Blocks that arrive in order are hashed once, on their way to the disk: the file's digest up to a
    block's end is also what the journal keeps of it. A block that arrives early is hashed by
    itself, and read back once the blocks before it are there.
    """

    def __init__(self, partial: Partial, header: Header, digest: Digest, *, durable: bool) -> None:
        self.partial = partial
        self.size_bytes = header.size_bytes
        self.was_adopted = False
        self.is_lost = False
        """Whether another process, which believed this one dead, took the partial away."""
        self._header = header
        self._digest = digest
        self._durable = durable
        self._map = BlockMap(header.size_bytes, header.block_bytes)
        self._running = self._new_running()
        self._is_advancing = False
        self._lock = threading.Lock()

    def _new_running(self) -> Hasher:
        return new_hasher(self._digest.algorithm, self.size_bytes)

    @property
    def block_bytes(self) -> int:
        return self._map.block_bytes

    @property
    def bytes_here(self) -> int:
        with self._lock:
            return self._map.bytes_here

    @property
    def bytes_missing(self) -> int:
        with self._lock:
            return self._map.bytes_missing

    @property
    def is_advancing(self) -> bool:
        return self._is_advancing

    @property
    def is_complete(self) -> bool:
        """Whether all of it is on disk and hashed."""
        return self._map.is_complete

    @property
    def digest(self) -> Digest:
        """Of all the bytes up to the frontier."""
        return Digest(self._digest.algorithm or "blake3", self._running.hexdigest())

    def restore(self, marks: Sequence[Mark]) -> None:
        """Start from what an earlier process wrote."""
        self.was_adopted = bool(marks)
        self._map.restore(marks)

    # Segments: a connection takes one, writes its blocks in order, and gives it back.

    def take(self, max_bytes: int) -> Segment | None:
        """Return the first missing blocks, at most so many bytes but at least one block."""
        with self._lock:
            return self._map.take(max(1, max_bytes // self._map.block_bytes))

    def split(self, min_bytes: int) -> Segment | None:
        """Take over half of what another connection has before it, if that is enough."""
        with self._lock:
            return self._map.split(min_bytes // self._map.block_bytes)

    def give_back(self, segment: Segment) -> None:
        with self._lock:
            self._map.give_back(segment)

    def position(self, segment: Segment) -> int:
        """Return the offset of the next byte to fetch."""
        done = segment.fragment.size_bytes if segment.fragment else 0
        return self._map.start(segment.index) + done

    def end(self, segment: Segment) -> int:
        """Return the offset after the last byte to fetch."""
        return min(self.size_bytes, self._map.start(segment.stop))

    def room(self, segment: Segment) -> int:
        """Return how many bytes the current block still needs; 0 at the segment's end."""
        if segment.index >= segment.stop:
            return 0
        done = segment.fragment.size_bytes if segment.fragment else 0
        return self._map.length(segment.index) - done

    def write(self, segment: Segment, view: memoryview) -> None:
        """Write the next bytes of a segment's current block, at most `room` of them.

        Raises:
            SegmentVoidError: See there.
            NoSpaceError: The disk is full.
            DiskError: It refuses.
        """
        fragment = segment.fragment or self._begin_block(segment)
        offset = self._map.start(segment.index) + fragment.size_bytes
        with disk_errors(self.partial.path, self.size_bytes):
            write_at(self.partial.fd, view, offset)
        fragment.hasher.update(view)
        fragment.size_bytes += len(view)
        if fragment.size_bytes == self._map.length(segment.index):
            self._end_block(segment, fragment)

    def _begin_block(self, segment: Segment) -> Fragment:
        with self._lock:
            is_next = segment.index == self._map.frontier and not self._is_advancing
            hasher = self._running.copy() if is_next else block_hasher()
            segment.fragment = Fragment(hasher, is_prefix=is_next)
            return segment.fragment

    def _end_block(self, segment: Segment, fragment: Fragment) -> None:
        """Journal a block whose bytes are written."""
        if not self.partial.is_ours:
            self.is_lost = True
            raise SegmentVoidError
        kind: Literal["prefix", "block"] = "prefix" if fragment.is_prefix else "block"
        with self._lock:
            if segment.generation != self._map.generation:
                raise SegmentVoidError
            index = segment.index
            self.partial.append(encode_mark(Mark(kind, index, fragment.hasher.hexdigest())))
            if fragment.is_prefix:
                self._running = fragment.hasher
            self._map.finish_block(segment, is_hashed=fragment.is_prefix)
        self._flush_early(index)

    def _flush_early(self, index: int) -> None:
        """Keep the disk busy, a stretch at a time, so that the flush at the end is short."""
        end = self._map.start(index) + self._map.length(index)
        if self._durable and end % _WRITEBACK_BYTES == 0:
            start_writeback(self.partial.fd, end - _WRITEBACK_BYTES, _WRITEBACK_BYTES)

    # The frontier: hashing what is on disk already.

    def begin_advance(self) -> bool:
        """Return whether there are blocks to hash that nobody is hashing, and reserve them."""
        with self._lock:
            if self._is_advancing or not self._map.can_advance:
                return False
            self._is_advancing = True
            return True

    def advance(self, buffer: memoryview, check: Callable[[], None]) -> None:
        """Hash blocks from the disk up to the first that is missing; after `begin_advance`.

        A block that an earlier process wrote is compared with its mark, and fetched again when it
        differs.

        Args:
            buffer: For reading.
            check: Called for each piece; what it raises ends the hashing.
        """
        try:
            while self._advance_block(buffer, check):
                continue
        finally:
            with self._lock:
                self._is_advancing = False

    def _advance_block(self, buffer: memoryview, check: Callable[[], None]) -> bool:
        with self._lock:
            if not self._map.can_advance:
                return False
            index, generation = self._map.frontier, self._map.generation
            mark, running = self._map.marks.get(index), self._running.copy()
        alone = block_hasher() if mark is not None and mark.kind == "block" else None
        left = self._map.length(index)
        for piece in self._pieces(index, buffer):
            running.update(piece)
            if alone is not None:
                alone.update(piece)
            left -= len(piece)
            check()
        found = (alone or running).hexdigest()
        with self._lock:
            if generation != self._map.generation:
                return False
            is_wrong = mark is not None and mark.kind != "claim" and mark.digest != found
            if left or is_wrong:
                self._map.reject(index)
                return False
            self._running = running
            self._map.advance()
            return True

    def _pieces(self, index: int, buffer: memoryview) -> Iterator[memoryview]:
        """Read a block, a buffer at a time, as far as the file goes."""
        offset, left = self._map.start(index), self._map.length(index)
        while left:
            count = read_at(self.partial.fd, buffer[: min(left, len(buffer))], offset)
            if not count:
                return
            yield buffer[:count]
            offset, left = offset + count, left - count

    # Starting again.

    def restart(self) -> None:
        """Forget all bytes; running segments become void."""
        with self._lock:
            self._reset(())

    def repair(self, hashes: Sequence[str], buffer: memoryview, check: Callable[[], None]) -> bool:
        """Mark the chunks that do not have these BLAKE3 digests as missing.

        Returns:
            Whether some chunk, but not every chunk, is bad; otherwise nothing is changed.
        """
        size = CHUNK_BYTES
        if len(hashes) != -(-self.size_bytes // size):
            return False
        bad = {
            number
            for number in range(len(hashes))
            if hashes[number].removeprefix("blake3:") != self._chunk_digest(number, buffer, check)
        }
        if not bad or len(bad) == len(hashes) > 1:
            return False
        with self._lock:
            self._reset(
                [
                    index
                    for index in range(self._map.count)
                    if bad.isdisjoint(self._chunks_of(index))
                ]
            )
        return True

    def _chunks_of(self, index: int) -> range:
        start = self._map.start(index)
        return range(start // CHUNK_BYTES, -(-(start + self._map.length(index)) // CHUNK_BYTES))

    def _chunk_digest(self, number: int, buffer: memoryview, check: Callable[[], None]) -> str:
        hasher = block_hasher()
        offset, end = number * CHUNK_BYTES, min(self.size_bytes, (number + 1) * CHUNK_BYTES)
        while offset < end:
            count = read_at(self.partial.fd, buffer[: min(len(buffer), end - offset)], offset)
            if not count:
                break
            hasher.update(buffer[:count])
            offset += count
            check()
        return hasher.hexdigest()

    def _reset(self, keep: Sequence[int]) -> None:
        self._map.reset(keep)
        self._running = self._new_running()
        self.partial.clear_journal()
        lines = [encode_header(self._header)]
        lines += [encode_mark(Mark("claim", index, "")) for index in keep]
        self.partial.append(b"".join(lines))

    def leave(self) -> None:
        """Close it so that anyone may go on with it; what nobody could go on with is deleted."""
        is_useless = not self._digest.algorithm or not self.bytes_here
        if self.partial.fd >= 0 and is_useless:
            self.partial.remove()
        else:
            self.partial.leave()
