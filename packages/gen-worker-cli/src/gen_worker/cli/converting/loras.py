"""LoRAs on the command line: `PATH[:SCALE]`, where PATH may be a ref, too."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from gen_worker.cli.converting.places import held_source
from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.hub_progress import TransferBar
    from gen_worker.conversion.convert import MergedLora

__all__ = ["held_loras", "scaled_path"]


def scaled_path(text: str) -> tuple[str, float]:
    """Return path and scale; without one, or where the whole is a path that exists, 1.

    Raises:
        UsageError: The scale is no number that can be worked with.
    """
    path, colon, scale = text.rpartition(":")
    if not colon or os.path.exists(os.path.expanduser(text)):
        return text, 1.0
    try:
        number = float(scale)
    except ValueError:
        if not os.path.exists(os.path.expanduser(path)):
            return text, 1.0  # the tag of a ref
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--lora {text!r}: {scale!r} is no scale: give a number such as 0.8")
    return path, number


@contextmanager
def held_loras(
    words: Sequence[str], *, is_offline: bool, bar: TransferBar, token: CancelToken
) -> Iterator[tuple[MergedLora, ...]]:
    """Yield LoRAs that are here; those that are named by refs are fetched, and stay meanwhile.

    Raises:
        UsageError: One is neither here nor a ref.
        ModelResolutionError: One cannot be had.
    """
    from gen_worker.conversion.convert import MergedLora

    with ExitStack() as stack:
        found = []
        for word in words:
            path, scale = scaled_path(word)
            held = held_source(path, is_offline=is_offline, bar=bar, token=token)
            found.append(MergedLora(path=stack.enter_context(held).path, scale=scale))
        yield tuple(found)
