"""What the environment says reaches the library of a process, beyond what the rooms' tests show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ModelResolutionError
from gen_worker.models import Repo
from gen_worker.models.assembly import open_library, open_store
from gen_worker.models.low_vram.ladder import Facts, Ladder, preflight_mode
from gen_worker.models.settings import load_model_settings
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.store import localizing
from gen_worker.ports import ModelRequest, drive

if TYPE_CHECKING:
    from pathlib import Path


def test_the_usual_cache_of_hugging_face_is_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_model_settings().hf_home == "/home/somebody/.cache/huggingface"


@pytest.mark.claims("COZY_INFERENCE_MEMORY_MODE")
def test_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Facts(total_gb=24, free_gb=20, size_gb=1)
    assert preflight_mode(fits, Ladder.of(load_model_settings())) is None
    monkeypatch.setenv("COZY_INFERENCE_MEMORY_MODE", "sequential")
    assert preflight_mode(fits, Ladder.of(load_model_settings())) == "sequential"


@pytest.mark.claims("WORKER_LOCAL_MODEL_CACHE_DIR", "WORKER_LOCAL_CACHE_GB")
@pytest.mark.parametrize(("limit_gb", "folder"), [("1", "local"), ("0.0000001", "cas")])
def test_a_model_on_nfs_is_read_from_its_copy(
    limit_gb: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    monkeypatch.setenv("WORKER_LOCAL_MODEL_CACHE_DIR", str(tmp_path / "local"))
    monkeypatch.setenv("WORKER_LOCAL_CACHE_GB", limit_gb)
    mounts = (
        "21 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"31 21 0:41 / {tmp_path}/cas rw - nfs4 server:/export rw\n"
    )
    monkeypatch.setattr(localizing, "read_mountinfo", lambda: mounts)

    store, source = open_store(), tmp_path / "source"
    source.write_text("w" * 1000)
    digest, size = store.add_file(str(source))
    file = SnapshotFile(path="unet/words.txt", size_bytes=size, blake3=digest)
    snapshot = snapshot_of([file])
    store.build(snapshot)

    binding: Repo[Any] = Repo(f"acme/words@{snapshot.checkpoint_id}")
    record = {**binding.choose("model", {}, None), "subfolder": "unet"}
    told: list[tuple[str, dict[str, Any]]] = []
    library = open_library(is_offline=True, tell=lambda kind, facts: told.append((kind, facts)))
    asks = ModelRequest(request_id="r1")
    prepared = drive(library.prepare(binding, record, str, asks))
    assert prepared.model.path == str(tmp_path / folder / "snapshots" / snapshot.digest / "unet")
    assert prepared.model.is_localized is (folder == "local")
    copies = [facts for kind, facts in told if kind == "model.copy.completed"]
    assert [(copy["bytes_copied"], copy["request_id"]) for copy in copies] == (
        [(1000, "r1")] if folder == "local" else []
    )
    drive(
        open_library(is_offline=True, tell=lambda *event: told.append(event)).prepare(
            binding, record, str
        )
    )
    assert not any(kind.startswith("worker.model.copy") for kind, _ in told)  # it is here already
    with open(f"{prepared.model.path}/words.txt") as words:
        assert words.read() == "w" * 1000


@pytest.mark.claims("WORKER_ALLOW_TENSORHUB_API_RESOLVE")
@pytest.mark.parametrize(
    ("may_resolve", "allowed", "problem"),
    [
        (True, "0", "the hub cannot be asked"),
        (None, "0", "WORKER_ALLOW_TENSORHUB_API_RESOLVE"),
        (None, "1", "the hub cannot be asked"),
    ],
)
def test_who_may_ask_the_hub(
    may_resolve: bool | None,
    allowed: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORHUB_URL", "http://127.0.0.1:9")  # nobody answers
    monkeypatch.setenv("WORKER_ALLOW_TENSORHUB_API_RESOLVE", allowed)
    binding: Repo[Any] = Repo("acme/words")
    library = open_library(may_resolve=may_resolve)
    with pytest.raises(ModelResolutionError, match=problem):
        drive(library.prepare(binding, binding.choose("model", {}, None), str))
