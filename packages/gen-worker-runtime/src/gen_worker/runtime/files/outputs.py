"""Outputs of requests: hashed on their way to disk, then sent to the hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.context.local_stream import FileStream, exists_already, write_error
from gen_worker.context.media import HEAD_BYTES, media_type
from gen_worker.errors import OutputTooLargeError
from gen_worker.models.hub.uploading import FileFacts, file_facts
from gen_worker.runtime.files.telling import UploadTeller
from gen_worker.runtime.files.uploads import Finished, record_of, upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.ports import Events, SaveOptions
    from gen_worker.runtime.files.limits import FilePolicy
    from gen_worker.runtime.files.requests import Request
    from gen_worker.types import Asset, Tensors

    Tell = Callable[[str, dict[str, Any]], object]

__all__ = ["HubOutputs", "HubStream"]

_FOLDER = "outputs"


class HubOutputs:
    """Stores the outputs of requests that have a hub. Thread-safe, blocking."""

    def __init__(self, policy: FilePolicy, events: Events) -> None:
        self._policy = policy
        self._events = events

    def save(
        self, request: Request, ref: str, source: bytes | Path, options: SaveOptions
    ) -> Asset | Tensors:
        """Store a finished output; see the `Files` port."""
        if not isinstance(source, bytes):
            self.check_new(request, ref, options)
            file = self.finished(ref, source, options)
            return self.send(request, ref, file, options, self.teller(request))
        stream = HubStream(self, request, ref, options, self.teller(request))
        try:
            stream.write(source)
        except BaseException:
            stream.abort()
            raise
        return stream.finalize()

    def open(self, request: Request, ref: str, options: SaveOptions) -> HubStream:
        """Begin an output that is written piece by piece; its writer tells of its end itself."""
        stream = HubStream(self, request, ref, options, self.teller(request, tells_end=False))
        request.streams.append(stream)
        return stream

    @property
    def report_interval_s(self) -> float:
        return self._policy.progress_interval_s

    def check_new(self, request: Request, ref: str, options: SaveOptions) -> None:
        """Refuse a ref that has to be new and is not.

        Raises:
            FileExistsError: It exists.
        """
        if not options.must_create:
            return
        if ref in request.created or request.client().file_facts(ref) is not None:
            raise exists_already(ref)

    def check_size(self, size_bytes: int) -> None:
        """Raise `OutputTooLargeError` for more than an output may have."""
        if size_bytes > self._policy.max_upload_bytes:
            raise OutputTooLargeError(
                size_bytes=size_bytes, max_bytes=self._policy.max_upload_bytes
            )

    def send(
        self,
        request: Request,
        ref: str,
        file: Finished,
        options: SaveOptions,
        teller: UploadTeller,
        count: Tell | None = None,
    ) -> Asset | Tensors:
        """Send a finished file, and remember that its ref exists."""
        try:
            sent = upload(request, ref, file, options, policy=self._policy, tell=count or teller)
        except BaseException:
            teller.failed()
            raise
        request.created.add(ref)
        return record_of(sent, file, request.scope.owner, options)

    def teller(self, request: Request, *, tells_end: bool = True) -> UploadTeller:
        """Return what tells the request's followers about one upload."""
        return UploadTeller(
            self._events, request.id, self._policy.progress_interval_s, tells_end=tells_end
        )

    def finished(self, ref: str, source: Path, options: SaveOptions) -> Finished:
        """Measure a file, which is sent from where it is."""
        self.check_size(source.stat().st_size)
        facts = file_facts(source)
        self.check_size(facts.size_bytes)
        with open(source, "rb") as file:
            kind = options.mime_type or media_type(file.read(HEAD_BYTES), ref)
        return Finished(facts, kind)


class HubStream(FileStream):
    """An output in the making: on this machine's disk until it is whole."""

    stream_mode = "presigned"

    def __init__(
        self,
        outputs: HubOutputs,
        request: Request,
        ref: str,
        options: SaveOptions,
        teller: UploadTeller,
    ) -> None:
        """Begin the file.

        Args:
            outputs: Sends it in the end.
            request: Whose it is.
            ref: What it is called.
            options: How it is stored.
            teller: Tells of its upload.

        Raises:
            FileExistsError: It has to be new and is not.
            ResourceError: The disk is full.
        """
        from blake3 import blake3

        outputs.check_new(request, ref, options)
        outputs.check_size(options.expected_size_bytes or 0)
        path = request.new_path(_FOLDER)
        try:
            file = open(path, "xb")
        except OSError as error:
            raise write_error(f"output {ref!r}", error) from error
        super().__init__(ref, options, path, file)
        self.report_interval_s = outputs.report_interval_s
        self._outputs = outputs
        self._request = request
        self._teller = teller
        self._blake3 = blake3()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self._outputs.check_size(self.bytes_written + memoryview(data).nbytes)
        taken = super().write(data)
        self._blake3.update(data)
        return taken

    def finalize(self) -> Asset | Tensors:
        """Send the file; what was written is gone from this machine afterwards."""
        try:
            self.flush()
            self._file.close()
            self._outputs.check_new(self._request, self.ref, self._options)
            file = Finished(
                FileFacts(self._temporary, self.bytes_written, self._blake3.hexdigest()),
                self._options.mime_type or media_type(self._head, self.ref),
                self._sha256.hexdigest(),
            )
            stored = self._outputs.send(
                self._request, self.ref, file, self._options, self._teller, self._count
            )
        finally:
            self.abort()
        self.bytes_uploaded = self.bytes_written
        return stored

    def _count(self, kind: str, payload: dict[str, Any]) -> None:
        self.bytes_uploaded = payload["bytes_uploaded"]
        self.chunks_uploaded = payload["chunks_uploaded"]
        self._teller(kind, payload)
