"""Sources as the settings of a machine describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.models.fetch.fetcher import Fetcher
from gen_worker.models.fetch.limits import BandwidthLimit, ConnectionLimit
from gen_worker.models.net.opener import Opener
from gen_worker.models.settings import load_model_settings
from gen_worker.models.sources.huggingface.options import HuggingFaceOptions
from gen_worker.models.sources.sources import Sources
from gen_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.settings import ModelSettings
    from gen_worker.models.store import ContentStore

__all__ = ["open_sources"]

_NO_LIMIT_S = 86_400.0


def open_sources(
    store: ContentStore,
    settings: ModelSettings | None = None,
    *,
    hub: HubClient | None = None,
    may_resolve: bool | None = None,
    is_offline: bool = False,
    hf_endpoint: str = "",
    hf_token: str = "",
    civitai_endpoint: str = "https://civitai.com",
    trusted: Sequence[str] = (),
) -> Sources:
    """Return sources; close them, or use them as a context manager.

    Args:
        store: Of this machine.
        settings: Hub, limits, timeouts, caches; by default those of the environment.
        hub: A client instead of one for the settings' hub; it stays open.
        may_resolve: Whether the hub may be asked what a ref means that no job described; None: as
            the settings say.
        is_offline: Never use the network.
        hf_endpoint: Empty leaves it to the library.
        hf_token: Instead of that of the settings.
        civitai_endpoint: Of the site.
        trusted: More URLs whose origins may have private addresses, such as a mirror's.
    """
    from gen_worker.models.hub.client import HubClient

    settings = settings or load_model_settings()
    own = HubClient(settings.hub_url, settings.hub_token) if settings.hub_url else None
    hub_urls = [one.connection.base_url for one in (hub, own) if one is not None]
    opener = Opener(
        trusted=[*hub_urls, *filter(None, (hf_endpoint,)), *trusted],
        connect_timeout_s=settings.download_connect_timeout_s or _NO_LIMIT_S,
        read_timeout_s=_silence_s(settings),
    )
    return Sources(
        store,
        opener,
        _fetcher(opener, settings),
        hub=hub or own,
        huggingface=_huggingface(settings, hf_endpoint, hf_token),
        civitai_token=settings.civitai_token,
        civitai_endpoint=civitai_endpoint,
        may_resolve=settings.may_resolve if may_resolve is None else may_resolve,
        may_ingest=bool(settings.hub_token),
        is_offline=is_offline,
        max_downloads=settings.max_downloads,
        closes=tuple(one.close for one in (opener, own) if one is not None),
    )


def _fetcher(opener: Opener, settings: ModelSettings) -> Fetcher:
    count = settings.download_connections
    return Fetcher(
        opener,
        connections=count,
        connections_limit=ConnectionLimit(count * settings.max_downloads),
        bandwidth=BandwidthLimit(settings.download_bytes_per_s),
        stall_window_s=settings.hf_stall_timeout_s,
    )


def _huggingface(settings: ModelSettings, endpoint: str, token: str) -> HuggingFaceOptions:
    return HuggingFaceOptions(
        home=settings.hf_home,
        token=token or load_settings().hf_token,
        endpoint=endpoint,
        precisions=settings.hf_weight_precisions,
        max_repo_bytes=settings.hf_max_repo_bytes,
        takes_all=settings.hf_full_repo,
        max_seconds=settings.hf_max_seconds,
        stall_timeout_s=settings.hf_stall_timeout_s,
    )


def _silence_s(settings: ModelSettings) -> float:
    """Return how long a server may send nothing: the fetcher's watchdog sees slow ones only."""
    limits = (settings.download_read_timeout_s, settings.hf_stall_timeout_s)
    return min((limit for limit in limits if limit), default=_NO_LIMIT_S)
