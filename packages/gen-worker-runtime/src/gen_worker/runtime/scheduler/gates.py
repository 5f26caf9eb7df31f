"""Why a worker cannot run a request, now or ever, in words for callers and operators."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from gen_worker.host_requirements import Gpu, HostFacts, missing_host_requirements
from gen_worker.runtime.scheduler.decisions import Never, Prediction, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gen_worker.runtime.scheduler.decisions import Needs, Policy, WaitCause
    from gen_worker.runtime.scheduler.snapshots import Hardware, WorkerState

__all__ = ["disabled_model", "explain", "in_words", "lasting_gap"]

_GIB = 1024**3
_REPORTED = frozenset({"bitsandbytes", "flashpack", "torchao", "transformer_engine"})
"""All that `installed_libs` may name (spec/wire.md 3.1); other libraries the worker judges."""

# The order is that of hope: the first that holds for some worker is what is waited for.
_HOPES: tuple[tuple[WaitCause, str], ...] = (
    ("loading", "{workers} still {loads} a model for {function!r}"),
    ("starting", "{workers} {has} not said yet whether {function!r} runs there"),
    ("silent", "{workers} {has} not been heard of lately"),
    ("draining", "{workers} {takes} nothing new before leaving"),
    ("disconnected", "{workers} {is_} not connected"),
)


def lasting_gap(needs: Needs, hardware: Hardware) -> str:
    """Return what a machine lacks for a request; empty when it lacks nothing."""
    gib = hardware.vram_bytes / _GIB
    gpus = (Gpu(gib, hardware.compute_capability),) if hardware.vram_bytes else ()
    gaps = missing_host_requirements(
        needs.resources,
        HostFacts(gpus),
        has_library=lambda name: name not in _REPORTED or name in hardware.libraries,
    )
    if gaps:
        return gaps[0].detail
    vram_bytes = needs.predictions.get(hardware.gpu_class, Prediction()).vram_bytes
    if gpus and needs.resources.needs_gpu and vram_bytes > hardware.vram_bytes:
        return f"it is expected to take {vram_bytes / _GIB:.1f} GiB of VRAM, there are {gib:.1f}"
    return ""


def disabled_model(needs: Needs) -> Never | None:
    """Return the answer to a request with a model that must not be used."""
    off = [f"{model.ref!r} ({model.disabled})" for model in needs.models if model.disabled]
    if not off:
        return None
    message = f"{needs.function!r} cannot use {', '.join(off)}: choose another model"
    return Never("model_disabled", message)


def explain(
    needs: Needs, workers: Iterable[WorkerState], now: float, policy: Policy
) -> Wait | Never:
    """Say why no worker at all may be given a request, where none may."""
    own = [worker for worker in workers if worker.release_id == needs.release_id]
    again_at = now + policy.look_again_s
    if not own:
        what = f"release {needs.release_id!r}" if needs.release_id else f"{needs.function!r}"
        return Wait("no_workers", f"no worker of {what} is there: start one", again_at)
    lacking: Counter[tuple[str, str]] = Counter()
    hopes: Counter[WaitCause] = Counter()
    refused = 0
    for worker in own:
        gap = lasting_gap(needs, worker.hardware)
        if not gap and needs.function in worker.unavailable:
            gap = worker.unavailable[needs.function]
            refused += 1
        if gap:
            lacking[worker.hardware.gpu_class or "workers without a GPU", gap] += 1
        else:
            hopes[_temporary(needs, worker, now, policy)] += 1
    if not hopes:
        shown = "; ".join(f"{name}: {gap}" for name, gap in sorted(lacking))
        message = f"no worker of this pool can run {needs.function!r}: {shown}"
        return Never("function_unavailable" if refused == len(own) else "hardware", message)
    cause, text = next(hope for hope in _HOPES if hope[0] in hopes)
    return Wait(cause, _sentence(text, hopes[cause], needs.function), again_at)


def _temporary(needs: Needs, worker: WorkerState, now: float, policy: Policy) -> WaitCause:
    if not worker.is_connected:
        return "disconnected"
    if worker.is_draining:
        return "draining"
    if worker.heard_at < now - policy.silent_s:
        return "silent"
    return "loading" if needs.function in worker.loading else "starting"


def _sentence(text: str, count: int, function: str) -> str:
    is_one = count == 1
    return text.format(
        workers="1 worker" if is_one else f"{count} workers",
        loads="loads" if is_one else "load",
        has="has" if is_one else "have",
        takes="takes" if is_one else "take",
        is_="is" if is_one else "are",
        function=function,
    )


def in_words(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 1:
        return "less than 1 s"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
