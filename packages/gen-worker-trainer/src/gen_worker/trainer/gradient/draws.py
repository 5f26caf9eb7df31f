"""What a step would change on its way to the gradients, so that it can be done once more alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.trainer.state.rng import rng_states, set_rng_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.trainer.gradient.state import GradientState

__all__ = ["Draws", "Statistics"]

_GENERATORS = (("get_state", "set_state"), ("getstate", "setstate"))


class Draws(NamedTuple):
    """All random states at one moment: those of the process, and generators of the author's own."""

    process: Mapping[str, Any]
    own: Mapping[str, Any]

    @classmethod
    def of(cls, state: GradientState) -> Draws:
        own = {name: getattr(one, give)() for name, one, give, _ in _generators(state)}
        return cls(rng_states(), own)

    def put_back(self, state: GradientState) -> None:
        """Have the same drawn again."""
        set_rng_states(self.process)
        for name, one, _, take in _generators(state):
            getattr(one, take)(self.own[name])


def _generators(state: GradientState) -> Iterator[tuple[str, Any, str, str]]:
    for name, one in state.extra.items():
        for give, take in _GENERATORS:
            if hasattr(one, give) and hasattr(one, take):
                yield name, one, give, take
                break


class Statistics:
    """Running statistics of normalisation layers, which a forward pass changes."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self._buffers = [
            buffer
            for module in modules.values()
            for layer in module.modules()
            if getattr(layer, "track_running_stats", False)
            for buffer in layer.buffers(recurse=False)
        ]
        self._kept: list[Any] = []

    def keep(self) -> None:
        self._kept = [buffer.detach().clone() for buffer in self._buffers]

    def put_back(self) -> None:
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
