"""Models that are on this machine, and what is said about those that are not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from gen_worker.errors import ModelResolutionError, ValidationError, WorkerError, classify
from gen_worker.events import Emitted, Telemetry
from gen_worker.models import CivitaiRepo, HFRepo, Repo
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore
from gen_worker.ports import ModelRequest, drive
from gen_worker.runtime.local import LocalModels, local_ports

HEX = "ab" * 32
PINNED = f"acme/flux@blake3:{HEX}"


class Recorder:
    def __init__(self) -> None:
        self.events: list[Telemetry] = []

    def emit(self, event: Telemetry) -> None:
        self.events.append(event)

    def lines(self) -> list[tuple[str, dict[str, Any]]]:
        return [(e.type, e.payload) for e in self.events if isinstance(e, Emitted)]


class Pipeline:
    loads: list[str]

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def from_pretrained(cls, path: str) -> Pipeline:
        return cls(path)


def prepare(models: LocalModels, binding: Repo[Any], annotation: Any = Any) -> Any:
    return drive(models.prepare(binding, binding.choose("model", {}, None), annotation))


def given(models: LocalModels, prepared: object) -> Any:
    async def enter() -> object:
        async with models.lease(prepared, device="cpu") as model:
            return model

    return drive(enter())


class Shelf(NamedTuple):
    """A content store with one model in it."""

    root: str
    path: str
    ref: str


def shelve(root: Path) -> Shelf:
    store = ContentStore(str(root))
    source = root.parent / "source.txt"
    root.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("words")
    digest, size_bytes = store.add_file(str(source))
    files = [
        SnapshotFile(path=path, size_bytes=size_bytes, blake3=digest)
        for path in ("notes.txt", "vae/notes.txt", "a/b/notes.txt")
    ]
    snapshot = snapshot_of(files)
    return Shelf(str(root), store.build(snapshot), f"acme/flux@{snapshot.checkpoint_id}")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return shelve(tmp_path / "cas")


def test_a_pinned_model_is_its_snapshot(shelf: Shelf) -> None:
    recorder = Recorder()
    models = LocalModels(recorder, cas_dir=shelf.root)

    for annotation in (str, Path):
        path = given(models, prepare(models, Repo(shelf.ref), annotation))
        assert isinstance(path, annotation)
        assert os.fspath(path) == shelf.path
    facts = {"provider": "tensorhub", "ref": shelf.ref}
    assert recorder.lines() == [
        ("model_fetch.started", facts),
        ("model_fetch.completed", {**facts, "local_dir": shelf.path}),
    ]
    assert all(event.request_id == "" for event in recorder.events)


def test_setup_gets_the_path_where_it_names_no_type(shelf: Shelf) -> None:
    models = LocalModels(Recorder(), cas_dir=shelf.root)
    binding = Repo(shelf.ref)
    choice = binding.choose("model", {}, None)

    asked = ModelRequest(parameter="model", is_setup=True)
    assert given(models, drive(models.prepare(binding, choice, Any, asked))) == shelf.path
    with pytest.raises(WorkerError, match="annotate"):
        given(models, drive(models.prepare(binding, choice, Any, ModelRequest("f", "model"))))


def test_a_subfolder_is_inside_its_snapshot(shelf: Shelf) -> None:
    models = LocalModels(Recorder(), cas_dir=shelf.root)
    binding = Repo(shelf.ref)
    for subfolder, expected in (("vae", "vae"), ("a/./b/", "a/b")):
        record = {**binding.choose("p", None, None), "subfolder": subfolder}
        found = given(models, drive(models.prepare(binding, record, str)))
        assert found == os.path.join(shelf.path, expected)
    for subfolder in ("../../..", "/etc", "a/../../b"):
        record = {**binding.choose("p", None, None), "subfolder": subfolder}
        with pytest.raises(ValidationError, match="plain relative path"):
            given(models, drive(models.prepare(binding, record, str)))


def test_a_type_that_can_load_is_loaded_once(shelf: Shelf) -> None:
    models = LocalModels(Recorder(), cas_dir=shelf.root)

    first = given(models, prepare(models, Repo(shelf.ref), Pipeline))
    again = given(models, prepare(models, Repo(shelf.ref), Pipeline))

    assert isinstance(first, Pipeline)
    assert first.path == shelf.path
    assert again is first


def test_an_error_while_loading_is_the_authors_to_see(shelf: Shelf) -> None:
    class Broken:
        @classmethod
        def from_pretrained(cls, path: str) -> Broken:
            raise OSError("no config.json")

    models = LocalModels(Recorder(), cas_dir=shelf.root)

    with pytest.raises(WorkerError, match=r"OSError: no config\.json"):
        given(models, prepare(models, Repo(shelf.ref), Broken))


@pytest.mark.parametrize(
    ("binding", "ref"),
    [
        (Repo("acme/flux"), "acme/flux:prod"),
        (Repo("acme/flux:v2#fp8"), "acme/flux:v2#fp8"),
        (Repo(PINNED), PINNED),
        (HFRepo("Acme/Flux"), "Acme/Flux"),
        (CivitaiRepo("4201"), "4201"),
    ],
)
def test_a_model_that_is_not_here_ends_with_exit_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binding: Repo[Any], ref: str
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    recorder = Recorder()
    models = LocalModels(recorder, cas_dir=str(tmp_path), offline=True)

    with pytest.raises(ModelResolutionError, match=re.escape(ref)) as caught:
        prepare(models, binding)
    assert binding.provider == "civitai" or "`gen-worker prefetch`" in str(caught.value)
    assert caught.value.provider == binding.provider
    assert classify(caught.value, origin="input").exit_code == 3
    assert [kind for kind, _ in recorder.lines()] == ["model_fetch.started"]


def test_without_a_hub_the_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TENSORHUB_URL", "TENSORHUB_PUBLIC_URL"):
        monkeypatch.delenv(name, raising=False)
    models = LocalModels(Recorder(), cas_dir=str(tmp_path))
    with pytest.raises(ModelResolutionError, match="set TENSORHUB_URL"):
        prepare(models, Repo("acme/flux"))


def test_the_store_is_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORHUB_CACHE_DIR", str(tmp_path / "a"))
    monkeypatch.delenv("TENSORHUB_CAS_DIR", raising=False)

    below_cache, shelf = LocalModels(Recorder()), shelve(tmp_path / "a" / "cas")
    assert given(below_cache, prepare(below_cache, Repo(shelf.ref), str)) == shelf.path
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "b"))
    own, shelf = LocalModels(Recorder()), shelve(tmp_path / "b")
    assert given(own, prepare(own, Repo(shelf.ref), str)) == shelf.path


def test_out_of_memory_has_no_next_rung_here(tmp_path: Path) -> None:
    ports = local_ports(events=Recorder(), cas_dir=str(tmp_path))

    assert drive(ports.models.escalate([cast("Any", None)], MemoryError(), device="cpu")) is False
