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

__all__ = ["StubPublisher"]


class _Revision:
    """A revision that will not be published."""

    def __init__(self, destination: str, request_id: str, spec: Mapping[str, Any]) -> None:
        self.destination = destination
        self.request_id = request_id
        self.spec = dict(spec)
        self.refs: list[str] = []


class StubPublisher:
    """The `Publisher` port without `--allow-publish`."""

    def __init__(self, files: Files, events: Events) -> None:
        self._files = files
        self._events = events

    async def open(self, destination: str, *, request_id: str, **spec: Any) -> _Revision:
        return _Revision(destination, request_id, spec)

    async def put(self, session: object, path: str, source: Path) -> Mapping[str, Any]:
        """Keep the file as an output, so that it outlives the job's scratch directories."""
        from gen_worker.context.media import weights_format

        revision = _checked(session)
        options = SaveOptions(checkpoint_format=weights_format(path) or "unknown")
        stored = await self._files.save(path, source, options, request_id=revision.request_id)
        revision.refs.append(path)
        facts = msgspec.structs.asdict(stored)
        return {name: fact for name, fact in facts.items() if fact is not None}

    async def finalize(self, session: object, **manifest: Any) -> Mapping[str, Any]:
        revision = _checked(session)
        is_dataset = revision.spec.get("target") == "dataset"
        place = "destination_dataset" if is_dataset else "destination_repo"
        known = {name: value for name, value in manifest.items() if value is not None}
        plan = {place: revision.destination, **known}
        if revision.refs:
            plan["files"] = revision.refs
        kind = "publish_dataset_revision" if is_dataset else "publish_repo_revision"
        self._tell(f"{kind}.stubbed", {"would_publish": plan})
        revision_id = f"local-{os.urandom(4).hex()}"
        if not is_dataset:
            return {"stubbed": True, place: revision.destination, "revision_id": revision_id}
        owner, _, name = revision.destination.partition("/")
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


def _checked(session: object) -> _Revision:
    assert isinstance(session, _Revision), "the context passes on what open returned"
    return session
