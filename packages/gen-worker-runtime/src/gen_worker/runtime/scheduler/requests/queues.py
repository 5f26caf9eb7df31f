"""Where a request waits: with those that the same workers can run with the same models."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.runtime.wire.commands import ResolvedModel

__all__ = ["queue_of"]


def queue_of(release_id: str, function: str, models: Mapping[str, ResolvedModel]) -> str:
    """Return the name of a queue, `release/function`, with `~digest` where models were chosen.

    So a request whose caller's model is yet to be loaded holds nobody up who takes the usual one.
    """
    usual = _usual(release_id, function)
    if not models:
        return usual
    chosen = msgspec.json.encode(models, order="sorted")
    return f"{usual}~{hashlib.blake2b(chosen, digest_size=8).hexdigest()}"


@functools.lru_cache(maxsize=4096)
def _usual(release_id: str, function: str) -> str:
    return f"{release_id}/{function}"
