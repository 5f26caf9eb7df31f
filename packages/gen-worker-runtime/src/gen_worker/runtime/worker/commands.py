"""Commands about models: carried out beside everything else, one at a time, each answered."""

from __future__ import annotations

import asyncio
import logging
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from gen_worker.errors import is_out_of_memory
from gen_worker.masking import without_credentials
from gen_worker.models.residency import ModelInUseError
from gen_worker.runtime.wire import (
    DownloadModel,
    LoadModel,
    LoadModelResult,
    ModelReady,
    UnloadModel,
    UnloadModelResult,
)
from gen_worker.runtime.worker.endpoint_config import canonical
from gen_worker.runtime.worker.reporting import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from gen_worker.runtime.wire import Availability as ReadyKind
    from gen_worker.runtime.worker.endpoint_config import EndpointState
    from gen_worker.runtime.worker.fetching import Fetching
    from gen_worker.runtime.worker.outbox import Outbox

__all__ = ["Commands", "Loader"]

_log = logging.getLogger("gen_worker.worker")

_SETUP_S = 300.0
"""How long a load waits for what is loaded at the start."""
_TRACEBACK_CHARS = 2000
_DOWNLOADED: tuple[ReadyKind, ...] = ("download_completed", "cached")
OUT_OF_MEMORY = "insufficient_vram: "
"""What a load that did not fit begins its answer with: then an orchestrator makes room."""


class Loader(Protocol):
    """Brings models into memory and takes them away. For the loop's thread."""

    async def load(self, ref: str) -> int:
        """Load a model for the functions that are bound to it; return its bytes, 0 if unknown.

        Raises:
            Exception: Whatever loading raises.
        """
        ...

    async def unload(self, ref: str) -> None:
        """Give a model's memory back.

        Raises:
            ModelInUseError: A request uses it.
        """
        ...

    async def wait_started(self, timeout_s: float) -> None:
        """Wait until nothing is loaded any more because of the start; at most so long."""
        ...


class Commands:
    """Carries commands out. For the loop's thread."""

    def __init__(
        self,
        outbox: Outbox,
        fetching: Fetching,
        loader: Loader,
        state: Callable[[], EndpointState],
        changed: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            outbox: Takes the answers.
            fetching: Has models here.
            loader: Has them in memory.
            state: Says how refs are spelled.
            changed: Called when models are elsewhere than before.
        """
        self._outbox = outbox
        self._fetching = fetching
        self._loader = loader
        self._state = state
        self._changed = changed
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, command: LoadModel) -> None:
        """Load a model and say whether that worked."""
        self._begin(self._load(command))

    def unload(self, command: UnloadModel) -> None:
        """Give a model's memory back and say whether that worked."""
        self._begin(self._unload(command))

    def download(self, command: DownloadModel) -> None:
        """Have a model on the disk and say whether that worked."""
        self._begin(self._download(command))

    async def close(self) -> None:
        """Leave what is still to be done undone."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, command: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(command)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, command: LoadModel) -> None:
        ref = canonical(self._state(), command.model_id)
        tell(self._outbox, "model.load.started", {"model_id": ref})
        began = monotonic()
        size_bytes, problem = 0, ""
        try:
            await self._loader.wait_started(_SETUP_S)
            async with self._turn:
                size_bytes = await self._loader.load(ref)
        except Exception as error:
            _log.warning("model %r could not be loaded", ref, exc_info=True)
            problem = problem_text(error)
        self._outbox.control(
            LoadModelResult(
                model_id=ref, success=not problem, error_message=problem, size_bytes=size_bytes
            )
        )
        self._ended("model.load", ref, began, "load_failed" if problem else "")

    async def _unload(self, command: UnloadModel) -> None:
        ref = canonical(self._state(), command.model_id)
        began = monotonic()
        try:
            async with self._turn:
                tell(self._outbox, "model.unload.started", {"model_id": ref})
                await self._loader.unload(ref)
        except ModelInUseError:
            self._outbox.control(
                UnloadModelResult(model_id=ref, success=False, error_message=ModelInUseError.code)
            )
            payload = {"model_id": ref, "reason": "in_use"}
            tell(self._outbox, "model.unload.failed", payload)
            return
        except Exception as error:
            _log.warning("model %r could not be unloaded", ref, exc_info=True)
            problem = problem_text(error)
            self._outbox.control(
                UnloadModelResult(model_id=ref, success=False, error_message=problem)
            )
            self._ended("model.unload", ref, began, "unload_failed")
            return
        self._outbox.control(UnloadModelResult(model_id=ref, success=True))
        self._ended("model.unload", ref, began, "")

    async def _download(self, command: DownloadModel) -> None:
        # The answer bears the id that was asked for, whichever ref stands behind it.
        model_id = canonical(self._state(), command.model_id)
        ref = canonical(self._state(), command.ref or command.model_id)
        problem = "" if ref else "there is no ref to download"
        try:
            if ref:
                await self._fetching.have(ref)
        except Exception as error:
            _log.warning("model %r could not be downloaded: %s", ref, error)
            problem = problem_text(error, with_traceback=False)
        result = LoadModelResult(model_id=model_id, success=not problem, error_message=problem)
        self._outbox.control(result)
        if not problem:
            for kind in _DOWNLOADED:
                self._outbox.control(ModelReady(model_id=ref, kind=kind), replaces=(kind, ref))
            self._changed()

    def _ended(self, what: str, ref: str, began: float, error_type: str) -> None:
        payload = {
            "model_id": ref,
            "duration_ms": int((monotonic() - began) * 1000),
            "error_type": error_type,
        }
        tell(self._outbox, f"{what}.{'failed' if error_type else 'completed'}", payload)
        if not error_type:
            self._changed()


def problem_text(error: BaseException, *, with_traceback: bool = True) -> str:
    """Return an error as orchestrators are told of it: they read whether memory was short."""
    text = f"{type(error).__name__}: {error}"
    is_full = is_out_of_memory(error) or "out of memory" in text.lower()
    if with_traceback:
        trace = "".join(traceback.format_exception(error))
        text = f"{text}\n{trace[-_TRACEBACK_CHARS:]}"
    return without_credentials(f"{OUT_OF_MEMORY if is_full else ''}{text}")
