"""Bringing models into memory before or without a job, and taking them away."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from gen_worker.errors import FunctionUnavailableError, HardwareUnmetError, classify
from gen_worker.models.residency import ModelInUseError
from gen_worker.ports import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gen_worker.errors import Failure
    from gen_worker.runtime.engine import Engine
    from gen_worker.runtime.worker.catalog import BoundModel, ModelBook
    from gen_worker.runtime.worker.jobs import Jobs
    from gen_worker.runtime.worker.models import WorkerModels

__all__ = ["Loading"]

_log = logging.getLogger("gen_worker.worker")


class Loading:
    """Loads models for the functions they are bound to. For the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        models: WorkerModels,
        book: ModelBook,
        jobs: Jobs,
        *,
        devices: Sequence[str],
        hardware_unmet: Callable[[str, Failure], None],
    ) -> None:
        """Prepare.

        Args:
            engine: Sets classes up; its devices are loaded to.
            models: Keeps the models.
            book: Says which functions a model is for.
            jobs: Those that may use one.
            devices: Of the engine; what names none goes to the first.
            hardware_unmet: Told of a function whose `setup` found that this machine cannot run it.
        """
        self._engine = engine
        self._models = models
        self._book = book
        self._jobs = jobs
        self._device = devices[0]
        self._hardware_unmet = hardware_unmet
        self._started = asyncio.Event()

    async def wait_started(self, timeout_s: float) -> None:
        """Wait until nothing is loaded any more because of the start; at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._started.wait(), timeout_s)

    async def start(self, order: Iterable[str]) -> None:
        """Load what is here, from the head of the list, until memory is full or one fails."""
        try:
            for ref in order:
                bound = self._wanted(ref)
                if not bound:
                    continue
                if self._has_gpu and not self._models.has_room(ref, self._device):
                    _log.info("model %r and what follows stay on the disk: no room", ref)
                    break
                try:
                    await self._load(bound)
                except Exception as error:
                    _log.warning("model %r is not loaded ahead", ref, exc_info=True)
                    if isinstance(error, HardwareUnmetError):
                        self._hardware_unmet(bound[0].function, classify(error))
                    break
        finally:
            self._started.set()

    async def load(self, ref: str) -> int:
        """Load a model for the functions that are bound to it; return its bytes, 0 if unknown."""
        bound = self._book.bound.get(ref)
        if not bound:
            raise FunctionUnavailableError(
                f"no function of this worker is bound to the model {ref!r}, so nothing says how it "
                "is loaded: send its ref as the functions' bindings name it",
                reason="model_not_bound",
            )
        await self._load(bound)
        return self._models.size_bytes(ref)

    async def unload(self, ref: str) -> None:
        """Give a model's memory back; classes that were set up with it are set up anew later."""
        functions = {model.function for model in self._book.bound.get(ref, ()) if model.is_setup}
        used_by = [job for job in self._jobs.active.values() if job.served.spec.name in functions]
        if used_by:
            raise ModelInUseError(ref, len(used_by))
        # What `setup` was given lives as long as its object: without it no memory comes back.
        await self._engine.retire(functions)
        await self._models.unload(ref)

    @property
    def _has_gpu(self) -> bool:
        return self._device.startswith("cuda")

    def _wanted(self, ref: str) -> list[BoundModel]:
        """Return for whom a model is worth loading ahead of any job."""
        if self._book[ref] != "here":
            return []
        bound = self._book.bound.get(ref, [])
        return [model for model in bound if model.is_setup or self._has_gpu]

    async def _load(self, bound: Sequence[BoundModel]) -> None:
        for function in dict.fromkeys(model.function for model in bound if model.is_setup):
            await self._engine.setup([function])
        for model in bound:
            if not model.is_setup:
                await self._touch(model)

    async def _touch(self, model: BoundModel) -> None:
        """Lease a model for a moment, which leaves it in memory."""
        request = ModelRequest(function=model.function, parameter=model.parameter)
        needs_gpu = self._engine.functions[model.function].resources.needs_gpu
        device = self._device if needs_gpu else "cpu"
        prepared = await self._models.prepare(
            model.binding, model.choice.to_dict(), model.annotation, request
        )
        lease = self._models.lease(prepared, device=device, request=request)
        if not needs_gpu:
            async with lease:
                return
        async with self._engine.holding(device), lease:
            return
