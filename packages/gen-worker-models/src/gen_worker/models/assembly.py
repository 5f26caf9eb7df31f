"""Puts the model library of this machine together, from the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.models.library import ModelLibrary
from gen_worker.models.settings import load_model_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.models.library import Describe
    from gen_worker.models.residency import TierChange
    from gen_worker.models.settings import ModelSettings
    from gen_worker.models.store import ContentStore, LocalModelCache
    from gen_worker.ports import ModelRequest

__all__ = [
    "open_library",
    "open_local_copies",
    "open_store",
]


def open_store(root: str | None = None, settings: ModelSettings | None = None) -> ContentStore:
    """Open the content store of this machine.

    Args:
        root: Its directory; default `TENSORHUB_CAS_DIR`, else `cas` below `TENSORHUB_CACHE_DIR`.
        settings: By default those of the environment.
    """
    from gen_worker.models.store.content_store import GIB, ContentStore
    from gen_worker.settings import load_settings

    settings = settings or load_model_settings()
    budget = int(settings.cache_gb * GIB)
    return ContentStore(root or load_settings().cas_dir, budget_bytes=budget)


def open_local_copies(settings: ModelSettings | None = None) -> LocalModelCache:
    """Open what keeps copies of models that are on NFS, from the settings."""
    from gen_worker.models.store import LocalModelCache

    settings = settings or load_model_settings()
    return LocalModelCache(settings.local_copy_dir, settings.local_copy_gb)


def open_library(
    *,
    root: str | None = None,
    is_offline: bool = False,
    may_resolve: bool | None = True,
    tell: Callable[[str, dict[str, Any]], None] | None = None,
    observe: Callable[[TierChange], None] | None = None,
    on_step: Callable[[ModelRequest, int, int], None] | None = None,
    on_tokens: Callable[[ModelRequest, int], None] | None = None,
    describe: Describe | None = None,
) -> ModelLibrary:
    """Put together the model library of this process, from the settings.

    Args:
        root: Directory of the content store; see `open_store`.
        is_offline: Whether the network is out of bounds.
        may_resolve: Whether the hub may be asked what a ref means that no job described; None: as
            the settings say, which is for workers that are given jobs.
        tell: Takes events that belong to no request.
        observe: Told of each model that came to another tier.
        on_step: Told of the steps done and their total while a call's pipeline computes.
        on_tokens: Told how many tokens a call's model generated, at the end of each `generate`.
        describe: Says what a model means to whoever asks for it; see `ModelLibrary`.
    """
    from gen_worker.models.residency import Budgets, Residency
    from gen_worker.models.sources import open_sources

    settings = load_model_settings()
    sources = open_sources(
        open_store(root, settings), settings, may_resolve=may_resolve, is_offline=is_offline
    )
    return ModelLibrary(
        sources,
        Residency(Budgets.of(settings), observe=observe),
        copies=open_local_copies(settings),
        tell=tell,
        on_step=on_step,
        on_tokens=on_tokens,
        describe=describe,
    )
