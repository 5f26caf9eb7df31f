"""What the operator decides about dispatch."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gen_worker.runtime.scheduler.decisions import Policy

__all__ = ["DispatchOptions"]


class DispatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are given to workers. Seconds and bytes; 0 turns a limit off."""

    policy: Policy = Policy()
    """Of placement."""
    processor_slots: int = 8
    """Calls without a GPU that a worker runs at the same time, until it refuses some."""
    max_running: Mapping[str, int] = {}
    """Of a function, on all workers together: by `function`, `endpoint/function` or
    `owner/endpoint/function`."""
    lost_after_s: float = 30.0
    """Without a connection, after which what a worker was given is given to others."""
    reunion_s: float = 2.0
    """After the start, for workers to come back and say what they run, before requests that were
    submitted earlier are given to others."""
    never_after_s: float = 5.0
    """For which no worker of the pool must be able to run a request, before it fails."""
    stream_grace_s: float = 30.0
    """For the rest of a stream to arrive after its result."""
    mute_grace_s: float = 600.0
    """Beyond a function's own timeout, in which a worker that is there may say nothing of a request
    before that counts as lost. Models are loaded meanwhile."""
    mute_after_s: float = 86_400.0
    """The same for a function without a timeout."""
    mute_look_s: float = 5.0
    """How often it is looked for such requests."""
    stuck_after_s: float = 60.0
    """For a worker to answer a cancel, before its slot is given to others."""
    unsent_s: float = 1.0
    """For a worker to send a result that it names when it comes back, before it is told to stop a
    request that nobody waits for."""
    max_output_bytes: int = 256 * 1024 * 1024
    """Of one request, all that it streams and reports together."""
    max_unwritten_bytes: int = 8 * 1024 * 1024
    """Of what one worker said and is not on the disk yet; then no more of it is read."""
    max_all_unwritten_bytes: int = 64 * 1024 * 1024
    """Of all workers together."""
    save_every_s: float = 60.0
    """How often what was learned of costs is kept."""
