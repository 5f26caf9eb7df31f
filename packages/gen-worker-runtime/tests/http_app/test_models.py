"""Models over HTTP: fetched, loaded, listed and given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.models import Repo
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore
from gen_worker.runtime.http import LocalModelRoom
from gen_worker.runtime.local import LocalModels
from gen_worker.spec import specs_of

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.events import Telemetry


class Silence:
    def emit(self, event: Telemetry) -> None:
        pass


class Pipeline:
    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def from_pretrained(cls, path: str) -> Pipeline:
        return cls(path)


class Prompt(msgspec.Struct):
    text: str = ""


class Shelf(NamedTuple):
    """A content store with one model in it."""

    root: str
    ref: str


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    store, source = ContentStore(str(tmp_path / "cas")), tmp_path / "config.json"
    source.write_text("{}")
    digest, size_bytes = store.add_file(str(source))
    snapshot = snapshot_of([SnapshotFile(path="config.json", size_bytes=size_bytes, blake3=digest)])
    store.build(snapshot)
    return Shelf(str(tmp_path / "cas"), f"acme/flux@{snapshot.checkpoint_id}")


def room(shelf: Shelf) -> LocalModelRoom:
    @inference_function(models={"model": Repo("painter", shelf.ref)})
    def paint(ctx: RequestContext, model: Pipeline, payload: Prompt) -> Prompt:
        return payload

    models = LocalModels(Silence(), cas_dir=shelf.root, offline=True)
    return LocalModelRoom(models, specs_of(paint))


def test_a_model_is_loaded_listed_and_given_up(shelf: Shelf) -> None:
    models = room(shelf)
    assert models.statistics()["total_models"] == 0
    assert models.unload(shelf.ref) is False
    models.load(shelf.ref)
    held: dict[str, Any] = models.statistics()
    assert held["disk_models"] == [shelf.ref], "there is no VRAM here"
    assert models.unload(shelf.ref) is True
    assert models.unload(shelf.ref) is False


def test_a_model_is_fetched(shelf: Shelf) -> None:
    models = room(shelf)
    models.prefetch(shelf.ref, ())
    assert models.statistics()["disk_models"] == [shelf.ref]
    models.prefetch(shelf.ref, ("bf16",))
