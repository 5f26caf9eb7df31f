"""What a handler knows about its call: who asked, how long it may take, whether to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypedDict

from gen_worker.cancel import CancelToken, shield
from gen_worker.events import Emitted, Log, Metric, Progress

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from typing import Unpack

    from gen_worker.events import Telemetry
    from gen_worker.ports import Ports
    from gen_worker.types import Compute

__all__ = ["CallContext", "CancelFlag", "JobFields", "Partition"]


class Partition(TypedDict, total=False):
    """The place of a call in a divided request."""

    parent_request_id: str | None
    child_request_id: str | None
    item_id: str | None
    item_index: int | None
    item_span: Mapping[str, Any] | None


class JobFields(TypedDict, total=False):
    """Keywords of `RequestContext` that few calls have."""

    source: Mapping[str, Any]
    """What a job reads: `{ref, checkpoint_id?, attributes?}`."""
    source_path: str
    """Local directory of that source."""
    destination: Mapping[str, Any]
    """Where a job publishes: `{ref, tags?}`."""
    resolved_repos_by_id: Mapping[str, Any]
    required_models: Sequence[str]
    partition: Partition
    hf_token: str


class CancelFlag:
    """Whether a call is canceled, right now: use it as a value or call it."""

    __slots__ = ("_context",)

    def __init__(self, context: CallContext) -> None:
        self._context = context

    def __bool__(self) -> bool:
        return self._context.is_canceled()

    def __call__(self) -> bool:
        return self._context.is_canceled()

    def __repr__(self) -> str:
        return f"<canceled: {bool(self)}>"


class CallContext:
    """Identity, time, cancellation and telemetry of one call; the base of `RequestContext`."""

    # An instance is made for every call, so all that few handlers look at is made on demand.
    # `__dict__` lets an author's test replace a method or keep a value, and is free until used.
    __slots__ = (
        "__dict__",
        "_clock",
        "_compute",
        "_device",
        "_extra",
        "_hints",
        "_models",
        "_ports",
        "cancel_token",
        "deadline",
        "invoker_id",
        "job_id",
        "owner",
        "request_id",
        "timeout_ms",
    )

    def __init__(
        self,
        request_id: str,
        *,
        ports: Ports | None = None,
        token: CancelToken | None = None,
        job_id: str | None = None,
        owner: str | None = None,
        invoker_id: str | None = None,
        timeout_ms: int | None = None,
        deadline: float | None = None,
        device: str | None = None,
        compute: Compute | None = None,
        models: Mapping[str, Any] | None = None,
        hints: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        **job: Unpack[JobFields],
    ) -> None:
        """Describe one call. Everything but the id is optional, so a test can make one.

        Args:
            request_id: Also the name of the directory outputs are stored under.
            ports: The host. Without one, events are dropped and files are written below
                `GEN_WORKER_LOCAL_OUTPUT_DIR`, else `./.gen-worker-run/outputs`.
            token: Tells the call to stop.
            job_id: Job this call belongs to.
            owner: Account the call is billed to.
            invoker_id: Who asked.
            timeout_ms: Time limit; sets `deadline` when that is not given.
            deadline: Unix time in seconds.
            device: What `ctx.device` answers, such as `cuda:1`; None asks `WORKER_TORCH_DEVICE`,
                then looks for a GPU, as `auto` does.
            compute: The hardware the call was placed on.
            models: Effective bindings by parameter name.
            hints: Execution hints, such as `{"output_format": "inline"}`.
            clock: Source of Unix time.
            **job: See `JobFields`.
        """
        self.request_id = request_id
        self.job_id = job_id
        self.owner = owner
        self.invoker_id = invoker_id
        self.timeout_ms = timeout_ms
        if deadline is None and timeout_ms is not None:
            deadline = clock() + timeout_ms / 1000
        self.deadline = deadline
        self.cancel_token = CancelToken() if token is None else token
        self._ports = ports
        self._device = device
        self._compute = compute
        self._models = models
        self._hints = hints
        self._clock = clock
        self._extra: dict[str, Any] = job  # type: ignore[assignment]  # a TypedDict is a dict

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request_id!r}>"

    # Identity

    @property
    def workspace_scope_id(self) -> str:
        return self.job_id or self.request_id

    @property
    def compute(self) -> Compute:
        if self._compute is None:
            from gen_worker.types import Compute

            self._compute = Compute()
        return self._compute

    @property
    def models(self) -> dict[str, Any]:
        """Effective bindings by parameter name, as a copy."""
        return _deep_copy(self._models or {})

    @property
    def resolved_repos_by_id(self) -> dict[str, Any] | None:
        repos = self._extra.get("resolved_repos_by_id")
        return None if repos is None else _deep_copy(repos)

    @property
    def resolved_cozy_models_by_id(self) -> dict[str, Any] | None:
        """Older name of `resolved_repos_by_id`."""
        return self.resolved_repos_by_id

    @property
    def required_models(self) -> list[str]:
        return list(self._extra.get("required_models", ()))

    @property
    def execution_hints(self) -> dict[str, Any]:
        return _deep_copy(self._hints or {})

    @property
    def source(self) -> dict[str, Any]:
        return _deep_copy(self._extra.get("source") or {})

    @property
    def source_path(self) -> str | None:
        """Directory of the fetched source; None while there is none."""
        path: str | None = self._extra.get("source_path")
        return path

    @property
    def destination(self) -> dict[str, Any]:
        return _deep_copy(self._extra.get("destination") or {})

    @property
    def hf_token(self) -> str:
        """Hugging Face token; empty when there is none."""
        token: str | None = self._extra.get("hf_token")
        if token is None:
            from gen_worker.settings import load_settings

            token = load_settings().hf_token
        return token

    @property
    def device(self) -> Any:
        """The torch device to compute on: `cuda:<n>` or `cpu`.

        Raises:
            RuntimeError: torch is not installed.
        """
        try:
            import torch  # type: ignore[import-not-found,unused-ignore]  # an optional extra
        except ImportError as error:
            raise RuntimeError('ctx.device needs torch: install "gen-worker[torch]"') from error
        if self._device is None:
            from gen_worker.settings import load_settings

            self._device = load_settings().torch_device
        if self._device not in ("", "auto"):
            device = torch.device(self._device)
        else:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return device

    # Partitioned work

    @property
    def parent_request_id(self) -> str | None:
        return self._partition.get("parent_request_id")

    @property
    def child_request_id(self) -> str | None:
        return self._partition.get("child_request_id")

    @property
    def item_id(self) -> str | None:
        return self._partition.get("item_id")

    @property
    def item_index(self) -> int | None:
        return self._partition.get("item_index")

    @property
    def item_span(self) -> dict[str, Any]:
        return _deep_copy(self._partition.get("item_span") or {})

    def partition_context(self) -> dict[str, Any]:
        """Return the place of this call in a divided request, as one record."""
        return {
            "parent_request_id": self.parent_request_id,
            "child_request_id": self.child_request_id,
            "item_id": self.item_id,
            "item_index": self.item_index,
            "item_span": self.item_span,
        }

    @property
    def _partition(self) -> Partition:
        partition: Partition = self._extra.get("partition", {})
        return partition

    # Batching hints of the older dialect

    def preferred_batch_size(self, default: int = 1) -> int:
        """Return how many items to compute at once, as the host suggests."""
        return self._positive_hint(("preferred_batch_size", "batch_size_target"), default)

    def prefetch_depth(self, default: int = 1) -> int:
        """Return how many items to load ahead, as the host suggests."""
        return self._positive_hint(("prefetch_depth",), default)

    def _positive_hint(self, names: tuple[str, ...], default: int) -> int:
        for name in names:
            value = (self._hints or {}).get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return default

    # Time

    def time_remaining_s(self) -> float | None:
        """Return the seconds until the deadline, never negative; None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._clock())

    # Cancellation

    def is_canceled(self) -> bool:
        """Tell whether to stop: the call was canceled or its deadline has passed."""
        token = self.cancel_token
        if token.reason is None and self.deadline is not None and self._clock() >= self.deadline:
            token.cancel("deadline")
        return token.reason is not None

    def raise_if_canceled(self, message: str = "") -> None:
        """Raise `CanceledError` (`DeadlineExceededError` for a deadline) if `is_canceled()`."""
        if self.is_canceled():
            raise self.cancel_token.error(message)

    def cancel(self) -> None:
        """Cancel this call from within."""
        self.cancel_token.cancel("caller")

    def done(self) -> threading.Event:
        """Return an event that is set once the call is canceled."""
        return self.cancel_token.event

    @property
    def cancel_event(self) -> threading.Event:
        """The same as `done()`."""
        return self.cancel_token.event

    @property
    def cancelled(self) -> CancelFlag:
        """Whether the call is canceled; `ctx.cancelled` and `ctx.cancelled()` both work."""
        return CancelFlag(self)

    async def wait_until_canceled(self) -> None:
        """Return once the call is canceled."""
        await self.cancel_token.wait_async()

    # Telemetry

    def progress(self, progress: float, stage: str | None = None) -> None:
        """Report how far the call is.

        Args:
            progress: From 0 to 1; values beyond are cut.
            stage: What it is doing now.

        Raises:
            TypeError: `progress` is no number.
        """
        try:
            fraction = min(1.0, max(0.0, float(progress)))
        except (TypeError, ValueError) as error:  # which would say that the payload is wrong
            raise TypeError(f"progress is a number from 0 to 1, not {progress!r}") from error
        self._send(
            Progress(request_id=self.request_id, progress=fraction, stage=stage, at=self._clock())
        )

    def log(self, message: str, level: str = "info") -> None:
        """Send one line to whoever follows the call."""
        self._send(
            Log(request_id=self.request_id, message=str(message), level=level, at=self._clock())
        )

    def emit(self, event_type: str, payload: Mapping[str, Any] | None = None) -> None:
        """Send an event of your own to whoever follows the call; without a follower it is dropped.

        Args:
            event_type: Dotted name, such as `upscale.tile_done`.
            payload: A JSON object; what JSON cannot say is sent as text.
        """
        self._send(
            Emitted(
                request_id=self.request_id,
                type=str(event_type),
                payload=dict(payload or {}),
                at=self._clock(),
            )
        )

    def _measured(self, name: str, value: float) -> None:
        """Tell the host a number about this call; its followers do not see it."""
        self._send(Metric(request_id=self.request_id, name=name, value=value, at=self._clock()))

    def _send(self, event: Telemetry) -> None:
        if self._ports is not None:
            with shield():
                self._ports.events.emit(event)


def _deep_copy(value: Mapping[str, Any]) -> dict[str, Any]:
    if not value:
        return {}
    from copy import deepcopy

    return deepcopy(dict(value))
