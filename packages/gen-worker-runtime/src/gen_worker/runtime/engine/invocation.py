"""What a transport hands to the engine, and what it gets back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from gen_worker.events import Event, Failed, Result
from gen_worker.types import Compute

__all__ = ["EngineLimits", "Format", "Invocation", "Outcome", "Sink"]

Format = Literal["json", "msgpack", "object"]
Outcome = Result | Failed


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """One call as its caller asked for it; whatever the transport, the same record."""

    function: str
    """Slug, registered name or Python name."""
    payload: bytes | Mapping[str, Any] | msgspec.Struct = b"{}"
    payload_format: Format = "json"
    """How `payload` is encoded when it is bytes; `object` takes a mapping or a struct."""
    result_format: Format = "object"
    """`json` and `msgpack` make `Result.value` and `Delta.value` a `msgspec.Raw`."""
    request_id: str
    timeout_ms: int | None = None
    """The call is canceled this long after it was submitted; the function's own limit counts too,
    whichever is shorter."""
    overrides: Mapping[str, Any] | None = None
    """A `_models` envelope. One inside the payload is taken out too; an entry here wins."""
    models: Mapping[str, Any] | None = None
    """Models by parameter that the host chose or checked itself, as records of choices; each says
    whose wish it is in `source`. An envelope's entry comes before them."""
    owner: str | None = None
    invoker_id: str | None = None
    job_id: str | None = None
    hints: Mapping[str, Any] = {}
    compute: Compute | None = None
    device: str | None = None
    """Which of the engine's devices to run on; None leaves the choice to the engine."""


class Sink(Protocol):
    """The transport's side of one call.

    Called on the loop thread for a submitted call, in the calling thread for `Engine.run`.
    """

    wants_events: bool
    """Also receive `Progress`, `Log` and `Emitted`, in the order the handler made them."""

    def deliver(self, batch: Sequence[Event]) -> None:
        """Take what the call produced, in order. Must not block and must not raise.

        The last item of the last batch is the one `Result` or `Failed` of the call. A transport
        that is behind calls `RunningCall.pause` and `resume`; what it got already it keeps.
        """
        ...


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one engine. Zero bytes means no limit."""

    max_queue: int = 1024
    """Calls that may wait for a thread or a slot; one more is refused as overloaded."""
    max_threads: int = min(32, (os.cpu_count() or 1) + 4)
    """Blocking handlers of CPU functions running at once. Each device has one thread besides."""
    max_tasks: int = 1024
    """Async handlers of CPU functions running at once."""
    max_buffered_deltas: int = 256
    """Items one call may have waiting for its transport; then its generator waits."""
    max_buffered_bytes: int = 1024 * 1024
    """The same in encoded bytes; counted only where deltas are encoded."""
    max_buffered_events: int = 1024
    """Telemetry one call may have waiting for its transport; more is shed and counted."""
    grace_s: float = 5.0
    """How long a canceled handler may go on before it is reported as stuck."""
    setup_retry_s: float = 1.0
    """Wait before a failed `setup` is tried again; doubles with each failure, up to a minute."""
    max_input_bytes: int = 0
    max_output_bytes: int = 0
    """Of an encoded result; not checked for `result_format="object"`."""
    max_output_delta_bytes: int = 65_536
    """The same of a stream's items, without their audio; longer plain text is divided."""
    max_deltas: int = 0
    """Items after which a stream is ended as if its function had returned; 0 is no limit."""
