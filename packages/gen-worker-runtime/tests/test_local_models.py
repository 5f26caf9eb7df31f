"""Models that are on this machine, and what is said about those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from gen_worker.errors import ModelResolutionError, ValidationError, classify
from gen_worker.events import Emitted, Telemetry
from gen_worker.models import CivitaiRepo, HFRepo, Repo
from gen_worker.ports import drive
from gen_worker.runtime.local import LocalModels, local_ports

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.fixture(params=[HEX, f"blake3:{HEX}"])
def snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "snapshots" / str(request.param)
    path.mkdir(parents=True)
    return path


def test_a_pinned_model_is_its_snapshot(tmp_path: Path, snapshot: Path) -> None:
    recorder = Recorder()
    models = LocalModels(recorder, cas_dir=str(tmp_path))

    for annotation in (Any, str, None, dict):
        assert given(models, prepare(models, Repo(PINNED), annotation)) == str(snapshot)
    facts = {"provider": "tensorhub", "ref": PINNED}
    assert recorder.lines() == [
        ("model_fetch.started", facts),
        ("model_fetch.completed", {**facts, "local_dir": str(snapshot)}),
    ]
    assert all(event.request_id == "" for event in recorder.events)


def test_a_subfolder_is_inside_its_snapshot(tmp_path: Path, snapshot: Path) -> None:
    models = LocalModels(Recorder(), cas_dir=str(tmp_path))
    binding = Repo(PINNED)
    for subfolder, expected in (("vae", snapshot / "vae"), ("a/./b/", snapshot / "a" / "b")):
        record = {**binding.choose("p", None, None), "subfolder": subfolder}
        model = drive(models.prepare(binding, record, Any))
        assert model.path == str(expected)
    for subfolder in ("../../..", "/etc", "a/../../b"):
        record = {**binding.choose("p", None, None), "subfolder": subfolder}
        with pytest.raises(ValidationError, match="plain relative path"):
            drive(models.prepare(binding, record, Any))


def test_a_type_that_can_load_is_loaded_once(tmp_path: Path, snapshot: Path) -> None:
    models = LocalModels(Recorder(), cas_dir=str(tmp_path))

    first = given(models, prepare(models, Repo(PINNED), Pipeline))
    again = given(models, prepare(models, Repo(PINNED), Pipeline))

    assert isinstance(first, Pipeline)
    assert first.path == str(snapshot)
    assert again is first


def test_an_error_while_loading_is_the_authors_to_see(tmp_path: Path, snapshot: Path) -> None:
    class Broken:
        @classmethod
        def from_pretrained(cls, path: str) -> Broken:
            raise OSError("no config.json")

    models = LocalModels(Recorder(), cas_dir=str(tmp_path))

    with pytest.raises(OSError, match=r"no config\.json"):
        given(models, prepare(models, Repo(PINNED), Broken))


@pytest.mark.parametrize(
    ("binding", "ref", "advice"),
    [
        (Repo("acme/flux"), "acme/flux:prod", "pin it as 'owner/repo@blake3:<hex>'"),
        (Repo("acme/flux:v2#fp8"), "acme/flux:v2#fp8", "a tag cannot be resolved here"),
        (Repo(PINNED), PINNED, "warm the cache through the platform, which keeps it in"),
        (HFRepo("Acme/Flux"), "Acme/Flux", "cannot download from 'hf'"),
        (CivitaiRepo("4201"), "4201", "cannot download from 'civitai'"),
    ],
)
def test_a_model_that_is_not_here_ends_with_exit_3(
    tmp_path: Path, binding: Repo[Any], ref: str, advice: str
) -> None:
    recorder = Recorder()
    online = LocalModels(recorder, cas_dir=str(tmp_path))
    offline = LocalModels(recorder, cas_dir=str(tmp_path), offline=True)

    with pytest.raises(ModelResolutionError) as caught:
        prepare(online, binding)
    assert ref in str(caught.value)
    assert advice in str(caught.value)
    assert "--offline" not in str(caught.value)
    assert caught.value.provider == binding.provider
    assert classify(caught.value, origin="input").exit_code == 3
    with pytest.raises(ModelResolutionError, match="must be warmed without --offline"):
        prepare(offline, binding)
    assert [kind for kind, _ in recorder.lines()] == ["model_fetch.started"] * 2


def test_the_store_is_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/cas/snapshots" / HEX).mkdir(parents=True)
    (tmp_path / "b/snapshots" / HEX).mkdir(parents=True)
    monkeypatch.setenv("TENSORHUB_CACHE_DIR", str(tmp_path / "a"))
    monkeypatch.delenv("TENSORHUB_CAS_DIR", raising=False)

    below_cache = LocalModels(Recorder())
    assert given(below_cache, prepare(below_cache, Repo(PINNED))) == str(
        tmp_path / "a/cas/snapshots" / HEX
    )
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "b"))
    own = LocalModels(Recorder())
    assert given(own, prepare(own, Repo(PINNED))) == str(tmp_path / "b/snapshots" / HEX)


def test_out_of_memory_has_no_next_rung_here(tmp_path: Path) -> None:
    ports = local_ports(events=Recorder(), cas_dir=str(tmp_path))

    assert drive(ports.models.escalate([cast("Any", None)], MemoryError())) is False
