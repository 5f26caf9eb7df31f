"""Models of other providers that the hub has, or gets hold of: their own site comes after it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub.errors import MalformedAnswerError
from gen_worker.models.sources.tensorhub import Meaning

if TYPE_CHECKING:
    from contextlib import ExitStack

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.overrides import RepoFacts
    from gen_worker.models.sources.sources import Source
    from gen_worker.models.sources.tensorhub import HubModels
    from gen_worker.models.sources.values import FetchPlan, LocalModel, Request

__all__ = ["PublicModels"]

_log = logging.getLogger("gen_worker.models.sources")


class PublicModels:
    """The source of a provider whose models may come through the hub. Thread-safe, blocking."""

    def __init__(self, hub: HubModels, direct: Source, *, asks_hub: bool) -> None:
        """Bind.

        Args:
            hub: Where they may come from: as a job describes them, or as the hub answers.
            direct: Their own site.
            asks_hub: Whether the hub is asked for those that no job describes.
        """
        self._hub = hub
        self._asks_hub = asks_hub
        self._direct = direct

    def find(self, choice: ModelChoice) -> LocalModel | None:
        """Return the model from the content store, or from where its own site's models are."""
        return self._hub.find(choice) or self._direct.find(choice)

    def plan(self, request: Request) -> FetchPlan:
        meaning = self._mirrored(request)
        return self._hub.plan_of(request, meaning) if meaning else self._direct.plan(request)

    def hold(self, request: Request, stack: ExitStack) -> LocalModel:
        """Have the model here; see the source of its provider."""
        meaning = self._mirrored(request)
        if meaning is None:
            return self._direct.hold(request, stack)
        return self._hub.hold_as(request, meaning, stack)

    def facts(self, request: Request) -> RepoFacts | None:
        return self._direct.facts(request)

    def _mirrored(self, request: Request) -> Meaning | None:
        """Return what the hub has; None when it has nothing, for whatever reason."""
        resolved = request.resolved
        if resolved is not None:
            return Meaning(resolved.digest, resolved)
        local = self._hub.meaning_offline(request.choice)
        if local is not None:
            return local
        if not self._asks_hub or not _is_whole(request.choice):
            return None
        try:
            return self._hub.public_meaning(request)
        except (ArtifactTransferError, MalformedAnswerError) as error:
            _log.info("the hub does not provide %s: %s", request.choice.target, error)
            return None


def _is_whole(choice: ModelChoice) -> bool:
    """Tell whether a choice says nothing that the hub could not know of."""
    return not (choice.revision or choice.subfolder or choice.allow_patterns)
