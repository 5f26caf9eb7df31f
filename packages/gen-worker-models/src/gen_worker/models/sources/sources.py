"""The one door to models: whatever the provider, a choice becomes files on this machine."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from gen_worker.cancel import CancelToken
from gen_worker.models.fetch.limits import ConnectionLimit
from gen_worker.models.sources.civitai.source import CivitaiModels
from gen_worker.models.sources.errors import UnsupportedProviderError
from gen_worker.models.sources.hub_answers import HubAnswers, HubRights
from gen_worker.models.sources.huggingface.options import HuggingFaceOptions
from gen_worker.models.sources.huggingface.source import HuggingFaceModels
from gen_worker.models.sources.public import PublicModels
from gen_worker.models.sources.resolutions import Resolutions
from gen_worker.models.sources.surroundings import Surroundings
from gen_worker.models.sources.telling import DownloadReport
from gen_worker.models.sources.tensorhub import HubModels
from gen_worker.models.sources.values import Request, key_of
from gen_worker.models.store.flights import Flights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gen_worker.models.choice import LoraChoice, ModelChoice
    from gen_worker.models.fetch.fetcher import Fetcher
    from gen_worker.models.fetch.values import FetchProgress
    from gen_worker.models.hub.client import HubClient
    from gen_worker.models.net.opener import Opener
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.refs import Ref
    from gen_worker.models.snapshot import Snapshot
    from gen_worker.models.sources.values import FetchPlan, LocalModel, Renew, Tell
    from gen_worker.models.store import ContentStore

__all__ = ["Sources"]

_HF_HOME = "~/.cache/huggingface"


class Source(Protocol):
    """The models of one provider. Thread-safe, blocking."""

    def find(self, choice: ModelChoice) -> LocalModel | None:
        """Return the model if it is here, whole; without the network."""
        ...

    def plan(self, request: Request) -> FetchPlan:
        """Return what `hold` would fetch."""
        ...

    def hold(self, request: Request, stack: ExitStack) -> LocalModel:
        """Have the model here; it stays until the stack is closed."""
        ...

    def facts(self, request: Request) -> RepoFacts | None:
        """Return what is known of the ref; None when it is not there for this caller."""
        ...


class Sources:
    """Finds and fetches models of every provider. Thread-safe, blocking.

    Threads that want the same model wait for one of them; so do processes with the same store.
    """

    def __init__(
        self,
        store: ContentStore,
        opener: Opener,
        fetcher: Fetcher,
        *,
        hub: HubClient | None = None,
        huggingface: HuggingFaceOptions | None = None,
        civitai_token: str = "",
        civitai_endpoint: str = "https://civitai.com",
        may_resolve: bool = True,
        may_ingest: bool = False,
        may_use_last_known: bool = True,
        is_offline: bool = False,
        max_downloads: int = 2,
        closes: Sequence[Callable[[], object]] = (),
    ) -> None:
        """Say where models go and who may be asked for them.

        Args:
            store: Of this machine.
            opener: Trusts the configured hub's origin.
            fetcher: Uses it.
            hub: The configured hub.
            huggingface: Where its models are kept, and with which token they are asked for; None
                uses the usual cache.
            civitai_token: Key for models that need one; sent to Civitai alone.
            civitai_endpoint: Of the site.
            may_resolve: Whether the hub may be asked what a ref means that no job described.
            may_ingest: Whether it may be asked to get hold of public models.
            may_use_last_known: Whether a tag may mean what it meant last when the hub is silent.
            is_offline: Use what is here; never the network.
            max_downloads: Models downloaded at the same time.
            closes: Called by `close`: what was opened for these sources alone.
        """
        self._around = Surroundings(
            store=store,
            opener=opener,
            fetcher=fetcher,
            downloads=ConnectionLimit(max_downloads),
            known=Resolutions(store),
            is_offline=is_offline,
            may_use_last_known=may_use_last_known,
        )
        answers = HubAnswers(hub, HubRights(may_resolve, may_ingest)) if hub else None
        hub_models = HubModels(self._around, answers)
        huggingface = huggingface or HuggingFaceOptions(home=os.path.expanduser(_HF_HOME))
        hf_models = HuggingFaceModels(self._around, huggingface)
        civitai_models = CivitaiModels(self._around, civitai_endpoint, civitai_token)
        self._sources: dict[str, Source] = {
            "tensorhub": hub_models,
            "hf": PublicModels(hub_models, hf_models, asks_hub=True),
            "civitai": PublicModels(hub_models, civitai_models, asks_hub=False),
        }
        self._closes = closes
        self._flights = Flights()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened for these sources alone."""
        for close in self._closes:
            close()

    def ensure(
        self,
        choice: ModelChoice | LoraChoice,
        *,
        resolved: Snapshot | None = None,
        renew: Renew | None = None,
        token: CancelToken | None = None,
        tell: Tell | None = None,
        request_id: str = "",
        watch: Callable[[FetchProgress], None] | None = None,
    ) -> LocalModel:
        """Have a model's files here; see `hold`, which also keeps them from being evicted."""
        with self.hold(
            choice,
            resolved=resolved,
            renew=renew,
            token=token,
            tell=tell,
            request_id=request_id,
            watch=watch,
        ) as model:
            return model

    @contextmanager
    def hold(
        self,
        choice: ModelChoice | LoraChoice,
        *,
        resolved: Snapshot | None = None,
        renew: Renew | None = None,
        token: CancelToken | None = None,
        tell: Tell | None = None,
        request_id: str = "",
        watch: Callable[[FetchProgress], None] | None = None,
    ) -> Iterator[LocalModel]:
        """Have a model's files here, and keep them while the context lasts.

        Nothing that is here completely and cannot have changed is asked for on the network. A tag
        is resolved first; when the hub is silent, what it meant last is used, and said.

        Args:
            choice: The model; its LoRAs and the parts of a variant are asked for one by one.
            resolved: What the job says the ref means.
            renew: Asks whoever gave `resolved` for new URLs when those are refused.
            token: Its cancel ends waiting and downloading.
            tell: Takes the events of a download.
            request_id: Of the call that waits, if one does; part of the events.
            watch: Gets every progress, unthrottled, on this thread.

        Raises:
            ModelResolutionError: The ref means nothing that may be had; says what to do.
            UnsafeFileFormat: Its weights can run code when they are loaded.
            ArtifactTransferError: Its files could not be fetched.
            ResourceError: There is no room on the disk.
            CanceledError: The token was canceled.
        """
        wanted = _as_model(choice)
        source = self._source(wanted)
        token = token or CancelToken()
        report = DownloadReport(wanted, tell, request_id=request_id, watch=watch)
        request = Request(wanted, token, report, resolved, renew)
        with ExitStack() as stack:
            with self._flights.turn(key_of(wanted), token):
                model = source.hold(request, stack)
            yield model

    def find(self, choice: ModelChoice | LoraChoice) -> LocalModel | None:
        """Return a model if it is here, whole; never uses the network."""
        wanted = _as_model(choice)
        return self._source(wanted).find(wanted)

    def resolve(
        self,
        choice: ModelChoice | LoraChoice,
        *,
        resolved: Snapshot | None = None,
        token: CancelToken | None = None,
    ) -> FetchPlan:
        """Return what having a model means in files and bytes; fetches none of its weights.

        Raises:
            ModelResolutionError: As `hold` raises it.
        """
        wanted = _as_model(choice)
        report = DownloadReport(wanted, None)
        request = Request(wanted, token or CancelToken(), report, resolved)
        return self._source(wanted).plan(request)

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what is known of a caller's ref; see `gen_worker.models.overrides.HubLookup`.

        Raises:
            ArtifactTransferError: The provider could not be asked.
            HubAuthError: The hub refuses this worker's own token.
        """
        from gen_worker.context.local import off_loop
        from gen_worker.models.choice import ModelChoice

        choice = ModelChoice.of(ref)
        if choice.provider not in self._sources:
            return None
        request = Request(choice, CancelToken(), DownloadReport(choice, None))
        return await off_loop(self._source(choice).facts, request)

    def _source(self, choice: ModelChoice) -> Source:
        source = self._sources.get(choice.provider)
        if source is None:
            raise UnsupportedProviderError(
                f"model {str(choice.target)!r} is on {choice.provider!r}, from where none is loaded"
                ": publish it on the hub (`gen-worker hub push`), or name a copy on Hugging Face "
                "with HFRepo",
                provider=choice.provider,
            )
        return source


def _as_model(choice: ModelChoice | LoraChoice) -> ModelChoice:
    """Return a LoRA's files as a model of their own."""
    from gen_worker.models.choice import ModelChoice

    return choice if isinstance(choice, ModelChoice) else ModelChoice.of(choice.target)
