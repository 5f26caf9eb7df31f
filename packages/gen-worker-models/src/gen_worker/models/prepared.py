"""A model whose files are here, and the right of one call to use the object made of them."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gen_worker.context.local import off_loop
from gen_worker.gpus import CurrentGpu

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gen_worker.models.choice import ModelChoice
    from gen_worker.models.library import ModelLibrary
    from gen_worker.models.loading import LoadPlan
    from gen_worker.models.sources import LocalModel
    from gen_worker.models.variants import Part
    from gen_worker.ports import ModelRequest

    # Digests, class, precisions and what it shares with nobody: two objects that agree are one.
    Identity = tuple[tuple[str, ...], Any, tuple[str, ...]]

__all__ = ["ModelLease", "PreparedModel"]


class PreparedModel:
    """What `prepare` gives and `lease` takes. Its files are not evicted as long as it lives."""

    def __init__(
        self,
        model: LocalModel,
        choice: ModelChoice,
        annotation: Any,
        *,
        loras: tuple[str, ...],
        parts: tuple[Part, ...],
        pipeline_class: str,
        is_setup: bool,
        give_back: Callable[[], object],
    ) -> None:
        self.model = model
        self.choice = choice
        self.loras = loras
        """Where the files of `choice.loras` are."""
        self.parts = parts
        """Of a variant; empty for any other model."""
        self.pipeline_class = pipeline_class
        self.annotation = annotation
        self.is_setup = is_setup
        self.plans: dict[str, LoadPlan] = {}
        """By device."""
        self.names: dict[str, tuple[str, Identity]] = {}
        """What the residency calls the object, and which one that is, by device."""
        self._give_back = give_back

    def __repr__(self) -> str:
        return f"<PreparedModel {self.model.ref}>"

    @property
    def digests(self) -> tuple[str, ...]:
        """What exactly the object is made of."""
        return self.model.digest, *(part.model.digest for part in self.parts)

    def __del__(self) -> None:
        self._give_back()


class ModelLease:
    """What `lease` returns; entering waits for no event loop when the object is there already."""

    def __init__(
        self, library: ModelLibrary, prepared: PreparedModel, device: str, request: ModelRequest
    ) -> None:
        self._library = library
        self._prepared = prepared
        self._device = device
        self._request = request
        self._stack = ExitStack()
        self._handover = threading.Lock()
        self._is_abandoned = False

    async def __aenter__(self) -> object:
        library, prepared = self._library, self._prepared
        try:
            found = None if prepared.loras else library.resident(prepared, self._device)
            if found is not None:
                value: object = self._stack.enter_context(found)
            else:
                value = await off_loop(self._bring)
            # Not in a thread: it watches what happens in this context.
            self._stack.enter_context(library.watched(value, self._request))
        except BaseException:
            self._abandon()
            raise
        return value

    def _bring(self) -> object:
        library, prepared = self._library, self._prepared
        with CurrentGpu(self._device), ExitStack() as stack:
            leased = library.bring(prepared, self._device, self._request)
            value: object = stack.enter_context(leased)
            if prepared.loras:
                stack.enter_context(library.overlaid(prepared, value, self._request))
            with self._handover:
                if not self._is_abandoned:
                    self._stack.enter_context(stack.pop_all())
        return value

    def _abandon(self) -> None:
        """Give back what there is; when canceled, the thread gives back what it still brings."""
        with self._handover:
            self._is_abandoned = True
        self._stack.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._prepared.loras:
            await off_loop(self._stack.close)
        else:
            self._stack.close()
