"""The content store of this machine, opened at its first use: starting up must not pay for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen_worker.models.store import ContentStore

__all__ = ["open_store"]


def open_store(root: str | None = None) -> ContentStore:
    """Return the store below `root`; by default where the settings say.

    Args:
        root: Default `TENSORHUB_CAS_DIR`, else `cas` below `TENSORHUB_CACHE_DIR`.
    """
    from gen_worker.models.store import ContentStore

    if root is None:
        from gen_worker.settings import load_settings

        root = load_settings().cas_dir
    return ContentStore(root)
