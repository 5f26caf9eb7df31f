"""The models of this machine's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.ports import NOBODY
from gen_worker.runtime.library_models import LibraryModels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.library import ModelLibrary
    from gen_worker.models.prepared import PreparedModel
    from gen_worker.ports import Events, ModelRequest
    from gen_worker.spec import Binding

__all__ = ["LocalModels"]


class LocalModels(LibraryModels):
    """The `Models` port of a laptop; it tells of each model that a call is the first to need."""

    def __init__(
        self, events: Events, *, cas_dir: str | None = None, offline: bool = False
    ) -> None:
        super().__init__(events)
        self._cas_dir = cas_dir
        self._offline = offline
        self._announced: set[str] = set()

    def _open(self) -> ModelLibrary:
        from gen_worker.models.assembly import open_library

        return open_library(
            root=self._cas_dir,
            is_offline=self._offline,
            tell=self.tell,
            on_step=self.report_step,
        )

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> PreparedModel:
        """Have the model's files here; see `gen_worker.ports.Models`."""
        from gen_worker.models.choice import ModelChoice

        chosen = ModelChoice.from_record(choice)
        facts = {"provider": chosen.provider, "ref": str(chosen.target)}
        is_new = facts["ref"] not in self._announced
        if is_new:
            self.tell("model_fetch.started", facts)
        prepared = await super().prepare(binding, choice, annotation, request)
        if is_new:
            self._announced.add(facts["ref"])
            self.tell("model_fetch.completed", {**facts, "local_dir": prepared.model.path})
        return prepared
