"""Has torch compute the same from the same, at the cost of its faster ways."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["deterministic"]

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic() -> Iterator[None]:
    """Use only deterministic algorithms of torch; one that has none raises. As before afterwards.

    Without torch nothing is done. What cuBLAS needs is in the environment, and counts for a process
    that has not used CUDA yet.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        yield
        return
    workspace = os.environ.get(_WORKSPACE)
    os.environ[_WORKSPACE] = workspace or ":4096:8"
    was_on = torch.are_deterministic_algorithms_enabled()
    was_lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    tunes = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_lenient)
        torch.backends.cudnn.benchmark = tunes
        if workspace is None:
            del os.environ[_WORKSPACE]
