"""All random states of a process: Python's, NumPy's, torch's on the processor and on each GPU."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.state.tree import flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["capture_rng", "restore_rng", "seed_everything", "untouched_rng"]


def capture_rng() -> Any:
    """Return the random states of what is imported, as JSON can hold them."""
    state: dict[str, Any] = {"python": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state(legacy=True)
        state["numpy"] = [kind, keys.tobytes(), *rest]
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = _bytes_of(torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = [_bytes_of(one) for one in torch.cuda.get_rng_state_all()]
    return flatten(state, "rng")[1]


def restore_rng(kept: Any) -> None:
    """Put all random states back that were captured.

    Args:
        kept: From `capture_rng`.

    Raises:
        CheckpointError: They are not what was captured.
    """
    state = unflatten(kept, {})
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy  # type: ignore[import-not-found,unused-ignore]

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.frombuffer(keys, numpy.uint32), *rest))
    if "torch" in state:
        import torch  # type: ignore[import-not-found,unused-ignore]

        torch.set_rng_state(_tensor_of(torch, state["torch"]))
        if "cuda" in state and torch.cuda.is_available():
            count = torch.cuda.device_count()
            states = [_tensor_of(torch, one) for one in state["cuda"][:count]]
            torch.cuda.set_rng_state_all(states)


@contextmanager
def untouched_rng() -> Iterator[Any]:
    """Give all random states, and have them again afterwards, whatever is drawn in between."""
    kept = capture_rng()
    try:
        yield kept
    finally:
        restore_rng(kept)


def _bytes_of(state: Any) -> bytes:
    return bytes(state.tolist())


def _tensor_of(torch: Any, state: bytes) -> Any:
    return torch.frombuffer(bytearray(state), dtype=torch.uint8).clone()  # aligned


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, as far as they are installed, on the processor and all GPUs."""
    random.seed(seed)
    try:
        import numpy  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        numpy.random.seed(seed % 2**32)
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return
    torch.manual_seed(seed)  # of all devices
