"""What a call needs from the place it runs in.

A host (a laptop, a worker, a test) is one `Ports` record. `RequestContext` and the engine talk to
these protocols and to nothing else. File, model and publish ports are coroutines; blocking work is
the implementer's to move off the loop. Telemetry is the exception: `Events.emit` is a plain call
that never blocks and never raises, because authors emit from inner loops.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from gen_worker.cancel import CancelToken
    from gen_worker.events import Telemetry
    from gen_worker.spec import Binding
    from gen_worker.types import Asset, Tensors

__all__ = [
    "NOBODY",
    "Destinations",
    "Directories",
    "Events",
    "FileLimits",
    "Files",
    "InputLimits",
    "ModelRequest",
    "Models",
    "OutputStream",
    "Ports",
    "Publisher",
    "RepoMetadata",
    "SaveOptions",
    "drive",
]

T = TypeVar("T")


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an input file may be. Comes from the annotation and the host, never from the payload."""

    max_bytes: int = 200 * 1024 * 1024
    mime_prefix: str = ""
    """`image/` for an `ImageAsset` and so on; empty allows any."""
    allowed_mime_types: tuple[str, ...] = ()
    max_width: int | None = None
    max_height: int | None = None
    max_pixels: int | None = None


class SaveOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an output is stored."""

    must_create: bool = False
    """Fail with `FileExistsError` when the ref exists already."""
    expected_size_bytes: int | None = None
    mime_type: str | None = None
    checkpoint_format: str | None = None
    """Set for model weights; the answer is then a `Tensors` instead of an `Asset`."""
    destination: str = ""
    """`owner/repo` that the job's checkpoints go to; empty when it has none."""
    repo_spec: Mapping[str, str] | None = None
    """What its revision is opened with, as `ctx.set_repo_spec` was told."""
    metadata: Mapping[str, Any] | None = None
    """`produced_by_kind`, `step_number`, … as `ctx.save_checkpoint` documents them."""


class OutputStream(Protocol):
    """A file being written piece by piece; see `ctx.open_output_stream`."""

    bytes_written: int
    bytes_uploaded: int
    stream_mode: str

    def write(self, data: bytes | bytearray | memoryview) -> int: ...
    def flush(self) -> None: ...
    def finalize(self) -> Asset | Tensors:
        """Store the file under its ref. Called at most once."""
        ...

    def abort(self) -> None:
        """Discard everything written. Called at most once, and not after `finalize`."""
        ...


class Files(Protocol):
    """Where inputs come from and outputs go. One instance per host, called once per file."""

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        """Return a copy of `value` with `local_path`, size, digest and type filled in.

        Raises:
            ValidationError: The file is not what the limits allow.
            InputTooLargeError: It is larger than the limits allow.
            ArtifactTransferError: It could not be fetched.
        """
        ...

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        """Store one finished output under `ref`."""
        ...

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> OutputStream:
        """Start an output that is written piece by piece."""
        ...

    async def release(self, request_id: str) -> None:
        """Forget whatever was kept for one request.

        Called exactly once, when a request that used this port or the publisher has ended; never
        for one that used neither.
        """
        ...


@runtime_checkable
class Directories(Protocol):
    """What a `Files` port may offer besides: whole directories as inputs."""

    async def find_directory(
        self,
        ref: str,
        *,
        request_id: str,
        checkpoint_id: str = "",
        attributes: Mapping[str, Any] | None = None,
        is_dataset: bool = False,
    ) -> str | None:
        """Return the local directory of a job's source or dataset; None when it is not here.

        Of a source that is one file of weights it is that file.

        Args:
            ref: A repository or dataset, or a directory of this machine, which is what it is.
            request_id: The call that asks.
            checkpoint_id: The one that is meant, whatever the tag of `ref` says.
            attributes: What the flavor must have, where neither `ref` nor an id names it.
            is_dataset: Whether a dataset is meant, should a repository have that name, too.
        """
        ...


class InputLimits(Protocol):
    """What a `Files` port may offer besides: limits for inputs whose annotation says nothing."""

    @property
    def input_limits(self) -> FileLimits: ...


class Events(Protocol):
    """Where telemetry goes. Called from any thread, must not block, must not raise."""

    def emit(self, event: Telemetry) -> None: ...


