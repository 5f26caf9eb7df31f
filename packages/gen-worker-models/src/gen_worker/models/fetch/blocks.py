"""Which parts of a file are here, which are being fetched, and how far it has been hashed.

A file is cut into blocks. They may arrive in any order; the whole file's digest is computed in
order, so a frontier runs behind them. A mark is what the journal says about a block that an earlier
process wrote: it is believed once the bytes on disk, hashed again, agree.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.models.fetch.digests import Hasher

__all__ = ["BlockMap", "BlockState", "Fragment", "Mark", "Segment"]


class BlockState(IntEnum):
    """What is known of one block."""

    MISSING = 0
    TAKEN = 1
    WRITTEN = 2
    HASHED = 3


class Mark(NamedTuple):
    """One line of the journal."""

    kind: Literal["prefix", "block", "claim"]
    """What `digest` is of: the file up to the block's end, the block alone, or nothing."""
    block: int
    digest: str


class Fragment:
    """The first bytes of a block whose transfer broke off, or is going on."""

    def __init__(self, hasher: Hasher, *, is_prefix: bool) -> None:
        self.hasher = hasher
        self.is_prefix = is_prefix
        """Whether `hasher` has seen the whole file up to here, or this block alone."""
        self.size_bytes = 0


class Segment:
    """A run of blocks that one connection fetches."""

    def __init__(self, index: int, stop: int, generation: int, fragment: Fragment | None) -> None:
        self.index = index
        """The block being fetched."""
        self.stop = stop
        """The first block after the run; another connection may take over the last ones."""
        self.generation = generation
        self.fragment = fragment


class BlockMap:
    """The state of every block. Not thread-safe; does no I/O."""

    def __init__(self, size_bytes: int, block_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes
        self.count = -(-size_bytes // block_bytes)
        self.frontier = 0
        """The first block that is not hashed into the file's digest."""
        self.marks: dict[int, Mark] = {}
        self._states = bytearray(self.count)
        self._first_missing = 0
        self._here = 0
        self._active: list[Segment] = []
        self._fragments: dict[int, Fragment] = {}
        self.generation = 0

    @property
    def is_complete(self) -> bool:
        return self.frontier == self.count

    @property
    def can_advance(self) -> bool:
        """Whether the next block to hash is on disk."""
        return self.frontier < self.count and self._states[self.frontier] == BlockState.WRITTEN

    @property
    def bytes_here(self) -> int:
        parts = sum(part.size_bytes for part in self._fragments.values())
        parts += sum(one.fragment.size_bytes for one in self._active if one.fragment)
        return min(self.size_bytes, self._here * self.block_bytes + parts)

    @property
    def bytes_missing(self) -> int:
        """Bytes that nobody fetches yet, about."""
        active = sum(one.stop - one.index for one in self._active)
        return max(0, self.count - self._here - active) * self.block_bytes

    def start(self, index: int) -> int:
        return index * self.block_bytes

    def length(self, index: int) -> int:
        return min(self.block_bytes, self.size_bytes - index * self.block_bytes)

    def restore(self, marks: Iterable[Mark]) -> None:
        """Believe, until they are hashed again, that these blocks are on disk."""
        for mark in marks:
            if 0 <= mark.block < self.count:
                self.marks[mark.block] = mark
                self._set(mark.block, BlockState.WRITTEN)

    def take(self, max_blocks: int) -> Segment | None:
        """Return the first missing blocks, at most so many; None when none is missing."""
        index = self._states.find(BlockState.MISSING, self._first_missing)
        if index < 0:
            self._first_missing = self.count
            return None
        self._first_missing = index
        stop = index
        while stop < self.count and stop - index < max_blocks and not self._states[stop]:
            self._states[stop] = BlockState.TAKEN
            stop += 1
        segment = Segment(index, stop, self.generation, self._fragments.pop(index, None))
        self._active.append(segment)
        return segment

    def split(self, min_blocks: int) -> Segment | None:
        """Return the last half of the longest run being fetched, if that has enough left."""
        longest = max(self._active, key=lambda one: one.stop - one.index, default=None)
        if longest is None or longest.stop - longest.index - 1 < max(2, min_blocks):
            return None
        middle = (longest.index + 1 + longest.stop + 1) // 2
        segment = Segment(middle, longest.stop, self.generation, None)
        longest.stop = middle
        self._active.append(segment)
        return segment

    def finish_block(self, segment: Segment, *, is_hashed: bool) -> None:
        """Note that the segment's current block is on disk, and go on to its next."""
        self._set(segment.index, BlockState.HASHED if is_hashed else BlockState.WRITTEN)
        if is_hashed:
            self.frontier = segment.index + 1
        segment.index += 1
        segment.fragment = None

    def give_back(self, segment: Segment) -> None:
        """Let others fetch what is left of a segment; the bytes of its open block are kept."""
        if segment.generation != self.generation or segment not in self._active:
            return
        self._active.remove(segment)
        for index in range(segment.index, segment.stop):
            self._set(index, BlockState.MISSING)
        if segment.fragment is not None and segment.fragment.size_bytes:
            self._fragments[segment.index] = segment.fragment

    def advance(self) -> None:
        """The block at the frontier was hashed."""
        self._states[self.frontier] = BlockState.HASHED
        self.marks.pop(self.frontier, None)
        self.frontier += 1

    def reject(self, index: int) -> None:
        """The block's bytes on disk are not those that were journalled: fetch it again."""
        self.marks.pop(index, None)
        self._set(index, BlockState.MISSING)

    def reset(self, keep: Iterable[int] = ()) -> None:
        """Forget everything, except that the blocks `keep` are on disk; segments become void."""
        self._states = bytearray(self.count)
        self._first_missing = self._here = self.frontier = 0
        self.marks.clear()
        self._active.clear()
        self._fragments.clear()
        self.generation += 1
        for index in keep:
            self._set(index, BlockState.WRITTEN)

    def _set(self, index: int, state: BlockState) -> None:
        was_here = self._states[index] >= BlockState.WRITTEN
        self._states[index] = state
        self._here += (state >= BlockState.WRITTEN) - was_here
        if state == BlockState.MISSING:
            self._first_missing = min(self._first_missing, index)
