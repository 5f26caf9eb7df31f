"""All random states of a process: Python's, NumPy's, torch's on the processor and on each GPU."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.state.tree import flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["capture_rng", "restore_rng", "seed_everything"]


def capture_rng() -> tuple[dict[str, Any], Any]:
    """Return the random states of what is imported, as tensors by name and a JSON skeleton."""
    state: dict[str, Any] = {"python": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state(legacy=True)
        state["numpy"] = [kind, keys.tobytes(), *rest]
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = list(torch.cuda.get_rng_state_all())
    return flatten(state, "rng")


def restore_rng(tensors: Mapping[str, Any], skeleton: Any) -> None:
    """Put all random states back that were captured.

    Raises:
        CheckpointError: They are not what was captured.
    """
    state = unflatten(skeleton, tensors)
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy  # type: ignore[import-not-found,unused-ignore]

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.frombuffer(keys, numpy.uint32), *rest))
    if "torch" in state:
        import torch  # type: ignore[import-not-found,unused-ignore]

        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and torch.cuda.is_available():
            count = torch.cuda.device_count()
            torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"][:count]])


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
