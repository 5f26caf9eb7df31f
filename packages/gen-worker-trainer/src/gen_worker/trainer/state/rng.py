"""All random states of a process: Python's, NumPy's, torch's on the processor and on each GPU."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.trainer.state.tree import flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "capture_rng",
    "part_ways",
    "restore_rng",
    "rng_states",
    "seed_everything",
    "set_rng_states",
    "untouched_rng",
]


def rng_states() -> dict[str, Any]:
    """Return copies of the random states of what is imported, as each library gives them."""
    states: dict[str, Any] = {"python": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state(legacy=True)
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_rng_states(states: Mapping[str, Any]) -> None:
    """Put random states back.

    Args:
        states: From `rng_states`.
    """
    random.setstate(states["python"])
    if "numpy" in states:
        import numpy  # type: ignore[import-not-found,unused-ignore]

        numpy.random.set_state(states["numpy"])
    if "torch" in states:
        import torch  # type: ignore[import-not-found,unused-ignore]

        torch.set_rng_state(states["torch"])
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def capture_rng() -> Any:
    """Return the random states of what is imported, as JSON can hold them."""
    states = rng_states()
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        states["numpy"] = [kind, keys.tobytes(), *rest]
    if "torch" in states:
        states["torch"] = _bytes_of(states["torch"])
    if "cuda" in states:
        states["cuda"] = [_bytes_of(one) for one in states["cuda"]]
    return flatten(states, "rng")[1]


def restore_rng(kept: Any) -> None:
    """Put all random states back that were captured.

    Args:
        kept: From `capture_rng`.

    Raises:
        CheckpointError: They are not what was captured.
    """
    states = unflatten(kept, {})
    if "numpy" in states:
        import numpy  # type: ignore[import-not-found,unused-ignore]

        kind, keys, *rest = states["numpy"]
        states["numpy"] = (kind, numpy.frombuffer(keys, numpy.uint32), *rest)
    if "torch" in states:
        import torch  # type: ignore[import-not-found,unused-ignore]

        states["torch"] = _tensor_of(torch, states["torch"])
        states["cuda"] = [_tensor_of(torch, one) for one in states.get("cuda", ())]
    set_rng_states(states)


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


def part_ways(rank: int) -> None:
    """Have this process draw other numbers than those of another rank; rank 0 draws as before.

    What it draws follows from the rank and from what Python would have drawn next: after the same
    seed everywhere, models are made alike, and from here on each rank draws its own.
    """
    if rank:
        from blake3 import blake3

        key = f"{rank}:{random.getrandbits(64)}".encode()
        seed_everything(int.from_bytes(blake3(key).digest(length=8), "little") >> 1)
