"""What every source works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gen_worker.models.fetch.fetcher import Fetcher
    from gen_worker.models.fetch.limits import ConnectionLimit
    from gen_worker.models.net.opener import Opener
    from gen_worker.models.sources.resolutions import Resolutions
    from gen_worker.models.store import ContentStore

__all__ = ["Surroundings"]


class Surroundings(NamedTuple):
    """Shared by the sources of one `Sources`."""

    store: ContentStore
    opener: Opener
    fetcher: Fetcher
    downloads: ConnectionLimit
    """How many models may be downloaded at a time."""
    known: Resolutions
    is_offline: bool
    may_use_last_known: bool
    """Whether a tag may mean what it meant last when its provider is silent."""
