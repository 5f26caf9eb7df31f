"""Which blocks stay on the GPU while the others are streamed: sizes in, placings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Component", "Placing", "plan_prefix"]


class Component(NamedTuple):
    """A component of a pipeline, as the planner sees it; sizes in bytes."""

    name: str
    size: int
    blocks: tuple[int, ...] = ()
    """Its blocks in the order they run; only of components that run once for each step."""
    largest_leaf: int = 0
    can_stream: bool = True
    is_denoiser: bool = False


class Placing(NamedTuple):
    """Where a component's weights are."""

    name: str
    how: Literal["resident", "blocks", "leaves"]
    resident_blocks: int = 0


def plan_prefix(components: Sequence[Component], budget: int) -> tuple[Placing, ...]:
    """Spend a budget of bytes where it saves most transfers.

    Denoisers come first, because each block that stays is saved once for each step: their first
    blocks, so that the first streamed one is fetched while they compute. Two blocks more are
    needed for the one that computes and the one that is being fetched. What is left keeps other
    components whole, the small ones first. What cannot be streamed stays, whatever the budget is.
    """
    placings = {x.name: Placing(x.name, "leaves") for x in components if x.can_stream}
    budget -= sum(x.size for x in components if not x.can_stream)
    streamed = [x for x in components if x.can_stream]
    # Components run one after the other, so the one with the largest leaves counts.
    budget -= 2 * max((x.largest_leaf for x in streamed), default=0)
    for component in (x for x in streamed if x.is_denoiser):
        placing, spent = _place_denoiser(component, budget)
        placings[component.name] = placing
        budget -= spent
    for component in sorted((x for x in streamed if not x.is_denoiser), key=lambda x: x.size):
        if component.size <= budget:
            placings[component.name] = Placing(component.name, "resident")
            budget -= component.size
    return tuple(placings.get(x.name, Placing(x.name, "resident")) for x in components)


def _place_denoiser(component: Component, budget: int) -> tuple[Placing, int]:
    """Return where a denoiser's weights are, and the bytes that takes."""
    if component.size <= budget:
        return Placing(component.name, "resident"), component.size
    rest = component.size - sum(component.blocks)
    count, spent = 0, rest
    best = None
    for count in range(len(component.blocks)):
        in_flight = 2 * max(component.blocks[count:])
        if spent + in_flight <= budget:
            best = (Placing(component.name, "blocks", count), spent + in_flight)
        spent += component.blocks[count]
    return best or (Placing(component.name, "leaves"), 0)
