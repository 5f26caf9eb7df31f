"""Makes the next batches in a thread while one is trained on."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ahead"]

T = TypeVar("T")
_LOOK_S = 0.1


class _Over:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Yield the items of a generator, of which up to `count` are made before they are asked for.

    Args:
        items: Run in a thread of its own; closed there when this ends.
        count: 0 runs it here.
    """
    if count <= 0:
        yield from items
        return
    made: queue.Queue[T | _Over] = queue.Queue(count)
    is_wanted = threading.Event()
    is_wanted.set()
    thread = threading.Thread(
        target=_make, args=(items, made, is_wanted), name="gen-worker-readahead", daemon=True
    )
    thread.start()
    try:
        while not isinstance(item := made.get(), _Over):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_wanted.clear()
        thread.join()


def _make(items: Iterator[T], made: queue.Queue[T | _Over], is_wanted: threading.Event) -> None:
    over = _Over()
    try:
        for item in items:
            if not _put(item, made, is_wanted):
                break
    except BaseException as error:  # raised where the batch is asked for
        over = _Over(error)
    finally:
        close = getattr(items, "close", None)
        if callable(close):
            close()
    _put(over, made, is_wanted)


def _put(item: T | _Over, made: queue.Queue[T | _Over], is_wanted: threading.Event) -> bool:
    """Wait for room; False when nobody wants it any more."""
    while is_wanted.is_set():
        try:
            made.put(item, timeout=_LOOK_S)
        except queue.Full:
            continue
        return True
    return False
