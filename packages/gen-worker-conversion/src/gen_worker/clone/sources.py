"""What importing asks of a site that models come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.clone.planning import SourceFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.clone.planning import SourceIdentity

__all__ = ["Fetched", "Source"]


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose files are here."""

    facts: SourceFacts
    spec: dict[str, str]
    """What the destination is."""
    metadata: dict[str, Any]
    """Of every flavor."""
    layout: dict[str, str]
    digests: Mapping[str, str] = {}
    """Of its files, as the site names them: `<algorithm>:<hex>` by path."""
    card: str = ""
    """Model card in place of the one that it lacks."""
    report: dict[str, Any] = {}
    """For the caller alone."""


class Source(Protocol):
    """One model of a site; blocking."""

    mode: str

    def identity(self) -> SourceIdentity:
        """Return what exactly is imported; none of its weights are read."""
        ...

    def fetch(self, directory: str, watch: Callable[[int, int | None], None]) -> Fetched:
        """Have its files in a directory; `watch` takes the bytes that arrived and their total."""
        ...