class ModelRequest(NamedTuple):
    """On whose behalf a model is asked for."""

    function: str = ""
    parameter: str = ""
    request_id: str = ""
    """Empty when no single call asks, as for a class's `setup`."""
    token: CancelToken | None = None
    """Ends the waiting; None when nobody may."""
    is_setup: bool = False
    """For a class's `setup`, where a parameter without a type receives the path."""
    peak_vram_gb: float | None = None
    """GiB of GPU memory that a call takes at its peak, as its author declared."""


NOBODY = ModelRequest()
"""Nobody in particular asks for a model: a command that fetches it, a test."""


class Models(Protocol):
    """How a declared binding becomes a live object."""

    async def prepare(
        self,
        binding: Binding,
        choice: Mapping[str, Any],
        annotation: Any,
        request: ModelRequest = NOBODY,
    ) -> object:
        """Resolve and fetch, holding no slot.

        Args:
            binding: What the author declared.
            choice: What to load: `{ref, tag, flavor, provider, …}` as `Binding.choose` returned.
            annotation: The type of the receiving parameter; `Any` when it has none.
            request: Who asks.

        Returns:
            A token that `lease` understands.

        Raises:
            ModelResolutionError: There is no such model, or it cannot be had here.
        """
        ...

    def lease(
        self,
        prepared: object,
        *,
        device: str,
        request: ModelRequest = NOBODY,
    ) -> AbstractAsyncContextManager[object]:
        """Give the loaded object for the time of one call (or of one `setup`), inside a slot.

        What a class's `setup` prepared is leased again for each of its calls.
        """
        ...

    async def escalate(
        self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
    ) -> bool:
        """After out-of-memory: make the leased models need less. False = nothing left to try.

        Args:
            prepared: What is leased.
            error: What the call raised, with its traceback, whose frames may be cleared.
            device: Where it is leased.
            attempt: Counts from 1 within the call.
        """
        ...


class Publisher(Protocol):
    """How a job's files become a new revision of a repository.

    A failure raises; each method may be called again for another session meanwhile. One that keeps
    files on this machine says so by `keeps_files_here = True`: nothing is sent to it early.
    """

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> object:
        """Begin a revision and return what the other methods know it by.

        Args:
            destination: `owner/repo`, or the dataset with `target="dataset"`.
            request_id: The call that publishes.
            **spec: `target` and the keywords of `ctx.set_repo_spec` that were given.
        """
        ...

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        """Store one file of the revision.

        Args:
            session: As `open` returned it.
            path: The ref it is stored under, `jobs/<job>/outputs/…`.
            source: The local file.

        Returns:
            What is known of it: `ref`, `size_bytes` and digests, named as in `Tensors`.
        """
        ...

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        """Commit the revision and its tags at once; the answer reaches the author.

        Args:
            session: As `open` returned it; it is over after this.
            **manifest: Keywords of `ctx.publish_repo_revision` or `ctx.publish_dataset_revision`.
        """
        ...

    async def abort(self, session: object) -> None:
        """Drop a revision that was not finalized."""
        ...


@runtime_checkable
class Destinations(Protocol):
    """What a `Publisher` may offer besides: to refuse a destination before there is work in it."""

    async def check_destination(self, repo: str, *, request_id: str) -> None:
        """Raise what `open` would, as far as it is known; it may ask the hub."""
        ...


@runtime_checkable
class RepoMetadata(Protocol):
    """What a `Publisher` may offer besides: the free-form metadata of a repository."""

    async def read_metadata(self, repo: str, *, request_id: str) -> Mapping[str, Any] | None:
        """Return the metadata; None when there is no such repository."""
        ...

    async def write_metadata(
        self, repo: str, metadata: Mapping[str, Any], *, request_id: str
    ) -> Mapping[str, Any]:
        """Replace the metadata and return what the hub answers."""
        ...


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for an event loop, without one.

    Raises:
        RuntimeError: It did wait; the host needs an event loop and its own `Ports.run`.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(
        "this port waits on an event loop: give the host's `Ports` a `run` of its own"
    )


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """One host."""

    files: Files
    events: Events
    models: Models
    publisher: Publisher | None = None
    """None: publishing answers `{"ok": False, "skipped": True, …}`."""
    run: Callable[[Coroutine[Any, Any, Any]], Any] = drive
    """Runs a port's coroutine for a blocking caller (`ctx.save_bytes`) in the handler's thread."""
    repeats_within_s: float | None = 0.0
    """For so long a call may come again that has ended for good, as nobody heard of its end.

    None: no call ever comes again, even one that was killed.
    """
