"""What the environment says reaches the sources: one test per variable."""

from __future__ import annotations

import json
import os
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.errors import ModelResolutionError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.hub import Ingested, IngestRequest, publish_folder
from gen_worker.models.settings import load_model_settings
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.sources import CivitaiAccessError, Sources, open_sources
from gen_worker.models.store import ContentStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Asked, RunningHub, ScriptedServer


def weights(count: int = 64) -> bytes:
    entry = {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(2 * count)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sources]]:
    """Open sources in an environment."""
    monkeypatch.chdir(tmp_path)
    every: list[Sources] = []

    def start(environment: dict[str, str], **options: Any) -> Sources:
        for name, value in {"HF_HOME": str(tmp_path / "hf"), **environment}.items():
            monkeypatch.setenv(name, value)
        store = ContentStore(tmp_path / "cas", reserve_bytes=0)
        every.append(open_sources(store, load_model_settings(), **options))
        return every[-1]

    yield start
    for one in every:
        one.close()


def published(hub: RunningHub, tmp_path: Path) -> ModelChoice:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights())
    with hub.client() as client:
        publish_folder(client, folder, "acme/tiny")
    return ModelChoice(ref="acme/tiny", tag="prod")


def served(server: ScriptedServer, path: str, data: bytes) -> Snapshot:
    server.files[path] = data
    digest = blake3(data).hexdigest()
    file = SnapshotFile(
        path="model.safetensors", size_bytes=len(data), blake3=digest, url=server.url(path)
    )
    return snapshot_of([file])


@pytest.mark.claims("TENSORHUB_URL", "TENSORHUB_TOKEN")
@pytest.mark.parametrize("name", ["TENSORHUB_URL", "TENSORHUB_PUBLIC_URL"])
def test_hub_url_and_token(
    name: str, hub: RunningHub, opened: Callable[..., Sources], tmp_path: Path
) -> None:
    choice = published(hub, tmp_path)
    token = hub.hub.issue_token("read")
    environment = {name: hub.url, "TENSORHUB_TOKEN": token}
    allowed = {"WORKER_ALLOW_TENSORHUB_API_RESOLVE": "1"}
    assert opened(environment | allowed).ensure(choice).bytes_downloaded


@pytest.mark.claims("WORKER_ALLOW_TENSORHUB_API_RESOLVE")
def test_resolving_is_forbidden_unless_allowed(
    hub: RunningHub, opened: Callable[..., Sources], tmp_path: Path
) -> None:
    choice = published(hub, tmp_path)
    with pytest.raises(ModelResolutionError, match="WORKER_ALLOW_TENSORHUB_API_RESOLVE"):
        opened({"TENSORHUB_URL": hub.url}).ensure(choice)
    own = opened({"TENSORHUB_TOKEN": hub.hub.issue_token("read")}, may_resolve=True)
    assert own.ensure(choice).bytes_downloaded


def test_the_hubs_token_lets_it_fetch_public_models(
    serve_hub: Callable[..., RunningHub], opened: Callable[..., Sources]
) -> None:
    asked: list[str] = []

    def ingest(request: IngestRequest, folder: str) -> Ingested:
        asked.append(request.ref)
        with open(os.path.join(folder, "model.safetensors"), "wb") as file:
            file.write(weights())
        return Ingested()

    hub = serve_hub(ingester=ingest)
    token = hub.hub.issue_token("write")
    sources = opened({"TENSORHUB_URL": hub.url, "TENSORHUB_TOKEN": token})
    assert sources.ensure(ModelChoice(ref="acme/public", provider="hf")).bytes_downloaded
    assert asked == ["acme/public"]


@pytest.mark.claims("CIVITAI_API_KEY")
@pytest.mark.parametrize("name", ["CIVITAI_API_KEY", "CIVITAI_TOKEN"])
def test_civitai_key(name: str, server: ScriptedServer, opened: Callable[..., Sources]) -> None:
    def refuse(asked: Asked) -> None:
        asked.head(403, Content_Length=0)

    server.default = refuse
    sources = opened({name: "the-key"}, civitai_endpoint=server.origin, trusted=[server.origin])
    with pytest.raises(CivitaiAccessError) as error:
        sources.ensure(ModelChoice(ref="1", provider="civitai"))
    assert server.asked[0].headers["authorization"] == "Bearer the-key"
    assert "the-key" not in str(error.value)


