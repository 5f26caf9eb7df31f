"""The sites that models come from, and where what they send is kept."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gen_worker.models.assembly import open_store
from gen_worker.models.net import Opener
from gen_worker.models.settings import load_model_settings
from gen_worker.models.sources import open_sources
from gen_worker.models.sources.civitai.catalog import Catalog
from gen_worker.models.sources.huggingface.remote import Remote
from gen_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.models.settings import ModelSettings
    from gen_worker.models.sources import Sources
    from gen_worker.models.store import ContentStore

__all__ = ["CivitaiSite", "HuggingFaceSite", "Providers"]

_CIVITAI = "https://civitai.com"


class HuggingFaceSite(NamedTuple):
    """Hugging Face, as one caller's token opens it."""

    remote: Remote
    sources: Sources


class CivitaiSite(NamedTuple):
    """Civitai, as one caller's key opens it."""

    catalog: Catalog
    sources: Sources


class Providers:
    """Opens sites; the same downloads serve conversions and endpoints that run the models."""

    def __init__(
        self,
        *,
        store: ContentStore | None = None,
        settings: ModelSettings | None = None,
        hf_endpoint: str = "",
        civitai_endpoint: str = _CIVITAI,
        trusted: Sequence[str] = (),
    ) -> None:
        """Say which sites.

        Args:
            store: Of this machine; by default that of the environment.
            settings: Likewise.
            hf_endpoint: Of a site that speaks the API of Hugging Face; empty is the usual one.
            civitai_endpoint: Of a site that speaks the API of Civitai.
            trusted: More URLs that may have private addresses, such as a mirror's.
        """
        self._store = store
        self._settings = settings
        self._hf_endpoint = hf_endpoint
        self._civitai_endpoint = civitai_endpoint
        own = civitai_endpoint if civitai_endpoint != _CIVITAI else ""
        self._trusted = (*filter(None, (hf_endpoint, own)), *trusted)

    @contextmanager
    def huggingface(self, token: str = "") -> Iterator[HuggingFaceSite]:
        """Open Hugging Face; an empty token is that of the environment."""
        token = token or load_settings().hf_token
        opener = Opener(trusted=self._trusted)
        try:
            with self._sources(hf_token=token) as sources:
                yield HuggingFaceSite(Remote(opener, self._hf_endpoint, token), sources)
        finally:
            opener.close()

    @contextmanager
    def civitai(self, key: str = "") -> Iterator[CivitaiSite]:
        """Open Civitai; an empty key is that of the environment. Metadata are asked for with it."""
        key = key or self._known.civitai_token
        opener = Opener(trusted=self._trusted)
        try:
            with self._sources(civitai_token=key) as sources:
                yield CivitaiSite(Catalog(opener, self._civitai_endpoint, key), sources)
        finally:
            opener.close()

    @property
    def _known(self) -> ModelSettings:
        return self._settings or load_model_settings()

    def _sources(self, *, hf_token: str = "", civitai_token: str = "") -> Sources:
        # No hub: what it has of a public model has another revision than the site's own.
        settings = msgspec.structs.replace(self._known, hub_url="", civitai_token=civitai_token)
        return open_sources(
            self._store or open_store(settings=settings),
            settings,
            hf_endpoint=self._hf_endpoint,
            hf_token=hf_token,
            civitai_endpoint=self._civitai_endpoint,
            trusted=self._trusted,
        )
