"""Numbers in a trainer's state that JSON has no word for, such as a best loss of infinity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.trainer.metrics import nonfinite_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["NONFINITE", "nonfinite_in", "put_back"]

NONFINITE = "nonfinite"
"""Under which a checkpoint's `runtime` has them; in its `state` they are null."""


def nonfinite_in(state: Mapping[str, Any]) -> list[list[Any]]:
    """Return the keys that lead to each, and its word: `nan`, `inf`, or `-inf`."""
    return [[list(keys), word] for keys, word in _found(state, ())]


def put_back(state: dict[str, Any], found: Sequence[Sequence[Any]]) -> None:
    """Have a state that was read from JSON hold them again, where it has null in their places."""
    for keys, word in found:
        place: Any = state
        *outer, last = keys
        for key in outer:
            place = place[key]
        if place[last] is None:
            place[last] = float(word)


def _found(value: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, float):
        if word := nonfinite_word(value):
            yield keys, word
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _found(one, (*keys, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, one in enumerate(value):
            yield from _found(one, (*keys, index))
