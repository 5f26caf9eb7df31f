"""One lock for each pipeline, held while its hooks change and, by authors, while it runs."""

from __future__ import annotations

import threading
import weakref
from typing import Any

__all__ = ["lock_for_pipeline"]

_guard = threading.Lock()
# By identity: an object's own `__eq__` and `__hash__` are none of our business.
_locks: dict[int, tuple[Any, threading.RLock]] = {}


def lock_for_pipeline(pipeline: Any) -> threading.RLock:
    """Return the pipeline's reentrant lock, the same one for as long as the pipeline lives."""
    with _guard:
        found = _locks.get(id(pipeline))
        return found[1] if found else _keep(pipeline, threading.RLock())


def _keep(pipeline: Any, lock: threading.RLock) -> threading.RLock:
    key = id(pipeline)
    try:
        keeper: Any = weakref.ref(pipeline, lambda _: _locks.pop(key, None))
    except TypeError:  # lives as long as the process, and so does its id
        keeper = pipeline
    _locks[key] = (keeper, lock)
    return lock
