"""Publishing on a laptop: files become outputs, and a line says what would be published."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.events import Emitted
from gen_worker.ports import SaveOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gen_worker.ports import Events, Files

__all__ = ["Publication", "StubPublisher"]


class Publication:
    """A revision in the making, as it is told of before it is published."""

    def __init__(self, destination: str, request_id: str, spec: Mapping[str, Any]) -> None:
        self.destination = destination
        self.request_id = request_id
        self.spec = dict(spec)
        self.refs: list[str] = []
        """Of the files that were stored for it."""

    @property
    def is_dataset(self) -> bool:
        return self.spec.get("target") == "dataset"

    @property
    def kind(self) -> str:
        """The call that publishes it."""
        return "publish_dataset_revision" if self.is_dataset else "publish_repo_revision"

    @property
    def place(self) -> str:
        """That call's name of where it goes."""
        return "destination_dataset" if self.is_dataset else "destination_repo"

    def plan(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return what publishing it with these keywords of that call means."""
        known = {name: value for name, value in manifest.items() if value is not None}
        files = {"files": list(self.refs)} if self.refs else {}
        return {self.place: self.destination, **known, **files}


class StubPublisher:
    """The `Publisher` port without `--allow-publish`."""

    keeps_files_here = True

    def __init__(self, files: Files, events: Events) -> None:
        self._files = files
        self._events = events

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> Publication:
        return Publication(destination, request_id, spec)

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        """Keep the file as an output, so that it outlives the job's scratch directories."""
        from gen_worker.context.media import weights_format
        from gen_worker.runtime.files.publisher import refuse_unsafe_weights

        publication = _checked(session)
        if not publication.is_dataset:
            refuse_unsafe_weights(source)
        options = SaveOptions(checkpoint_format=weights_format(path) or "unknown")
        stored = await self._files.save(path, source, options, request_id=publication.request_id)
        publication.refs.append(path)
        facts = msgspec.structs.asdict(stored)
        return {name: fact for name, fact in facts.items() if fact is not None}

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        publication = _checked(session)
        self._tell(f"{publication.kind}.stubbed", {"would_publish": publication.plan(manifest)})
        destination, revision_id = publication.destination, f"local-{os.urandom(4).hex()}"
        if not publication.is_dataset:
            return {
                "stubbed": True,
                "destination_repo": destination,
                "revision_id": revision_id,
            }
        owner, _, name = destination.partition("/")
        return {
            "stubbed": True,
            "ok": True,
            "dataset_id": revision_id,
            "owner": owner,
            "name": name,
            "existed": False,
        }

    async def abort(self, session: object) -> None:
        """Nothing to drop: what was put stays as an output."""

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        self._events.emit(Emitted(request_id="", type=kind, payload=facts, at=time.time()))


def _checked(session: object) -> Publication:
    assert isinstance(session, Publication), "the context passes on what open returned"
    return session
