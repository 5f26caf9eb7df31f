"""Publishing from a laptop: its user's hub is really asked, after a line says what it is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.context.local import off_loop
from gen_worker.events import Emitted
from gen_worker.masking import without_credentials
from gen_worker.runtime.files import (
    FilePolicy,
    FileSettings,
    HubPublisher,
    JobScope,
    WorkerFiles,
)
from gen_worker.runtime.local.publisher import Publication
from gen_worker.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Events, FileLimits, OutputStream, Ports, SaveOptions
    from gen_worker.types import Asset, Tensors

__all__ = ["AnnouncedPublisher", "PublishedFiles", "publishing_ports"]


def publishing_ports(
    ports: Ports,
    *,
    url: str,
    token: str,
    find_token: Callable[[str], CancelToken | None] = lambda _request_id: None,
) -> Ports:
    """Return the ports of a laptop with a hub that is published to. Nothing is asked yet.

    Args:
        ports: Without one; whatever its publisher is, it is replaced.
        url: Of the hub.
        token: For it; empty for a hub that asks for none.
        find_token: Says what ends the transfers of a request.
    """

    def scope_of(request_id: str) -> tuple[JobScope, CancelToken] | None:
        request_token = find_token(request_id)
        if request_token is None:
            return None
        return msgspec.structs.replace(scope, job_id=request_id), request_token

    scope = JobScope(
        base_url=url, capability_token=token, asks_for_token=bool(token), job_id="local"
    )
    hub = WorkerFiles(FilePolicy.of(load(FileSettings)), ports.events, default=scope, find=scope_of)
    return msgspec.structs.replace(
        ports,
        files=PublishedFiles(ports.files, hub),
        publisher=AnnouncedPublisher(HubPublisher(hub), ports.events, url),
    )


class PublishedFiles:
    """The `Files` of a laptop; what a job stores for its destination goes to the hub, too."""

    def __init__(self, files: Any, hub: WorkerFiles) -> None:
        """Share the requests of `hub` with a publisher.

        Args:
            files: A `Files` port that keeps outputs here, and finds directories.
            hub: Sends.
        """
        self._files = files
        self._hub = hub

    @property
    def input_limits(self) -> FileLimits:
        limits: FileLimits = getattr(self._files, "input_limits", self._hub.input_limits)
        return limits

    async def materialize(
        self, value: Asset | Tensors, limits: FileLimits, *, request_id: str
    ) -> Asset | Tensors:
        found: Asset | Tensors = await self._files.materialize(value, limits, request_id=request_id)
        return found

    async def find_directory(self, ref: str, *, request_id: str, **chosen: Any) -> str | None:
        """Find a directory here; a dataset that is not, on the hub that it was published to."""
        found: str | None = await self._files.find_directory(ref, request_id=request_id, **chosen)
        if found is None and chosen.get("is_dataset"):
            return await self._hub.find_directory(ref, request_id=request_id, **chosen)
        return found

    async def save(
        self, ref: str, source: bytes | Path, options: SaveOptions, *, request_id: str
    ) -> Asset | Tensors:
        stored: Asset | Tensors = await self._files.save(
            ref, source, options, request_id=request_id
        )
        if not _is_published(options):
            return stored
        return await off_loop(self._send, stored, options, request_id)

    async def open_output(self, ref: str, options: SaveOptions, *, request_id: str) -> OutputStream:
        stream: OutputStream = await self._files.open_output(ref, options, request_id=request_id)
        if not _is_published(options):
            return stream
        return _SentStream(stream, lambda stored: self._send(stored, options, request_id))

    async def release(self, request_id: str) -> None:
        try:
            await self._files.release(request_id)
        finally:
            await self._hub.release(request_id)

    def close(self) -> None:
        """Give up what was begun; blocks."""
        close = getattr(self._files, "close", None)
        if close is not None:
            close()
        self._hub.close()

    def _send(
        self, stored: Asset | Tensors, options: SaveOptions, request_id: str
    ) -> Asset | Tensors:
        """Send a file that is kept here; blocks."""
        assert stored.local_path is not None, "it is kept here"
        request, here = self._hub.requests.get(request_id), Path(stored.local_path)
        known = msgspec.structs.replace(options, must_create=False)  # the file here was new
        sent = self._hub.outputs.save(request, stored.ref, here, known)
        facts = {"local_path": stored.local_path, "sha256": sent.sha256 or stored.sha256}
        return msgspec.structs.replace(sent, **facts)


class _SentStream:
    """A file in the making that is sent once it is whole."""

    def __init__(self, stream: Any, send: Callable[[Asset | Tensors], Asset | Tensors]) -> None:
        self._stream = stream
        self._send = send
        self.stream_mode: str = stream.stream_mode
        self.bytes_written = 0
        self.bytes_uploaded = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        taken: int = self._stream.write(data)
        self.bytes_written = self._stream.bytes_written
        return taken

    def flush(self) -> None:
        self._stream.flush()

    def finalize(self) -> Asset | Tensors:
        sent = self._send(self._stream.finalize())
        self.bytes_uploaded = self.bytes_written
        return sent

    def abort(self) -> None:
        self._stream.abort()


class _Announced:
    """A publication under way."""

    def __init__(self, publication: Publication, session: object) -> None:
        self.publication = publication
        self.session = session


class AnnouncedPublisher:
    """The `Publisher` port with `--allow-publish`: that of a worker, which is told of first.

    Before a revision is committed, `{"kind": "publish_repo_revision.plan", "hub", "will_publish"}`
    is emitted; afterwards `….published` with the hub's answer. Datasets have the same.
    """

    def __init__(self, publisher: HubPublisher, events: Events, url: str) -> None:
        self._publisher = publisher
        self._events = events
        self._url = without_credentials(url)

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> _Announced:
        publication = Publication(destination, request_id, spec)
        session = await self._publisher.open(destination, request_id=request_id, **spec)
        return _Announced(publication, session)

    async def check_destination(self, repo: str, *, request_id: str) -> None:
        await self._publisher.check_destination(repo, request_id=request_id)

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        announced = _checked(session)
        facts = await self._publisher.put(announced.session, path, source)
        announced.publication.refs.append(path)
        return facts

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        announced = _checked(session)
        kind, plan = announced.publication.kind, announced.publication.plan(manifest)
        self._tell(f"{kind}.plan", {"hub": self._url, "will_publish": plan})
        answer = await self._publisher.finalize(announced.session, **manifest)
        self._tell(f"{kind}.published", {"hub": self._url, "answer": dict(answer)})
        return answer

    async def abort(self, session: object) -> None:
        await self._publisher.abort(_checked(session).session)

    async def read_metadata(self, repo: str, *, request_id: str) -> Mapping[str, Any] | None:
        return await self._publisher.read_metadata(repo, request_id=request_id)

    async def write_metadata(
        self, repo: str, metadata: Mapping[str, Any], *, request_id: str
    ) -> Mapping[str, Any]:
        return await self._publisher.write_metadata(repo, metadata, request_id=request_id)

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        self._events.emit(Emitted(request_id="", type=kind, payload=facts, at=time.time()))


def _is_published(options: SaveOptions) -> bool:
    return options.checkpoint_format is not None and bool(options.destination)


def _checked(session: object) -> _Announced:
    assert isinstance(session, _Announced), "the context passes on what open returned"
    return session
