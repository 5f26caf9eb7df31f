"""Attach adapters for a block, and always detach them."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from gen_worker.errors import ValidationError, WorkerError
from gen_worker.models.lora.adapters import Adapter, read_adapter, without_peft_prefix
from gen_worker.models.lora.fitting import check_fits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["LoraNotReadyError", "attached", "load_loras"]

_log = logging.getLogger("gen_worker.models")

_METHODS = ("load_lora_weights", "set_adapters", "unload_lora_weights")
_COMPONENTS = ("transformer", "unet")


class LoraNotReadyError(WorkerError, RuntimeError):
    """A LoRA was given whose file is not on this machine."""


@contextlib.contextmanager
def load_loras(pipeline: Any, loras: Iterable[Any], request_id: str = "") -> Iterator[Any]:
    """Put LoRAs over a pipeline for the length of a block; yields the pipeline.

    Holds the pipeline's lock. Every adapter is read and checked before the first is attached; a
    pipeline whose weights are offloaded keeps its mode.

    Args:
        pipeline: Of diffusers.
        loras: Each has `tensors` (a `Tensors`) or `file` (an `Asset`) with a `local_path`, and may
            have `weight` (1.0) and `adapter_name` (`lora_<i>`).
        request_id: For the log.

    Raises:
        LoraNotReadyError: A file was not materialized.
        ValidationError: A LoRA is not for this pipeline, or twice has the same name.
    """
    from gen_worker.models.low_vram import lock_for_pipeline

    adapters = [_read(index, item) for index, item in enumerate(loras)]
    if not adapters:
        yield pipeline
        return
    with lock_for_pipeline(pipeline), attached(pipeline, adapters, request_id):
        yield pipeline


def _read(index: int, item: Any) -> Adapter:
    value = getattr(item, "tensors", None) or getattr(item, "file", None)
    name = getattr(item, "adapter_name", None) or f"lora_{index}"
    path = getattr(value, "local_path", None)
    if not path:
        raise LoraNotReadyError(
            f"LoRA {name!r} has no local file: declare it as a payload field, or call "
            "`ctx.materialize` on its `tensors` first"
        )
    weight = getattr(item, "weight", None)
    return read_adapter(path, name=name, weight=1.0 if weight is None else weight, ref=name)


@contextlib.contextmanager
def attached(pipeline: Any, adapters: Sequence[Adapter], request_id: str = "") -> Iterator[None]:
    """Attach adapters that were read; detach them whatever happens in the block.

    Holds the pipeline's lock while it attaches and detaches, and not in between: so the block may
    be entered in one thread and left in another.

    Raises:
        ValidationError: One does not fit, or two have the same name.
    """
    from gen_worker.models.low_vram import lock_for_pipeline

    _check(pipeline, adapters)
    adapters = [_named(pipeline, adapter) for adapter in adapters]
    before: _State | None = None
    try:
        with lock_for_pipeline(pipeline):
            for adapter in adapters:
                check_fits(pipeline, adapter)
            before = _State(pipeline)
            _attach(pipeline, before, adapters)
        yield
    finally:
        if before is not None:
            with lock_for_pipeline(pipeline):
                _detach(pipeline, before, adapters, request_id)


def _check(pipeline: Any, adapters: Sequence[Adapter]) -> None:
    lacking = [name for name in _METHODS if not callable(getattr(pipeline, name, None))]
    if lacking:
        raise ValidationError(
            f"{type(pipeline).__name__} takes no LoRAs: it has no {', '.join(map(repr, lacking))}"
        )
    names = [adapter.name for adapter in adapters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValidationError(f"two LoRAs have the same name {twice[0]!r}: name each differently")


def _named(pipeline: Any, adapter: Adapter) -> Adapter:
    component = next((x for x in _COMPONENTS if getattr(pipeline, x, None) is not None), "unet")
    return adapter._replace(tensors=without_peft_prefix(adapter.tensors, component))


def _attach(pipeline: Any, before: _State, adapters: Sequence[Adapter]) -> None:
    from gen_worker.models.low_vram import without_hooks

    with without_hooks(pipeline):
        for adapter in adapters:
            pipeline.load_lora_weights(dict(adapter.tensors), adapter_name=adapter.name)
        pipeline.set_adapters(
            [*before.active, *(adapter.name for adapter in adapters)],
            adapter_weights=[*(1.0 for _ in before.active), *(x.weight for x in adapters)],
        )
        before.restore_strengths()


def _detach(pipeline: Any, before: _State, adapters: Sequence[Adapter], request_id: str) -> None:
    """Bring the pipeline back; a failure is logged, because the call's own result counts."""
    from gen_worker.models.low_vram import without_hooks

    try:
        with without_hooks(pipeline):
            before.restore(pipeline, [adapter.name for adapter in adapters])
    except Exception:
        _log.exception("request %r could not detach its LoRAs", request_id)


class _State:
    """Which adapters a pipeline had of its own, and how strong they were; they stay active."""

    def __init__(self, pipeline: Any) -> None:
        self._present = _present(pipeline)
        self.active: list[str] = list(_call(pipeline, "get_active_adapters", []))
        layers = _layers(pipeline) if self._present else ()
        self._scales = [(layer, dict(layer.scaling)) for layer in layers]

    def restore(self, pipeline: Any, names: list[str]) -> None:
        if not self._present:
            pipeline.unload_lora_weights()
            return
        if self.active:  # first, because peft warns of deleting one that is active
            pipeline.set_adapters(self.active)
        added = _present(pipeline) - self._present
        pipeline.delete_adapters([name for name in names if name in added])
        self.restore_strengths()

    def restore_strengths(self) -> None:
        """Undo what `set_adapters` did to the strength of the pipeline's own."""
        for layer, scaling in self._scales:
            layer.scaling.update(scaling)


def _present(pipeline: Any) -> set[str]:
    """Return the names of all adapters that a pipeline has."""
    by_component = _call(pipeline, "get_list_adapters", {})
    return {name for names in by_component.values() for name in names}


def _call(pipeline: Any, method: str, default: Any) -> Any:
    found = getattr(pipeline, method, None)
    return found() if callable(found) else default


def _layers(pipeline: Any) -> Iterator[Any]:
    for part in pipeline.components.values():
        if callable(getattr(part, "modules", None)):
            yield from (x for x in part.modules() if isinstance(getattr(x, "scaling", None), dict))