@pytest.mark.claims("WORKER_MAX_CONCURRENT_DOWNLOADS")
@pytest.mark.parametrize("most", [1, 3])
def test_models_and_connections_at_a_time(
    most: int, server: ScriptedServer, opened: Callable[..., Sources]
) -> None:
    environment = {
        "WORKER_MAX_CONCURRENT_DOWNLOADS": str(most),
        "WORKER_MODEL_DOWNLOAD_CONCURRENCY": "1",
    }
    sources = opened(environment, trusted=[server.origin])
    lock, running, seen = threading.Lock(), [0], [0]
    full = threading.Barrier(most)

    def slow(asked: Asked) -> None:
        with lock:
            running[0] += 1
            seen[0] = max(seen[0], running[0])
        full.wait(60)
        with lock:
            running[0] -= 1
        asked.serve()

    threads = []
    for number in range(3):
        snapshot = served(server, f"/{number}", weights())
        server.plan(f"/{number}", slow)
        choice = ModelChoice(ref=f"acme/m{number}", tag="prod")
        arguments = {"resolved": snapshot}
        threads.append(threading.Thread(target=sources.ensure, args=(choice,), kwargs=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen[0] == most


@pytest.mark.claims("WORKER_MODEL_DOWNLOAD_CONCURRENCY")
def test_connections_of_one_model(server: ScriptedServer, opened: Callable[..., Sources]) -> None:
    environment = {"WORKER_MODEL_DOWNLOAD_CONCURRENCY": "3"}
    sources = opened(environment, trusted=[server.origin])
    together = threading.Barrier(3)

    def slow(asked: Asked) -> None:
        together.wait(60)
        asked.serve()

    snapshot = served(server, "/w", weights(20_000_000))
    server.plan("/w", slow, slow, slow)
    sources.ensure(ModelChoice(ref="acme/m", tag="prod"), resolved=snapshot)
    assert together.n_waiting == 0


@pytest.mark.claims("GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S")
def test_bytes_per_second(server: ScriptedServer, opened: Callable[..., Sources]) -> None:
    import time

    environment = {"GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S": "400000"}
    sources = opened(environment, trusted=[server.origin])
    snapshot = served(server, "/w", weights(200_000))
    since = time.monotonic()
    sources.ensure(ModelChoice(ref="acme/m", tag="prod"), resolved=snapshot)
    assert time.monotonic() - since > 0.7


@pytest.mark.claims("COZY_HF_DOWNLOAD_STALL_TIMEOUT_S", "WORKER_MODEL_DOWNLOAD_SOCK_READ_TIMEOUT_S")
@pytest.mark.parametrize(
    "name", ["COZY_HF_DOWNLOAD_STALL_TIMEOUT_S", "WORKER_MODEL_DOWNLOAD_SOCK_READ_TIMEOUT_S"]
)
def test_silent_servers_are_given_up(
    name: str, server: ScriptedServer, opened: Callable[..., Sources]
) -> None:
    sources = opened({name: "0.3"}, trusted=[server.origin])
    data = weights()
    snapshot = served(server, "/w", data)

    def stall(asked: Asked) -> None:
        span = f"bytes 0-{len(data) - 1}/{len(data)}"
        asked.head(206, Content_Length=len(data), Content_Range=span)
        server.released.wait(30)

    server.plan("/w", stall)
    model = sources.ensure(ModelChoice(ref="acme/m", tag="prod"), resolved=snapshot)
    assert model.bytes_downloaded >= len(data)


@pytest.mark.claims("WORKER_MODEL_DOWNLOAD_SOCK_CONNECT_TIMEOUT_S")
def test_the_wait_for_a_connection(opened: Callable[..., Sources]) -> None:
    environment = {"WORKER_MODEL_DOWNLOAD_SOCK_CONNECT_TIMEOUT_S": "7"}
    assert opened(environment)._around.opener._connect_timeout_s == 7


class HuggingFace:
    """A site with one repository: weights in two precisions and a picture."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.files = {
            "config.json": b"{}",
            "model.safetensors": weights().replace(b"BF16", b"F32 "[:3] + b" "),
            "model.fp16.safetensors": weights(),
            "demo.png": b"x" * 1000,
        }
        server.default = self.answer
        self.stalls = False

    def answer(self, asked: Asked) -> None:
        import hashlib

        if "/tree/" in asked.path:
            rows = []
            for path, data in self.files.items():
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                rows.append({"type": "file", "path": path, "size": len(data), "oid": oid})
            value: Any = rows
        elif asked.path.startswith("/api"):
            value = {"id": "acme/tiny", "sha": "c" * 40, "siblings": []}
        else:
            self._file(asked)
            return
        data = json.dumps(value).encode()
        asked.head(200, Content_Type="application/json", Content_Length=len(data))
        asked.send(data)

    def _file(self, asked: Asked) -> None:
        if self.stalls and asked.path.endswith("config.json"):
            self.server.released.wait(30)
            return
        asked.data = self.files[asked.path.rpartition("/")[2]]
        self.server.files[asked.path] = asked.data
        asked.stop = min(asked.stop or len(asked.data), len(asked.data))
        asked.stop = asked.stop if asked.is_ranged else len(asked.data)
        asked.serve()


@pytest.fixture
def huggingface(server: ScriptedServer) -> HuggingFace:
    return HuggingFace(server)


def fetched(site: HuggingFace, sources: Sources) -> set[str]:
    return set(sources.ensure(ModelChoice(ref="acme/tiny", provider="hf")).files)


@pytest.mark.claims("HF_HOME")
def test_hf_home(huggingface: HuggingFace, opened: Callable[..., Sources], tmp_path: Path) -> None:
    sources = opened(
        {"HF_HOME": str(tmp_path / "elsewhere")}, hf_endpoint=huggingface.server.origin
    )
    assert fetched(huggingface, sources) == {"config.json", "model.fp16.safetensors"}
    assert (tmp_path / "elsewhere" / "hub" / "models--acme--tiny" / "snapshots").is_dir()


@pytest.mark.claims("COZY_HF_WEIGHT_PRECISIONS", "COZY_HF_FULL_REPO_DOWNLOAD")
@pytest.mark.parametrize(
    ("name", "value", "files"),
    [
        ("COZY_HF_WEIGHT_PRECISIONS", "fp32", {"config.json", "model.safetensors"}),
        (
            "COZY_HF_FULL_REPO_DOWNLOAD",
            "1",
            {"config.json", "model.safetensors", "model.fp16.safetensors", "demo.png"},
        ),
    ],
)
def test_what_is_selected(
    name: str,
    value: str,
    files: set[str],
    huggingface: HuggingFace,
    opened: Callable[..., Sources],
) -> None:
    sources = opened({name: value}, hf_endpoint=huggingface.server.origin)
    assert fetched(huggingface, sources) == files


@pytest.mark.claims("COZY_HF_MAX_REPO_BYTES")
def test_how_large_a_selection_may_be(
    huggingface: HuggingFace, opened: Callable[..., Sources]
) -> None:
    sources = opened({"COZY_HF_MAX_REPO_BYTES": "100"}, hf_endpoint=huggingface.server.origin)
    with pytest.raises(ModelResolutionError, match="COZY_HF_MAX_REPO_BYTES"):
        fetched(huggingface, sources)


@pytest.mark.claims("COZY_HF_DOWNLOAD_MAX_SECONDS")
def test_how_long_a_download_may_take(
    huggingface: HuggingFace, opened: Callable[..., Sources]
) -> None:
    environment = {"COZY_HF_DOWNLOAD_MAX_SECONDS": "0.3"}
    sources = opened(environment, hf_endpoint=huggingface.server.origin)
    huggingface.stalls = True
    with pytest.raises(ModelResolutionError, match="COZY_HF_DOWNLOAD_MAX_SECONDS"):
        fetched(huggingface, sources)
