"""What the HTTP app needs of the place that runs calls: an engine here, or a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from gen_worker.spec import EndpointKind, OutputMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.cancel import CancelReason
    from gen_worker.runtime.engine import Invocation, Sink
    from gen_worker.runtime.http.jobs import Jobs
    from gen_worker.runtime.http.table import HttpRoute

__all__ = [
    "Backend",
    "DirectCalls",
    "FileRoom",
    "Handle",
    "Health",
    "ModelRoom",
    "NewFile",
    "ServedFunction",
    "StoredFile",
    "Target",
]


class Target(NamedTuple):
    """A function as a caller's path names it; what is not said is empty."""

    function: str
    endpoint: str = ""
    owner: str = ""
    tag: str = ""

    def __str__(self) -> str:
        path = "/".join(part for part in (self.owner, self.endpoint, self.function) if part)
        return f"{path}:{self.tag}" if self.tag else path


class ServedFunction(msgspec.Struct, frozen=True, kw_only=True):
    """One function as `GET /v1/functions` lists it; schemas are JSON Schema."""

    name: str
    """Routable slug."""
    registered_name: str
    python_name: str
    endpoint: str
    owner: str | None = None
    kind: EndpointKind
    output_mode: OutputMode
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    """Of the result, or of each item of a stream; None when the author declared no type."""
    label: str | None = None
    description: str | None = None
    timeout_ms: int | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, each in a few words; nothing is wrong where both are empty."""

    broken: tuple[str, ...] = ()
    """Only a new process mends it."""
    unready: tuple[str, ...] = ()
    """New requests had better go elsewhere for now."""


class Handle(Protocol):
    """A call under way. All methods are called on the loop."""

    def cancel(self, reason: CancelReason) -> None: ...
    def pause(self) -> None:
        """Deliver nothing until `resume`; what produces waits once its own buffer is full."""
        ...

    def resume(self) -> None: ...


class StoredFile(NamedTuple):
    """A file that callers may read."""

    path: str
    mime_type: str = ""
    """Empty: what its name says."""
    etag: str = ""
    """Empty: made of the file's state on the disk."""


class NewFile(Protocol):
    """A file in the making. Blocking: called in a thread; one of its methods is called, once."""

    @property
    def ref(self) -> str:
        """What it will be called; nobody else has it."""
        ...

    @property
    def path(self) -> str:
        """Where it is to be written; there is nothing yet."""
        ...

    def keep(self) -> None:
        """Take it in, as it is whole: it is found under its ref from now on."""
        ...

    def discard(self) -> None:
        """Remove what was written of it, if anything was."""
        ...


class FileRoom(Protocol):
    """Uploaded files and outputs. Blocking: called in a thread."""

    def find(self, ref: str, owner: str | None) -> StoredFile:
        """Return the file of a ref.

        Args:
            ref: As it was named in an answer.
            owner: Whose files the caller may read; None: anybody's.

        Raises:
            Refusal: 404, there is none that the caller may read.
        """
        ...

    def new_upload(self, name: str, owner: str | None) -> NewFile:
        """Begin a file.

        Args:
            name: The last part of its ref.
            owner: Whose it is; None: nobody's in particular.

        Raises:
            Refusal: 400, the name cannot be one of a file.
        """
        ...


class ModelRoom(Protocol):
    """The models behind the functions. Blocking: called in a thread."""

    def statistics(self) -> dict[str, Any]:
        """Return what is where, as `ModelCacheStats` names it."""
        ...

    def prefetch(self, ref: str, dtypes: Sequence[str]) -> None:
        """Have a model's files here.

        Raises:
            WorkerError: They are not to be had.
        """
        ...

    def load(self, model_id: str) -> None:
        """Have a model in memory.

        Raises:
            WorkerError: No function uses it, or it cannot be loaded.
        """
        ...

    def unload(self, model_id: str) -> bool:
        """Give a model's memory up; False when it is not loaded.

        Raises:
            WorkerError: Somebody uses it.
        """
        ...


class DirectCalls(Protocol):
    """Calls that live as long as somebody waits for them. On the loop; does not block."""

    def submit(self, invocation: Invocation, sink: Sink) -> Handle:
        """Start a call; refusals reach the sink as its `Failed`, after this has returned."""
        ...

    async def warm_up(self, function: str) -> None:
        """Set up what a function needs before its first call.

        Raises:
            Exception: What the author's `setup` raised.
        """
        ...


class Backend(Protocol):
    """Where calls go. Its methods are called on the loop and do not block."""

    @property
    def direct(self) -> DirectCalls | None:
        """Makes the calls that somebody waits for; None: they are requests of `jobs`, too."""
        ...

    @property
    def jobs(self) -> Jobs: ...
    @property
    def files(self) -> FileRoom | None: ...
    @property
    def models(self) -> ModelRoom | None: ...
    @property
    def routes(self) -> Sequence[HttpRoute]:
        """What this host answers beyond what all do; read once."""
        ...

    def find(self, target: Target) -> str:
        """Return what `Invocation.function` has to be.

        Raises:
            UnknownFunctionError: There is no such function here.
        """
        ...

    async def functions(self) -> Sequence[ServedFunction]: ...
    def health(self) -> Health: ...

    def status(self) -> dict[str, Any]:
        """Return figures for `GET /v1/status`."""
        ...

    def metrics(self) -> bytes:
        """Return what `GET /metrics` shows, in the text format of Prometheus."""
        ...
