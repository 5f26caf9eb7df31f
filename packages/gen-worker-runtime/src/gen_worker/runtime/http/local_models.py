"""The models of this process, for the routes below `/v1/models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.context.local import run_blocking
from gen_worker.errors import ModelResolutionError
from gen_worker.ports import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gen_worker.models.choice import ModelChoice
    from gen_worker.runtime.local import LocalModels
    from gen_worker.spec import Binding, FunctionSpec

__all__ = ["LocalModelRoom"]

_NOTHING = {
    "vram_models": [],
    "disk_models": [],
    "downloading_models": [],
    "vram_used_gb": 0.0,
    "vram_total_gb": 0.0,
    "vram_available_gb": 0.0,
    "total_models": 0,
    "vram_model_count": 0,
    "disk_model_count": 0,
}


class LocalModelRoom:
    """What is kept of models here. Blocking."""

    def __init__(
        self, models: LocalModels, functions: Iterable[FunctionSpec], device: str = "cpu"
    ) -> None:
        """Look at a host's models.

        Args:
            models: The host's port.
            functions: What is served; only their models can be loaded.
            device: Where models are loaded to.
        """
        self._models = models
        self._functions = tuple(functions)
        self._device = device

    def statistics(self) -> dict[str, Any]:
        if not self._models.is_used:
            return dict(_NOTHING)  # making the library takes a while, and there is nothing in it
        from gen_worker.model_cache import ModelCache

        return ModelCache(residency=self._models.library.residency).get_stats().to_dict()

    def prefetch(self, ref: str, dtypes: Sequence[str]) -> None:
        from gen_worker.models.choice import ModelChoice
        from gen_worker.models.refs import parse_prefixed_ref

        options = {"attributes": {"dtype": tuple(dtypes)}} if dtypes else {}
        choice = ModelChoice.of(parse_prefixed_ref(ref), **options)
        library = self._models.library
        model = library.sources.ensure(choice)
        library.residency.know(model.ref, path=model.path, size_bytes=model.size_bytes)

    def load(self, model_id: str) -> None:
        for name, annotation, binding, choice in self._declared():
            if model_id in (choice.ref, str(choice.target)):
                request = ModelRequest(parameter=name)
                run_blocking(self._load(binding, choice, annotation, request))
                return
        raise ModelResolutionError(f"no function here has {model_id!r} as its model")

    async def _load(
        self, binding: Binding, choice: ModelChoice, annotation: Any, request: ModelRequest
    ) -> None:
        from gen_worker.models.choice import plain

        models = self._models
        prepared = await models.prepare(binding, plain(choice), annotation, request)
        async with models.lease(prepared, device=self._device, request=request):
            return  # it stays, as long as there is room

    def unload(self, model_id: str) -> bool:
        return self._models.is_used and self._models.library.residency.unload(model_id)

    def _declared(self) -> Iterator[tuple[str, Any, Binding, ModelChoice]]:
        """Yield every model that needs no payload to be known."""
        from gen_worker.models.choice import ModelChoice

        for spec in self._functions:
            for name, parameter in spec.bindings.items():
                if not parameter.binding.is_per_call:
                    record = parameter.binding.choose(name, {}, None)
                    choice = ModelChoice.from_record(record)
                    yield name, parameter.annotation, parameter.binding, choice
