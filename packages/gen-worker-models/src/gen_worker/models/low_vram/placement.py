"""Brings a pipeline to its GPU, whole if it fits, and takes it down the ladder if it does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import is_out_of_memory
from gen_worker.models.low_vram.configure import configure, device_of
from gen_worker.models.low_vram.descent import descend
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.low_vram.failures import failed_component, release_frames
from gen_worker.models.low_vram.hooks import (
    State,
    mark_out_of_memory,
    move_to_cpu,
    note,
    remove_hooks,
    stamp_of,
    state_of,
)
from gen_worker.models.low_vram.ladder import (
    LADDER,
    OFFLOADED,
    auto_mode,
    preflight_mode,
    steps_after,
)
from gen_worker.models.low_vram.locks import lock_for_pipeline
from gen_worker.models.low_vram.steps import can_take
from gen_worker.models.residency.gpu_memory import index_of
from gen_worker.models.residency.weights import modules_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gen_worker.models.low_vram.ladder import Facts

    Tell = Callable[[str, dict[str, Any]], None]

__all__ = ["EVENT", "Placement", "escalate", "place"]

_log = logging.getLogger("gen_worker.models")

EVENT = "low_vram_mode_applied"
_METHODS = (
    "enable_model_cpu_offload",
    "enable_sequential_cpu_offload",
    "enable_group_offload",
    "enable_vae_slicing",
)


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """How a pipeline was brought to its device."""

    mode: str
    """The step in force; empty for an object that has none."""
    device: str
    result: Mapping[str, Any] = {}
    """What `apply_low_vram_config` answers for it."""

    @property
    def is_offloaded(self) -> bool:
        return self.mode in OFFLOADED


def place(
    pipeline: Any,
    device: str,
    *,
    model_id: str = "",
    dtype: Any = None,
    size_gb: float | None = None,
    peak_vram_gb: float | None = None,
    companions: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
    machine: Machine | None = None,
) -> Placement:
    """Bring an object that is in RAM to a device, with offload hooks if it does not fit whole.

    Blocks. The GPU's mutex is the caller's to hold. A pipeline whose offload hooks are installed
    for this device stays as it is, unless it fits by now and no call has run out of memory.

    Args:
        pipeline: A diffusers pipeline; another object with `.to` is moved, and no more.
        device: `cpu` or a GPU such as `cuda:0`.
        model_id: Which model; goes into the events.
        dtype: What weights are converted to; None leaves them.
        size_gb: Size in GiB where the object's own cannot be measured.
        peak_vram_gb: What the author declared that a request takes at its peak.
        companions: Loaded pipelines that share components with this one, by model id; they are
            taken to the same step, because hooks are on the components.
        tell: Told of `low_vram_mode_applied`.
        machine: Where it happens; by default this machine and the environment's settings.

    Raises:
        torch.OutOfMemoryError: It fits in no way; it is in RAM without hooks.
        Exception: What moving it raised otherwise; it is in RAM, if it could be moved there.
    """
    job = _Job(pipeline, device, model_id, dtype, companions or {}, tell, machine or Machine())
    with lock_for_pipeline(pipeline):
        return job.run(size_gb, peak_vram_gb)


def escalate(
    pipelines: Mapping[str, Any],
    *,
    error: BaseException | None = None,
    attempt: int = 1,
    tell: Tell | None = None,
    machine: Machine | None = None,
) -> bool:
    """After a call ran out of memory: take each of its pipelines one step down.

    Args:
        pipelines: By model id; those that share components with them belong to it.
        error: What the call raised. While it has its traceback, a failure inside the VAE is
            answered by slicing it; otherwise a pipeline that is whole on the GPU is offloaded at
            once, because slicing alone rarely frees enough.
        attempt: Counts from 1 within the call; goes into the events.
        tell: Told of `low_vram_mode_applied`.
        machine: Where it happens; by default this machine and the environment's settings.

    Returns:
        Whether any pipeline needs less now, and all can run; False: nothing is left to try.
    """
    machine = machine or Machine()
    if not machine.gpus.is_available():
        return False
    stages = {
        model_id: failed_component(pipeline, error) if error else ""
        for model_id, pipeline in pipelines.items()
    }
    if error is not None:
        release_frames(error)
    machine.gpus.flush()
    taken, is_stuck = False, False
    for model_id, pipeline in pipelines.items():
        if not has_steps(pipeline):
            continue
        job = _Job(pipeline, device_of(pipeline), model_id, None, {}, tell, machine)
        with lock_for_pipeline(pipeline):
            mark_out_of_memory(pipeline)
            steps = _steps_for(pipeline, stages[model_id], may_cast=machine.ladder.may_cast)
            try:
                taken |= job.descend(steps, "oom_escalation", attempt) is not None
            except Exception as failure:
                if not is_out_of_memory(failure):
                    raise
                is_stuck = True  # in RAM without hooks: a call would find it on the wrong device
    return taken and not is_stuck


def has_steps(pipeline: Any) -> bool:
    """Tell whether an object is a pipeline of which the ladder can make anything."""
    if any(callable(getattr(pipeline, name, None)) for name in _METHODS):
        return True
    vae = getattr(pipeline, "vae", None)
    return callable(getattr(vae, "enable_slicing", None))


def _steps_for(pipeline: Any, stage: str, *, may_cast: bool) -> list[str]:
    """Return the steps that may help a pipeline whose call ran out of memory, best first."""
    steps: list[str] = list(steps_after(stamp_of(pipeline), may_cast=may_cast))
    if "vae_only" in steps and not stage.startswith("vae"):
        steps.remove("vae_only")
        steps.append("vae_only")
    return [mode for mode in steps if mode != "vae_only" or getattr(pipeline, "vae", None)]


class _Job:
    """One pipeline on its way to one device."""

    def __init__(
        self,
        pipeline: Any,
        device: str,
        model_id: str,
        dtype: Any,
        companions: Mapping[str, Any],
        tell: Tell | None,
        machine: Machine,
    ) -> None:
        self.pipeline = pipeline
        self.device = device
        self.model_id = model_id
        self.dtype = dtype
        self.companions = companions
        self.tell = tell
        self.machine = machine

    def run(self, size_gb: float | None, peak_gb: float | None) -> Placement:
        if not has_steps(self.pipeline):
            self._move_or_return()
            return Placement(mode="", device=self.device)
        facts = self.machine.facts(self.pipeline, self.device, size_gb=size_gb, peak_gb=peak_gb)
        wanted = self._wanted(facts)
        if self._stays(wanted):
            return Placement(mode=stamp_of(self.pipeline), device=self.device)
        if wanted in OFFLOADED:
            result = self._offload(wanted)
        else:
            result = self._place_whole(wanted == "fp8_layerwise", facts)
        return Placement(mode=stamp_of(self.pipeline), device=self.device, result=result)

    def _wanted(self, facts: Facts) -> str | None:
        """Return the step to take instead of a move; None for a move."""
        order = [step.mode for step in LADDER]
        shared = {stamp_of(other) for other in self.companions.values()} & OFFLOADED
        if shared and facts.total_gb:
            return max(shared, key=order.index)  # type: ignore[arg-type]
        return preflight_mode(facts, self.machine.ladder)

    def _stays(self, wanted: str | None) -> bool:
        """Tell whether the hooks that are there stay; take them off otherwise."""
        state = state_of(self.pipeline)
        if state.mode not in OFFLOADED:
            return False
        if state.device == self.device and (wanted in OFFLOADED or state.has_run_out):
            return True
        remove_hooks(self.pipeline)
        move_to_cpu(self.pipeline)
        note(self.pipeline, State(mode="", is_cast=state.is_cast, has_run_out=state.has_run_out))
        return False

    def _offload(self, mode: str) -> Mapping[str, Any]:
        """Install a step without a move; one that is not there or does not fit gives the next."""
        steps = (mode, *steps_after(mode))
        self._convert()
        result = self.descend(steps, "preflight")
        if result is None:
            raise self._no_step()
        for model_id, other in self.companions.items():
            if stamp_of(other) != stamp_of(self.pipeline):
                job = _Job(other, self.device, model_id, None, {}, self.tell, self.machine)
                with lock_for_pipeline(other):
                    job.descend((stamp_of(self.pipeline),), "preflight")
        return result

    def _place_whole(self, is_cast: bool, facts: Facts) -> Mapping[str, Any]:
        """Move the pipeline; out of memory, take it down the ladder. Then the baseline."""
        ladder = self.machine.ladder
        if ladder.mode == "auto" and auto_mode(facts, ladder) in OFFLOADED:
            self._convert()
            return self._baseline(facts)
        if is_cast:
            self._convert()
            self.descend(("fp8_layerwise",), "preflight")
        attempt = 0
        while True:
            try:
                self._move_or_return()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                release_frames(error)
                self.machine.gpus.flush()
                mark_out_of_memory(self.pipeline)
                attempt += 1
                if ladder.may_cast and can_take(self.pipeline, "fp8_layerwise"):
                    self._convert()
                    if self.descend(("fp8_layerwise",), "oom_escalation", attempt):
                        continue
                steps = ("model_offload", "group_offload", "sequential")
                return self.descend(steps, "oom_escalation", attempt, error) or {}
            return self._baseline(facts)

    def _baseline(self, facts: Facts) -> Mapping[str, Any]:
        prior = stamp_of(self.pipeline)
        if prior:
            result: dict[str, Any] = {"mode": prior, "already_applied": True}
        else:
            result = configure(
                self.pipeline,
                "auto",
                self.device,
                machine=self.machine,
                size_gb=facts.size_gb,
                peak_gb=facts.peak_gb,
            )
        if index_of(self.device) is not None or result["mode"] != "off":
            self._say("baseline", "auto", None, result)
        return result

    def descend(
        self, steps: Iterable[str], stage: str, attempt: int = 0, error: Exception | None = None
    ) -> dict[str, Any] | None:
        """Install the first step that the pipeline can take and that fits, and tell of it.

        Raises:
            Exception: Steps did not fit: the last one's error, or `error`.
        """
        done = descend(
            self.pipeline,
            steps,
            self.device,
            machine=self.machine,
            name=f"model {self.model_id!r}",
            log=_log,
        )
        if done.mode:
            is_escalated = stage == "oom_escalation" or done.failures > 0
            number = attempt + done.failures if is_escalated else None
            self._say("oom_escalation" if is_escalated else stage, done.mode, number, done.result)
            return done.result
        reason = done.error or error
        if reason is not None:
            raise reason
        return None

    def _move_or_return(self) -> None:
        """Move the object; after a failure it is back in RAM."""
        try:
            self._move(self.device)
        except BaseException:
            try:
                move_to_cpu(self.pipeline)
            except Exception:
                _log.warning("model %r could not be moved back to RAM", self.model_id)
            raise

    def _move(self, device: str) -> None:
        move = getattr(self.pipeline, "to", None)
        if not callable(move):
            for module in modules_of(self.pipeline).values():
                module.to(device)
            return
        if self.dtype is None:
            move(device)
            return
        try:
            move(device, dtype=self.dtype)
        except TypeError:  # an object whose `to` takes a device only
            move(device)

    def _convert(self) -> None:
        """Convert weights now: once they are in 8 bits, a conversion would undo that."""
        if self.dtype is not None:
            self._move("cpu")
            self.dtype = None

    def _say(
        self, stage: str, requested: str, attempt: int | None, result: Mapping[str, Any]
    ) -> None:
        if self.tell is None:
            return
        payload: dict[str, Any] = {
            "model_id": self.model_id,
            "stage": stage,
            "requested_mode": requested,
        }
        if attempt is not None:
            payload["attempt"] = attempt
        payload.update((k, v) for k, v in result.items() if isinstance(v, (bool, str)))
        self.tell(EVENT, payload)

    def _no_step(self) -> Exception:
        from gen_worker.errors import ResourceError

        return ResourceError(
            f"model {self.model_id!r} does not fit {self.device} and can be offloaded in no way:"
            " use a smaller flavor or a larger GPU"
        )
