"""Which worker a request goes to, or why it waits: a pure function of what is known.

The rules, in their order, are in docs/decisions/0820.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.scheduler.candidates import find, missing_room
from gen_worker.runtime.scheduler.decisions import Give, Tier, Wait
from gen_worker.runtime.scheduler.gates import disabled_model, explain, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from gen_worker.runtime.scheduler.candidates import Candidate, Found
    from gen_worker.runtime.scheduler.decisions import Decision, Needs, Policy
    from gen_worker.runtime.scheduler.snapshots import WorkerState

__all__ = ["place"]

_SHORTEST_WAIT_S = 0.01
_COLDEST_FIRST: tuple[Tier, ...] = ("cold", "disk", "ram")


def place(
    needs: Needs,
    workers: Sequence[WorkerState],
    *,
    now: float,
    policy: Policy,
    needed: Set[str] = frozenset(),
) -> Decision:
    """Decide about the request whose turn it is.

    Args:
        needs: Of the request.
        workers: All that are known; their order does not matter.
        now: On the clock of the workers' times.
        policy: How to weigh.
        needed: Refs that other waiting requests need; they are not unloaded for this one.
    """
    disabled = disabled_model(needs)
    if disabled is not None:
        return disabled
    found = find(needs, workers, needed, now, policy)
    target = found.warm or found.any
    if target is None:
        if found.crowded:
            message = (
                f"{_devices(found.crowded)} full of models that other waiting requests need:"
                f" there is no room for those of {needs.function!r} yet"
            )
            return Wait("room", message, now + policy.look_again_s)
        return explain(needs, workers, now, policy)
    if found.now is not None and _is_worth_it(found.now, target, found, needs, now, policy):
        return _give(found.now, needs, needed, is_replica=found.warm is not None)
    return _wait(target, found, now, policy)


def _is_worth_it(
    ready: Candidate, target: Candidate, found: Found, needs: Needs, now: float, policy: Policy
) -> bool:
    """Tell whether the best that is ready is taken, rather than to wait for the best."""
    if ready.device is target.device:
        return True
    since = now if needs.deferred_since is None else needs.deferred_since
    if now - since > policy.patience_s + ready.load_s:
        return True
    delay_s = ready.done_at - now - target.run_s
    slots = max(found.warm_slots, target.device.slots)
    drained_s = target.done_at - now - target.run_s + needs.backlog_s / slots
    if not ready.load_s:
        return delay_s <= drained_s
    return delay_s * policy.replica_factor < drained_s


def _give(ready: Candidate, needs: Needs, needed: Set[str], *, is_replica: bool) -> Give:
    is_cold = any(model.ref not in ready.device.models for model in needs.models)
    return Give(
        ready.worker_id,
        ready.gpu_index if needs.resources.needs_gpu else None,
        _coldest_tier(ready, needs),
        ready.start_at,
        ready.start_at + ready.load_s + ready.run_s,
        is_replica=is_replica and is_cold,
        unload=missing_room(ready, needs, needed) if is_cold else (),
    )


def _coldest_tier(ready: Candidate, needs: Needs) -> Tier:
    missing = [model.ref for model in needs.models if model.ref not in ready.device.models]
    tiers = {ready.worker.nearby.get(ref, "cold") for ref in missing}
    return next((tier for tier in _COLDEST_FIRST if tier in tiers), "vram")


def _wait(target: Candidate, found: Found, now: float, policy: Policy) -> Wait:
    wait_s = target.start_at - now
    again_s = min(max(wait_s - policy.prefetch_s, _SHORTEST_WAIT_S), policy.look_again_s)
    again_at = now + again_s
    who, free = f"worker {target.worker_id!r}", in_words(wait_s)
    if target.worker.refused_until > now:
        return Wait("overloaded", f"{who} has refused work, and is asked again in {free}", again_at)
    if found.warm is not None and found.now is not None and found.now.load_s:
        message = (
            f"its models are loaded on {who}, which is expected to be free in {free};"
            f" to load them elsewhere takes {in_words(found.now.load_s)}"
        )
        return Wait("warm", message, again_at)
    message = f"every worker that can run it is busy; {who} is expected to be free in {free}"
    return Wait("busy", message, again_at)


def _devices(count: int) -> str:
    return "1 device is" if count == 1 else f"{count} devices are"
