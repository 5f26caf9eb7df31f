"""Public models through the hub, overrides looked up, object storage by grant."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from blake3 import blake3

from gen_worker.errors import ModelResolutionError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.fetch import Fetcher, RetryLimits
from gen_worker.models.hub import Ingested, IngestRequest, publish_folder
from gen_worker.models.net import Opener
from gen_worker.models.overrides import RepoFacts
from gen_worker.models.refs import Ref, parse_prefixed_ref
from gen_worker.models.snapshot import SnapshotFile, snapshot_of
from gen_worker.models.sources import HuggingFaceOptions, Sources
from gen_worker.models.store import ContentStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Asked, RunningHub, ScriptedServer
    from gen_worker.models.snapshot import Snapshot

COMMIT = "c" * 40


def weights(count: int = 64) -> bytes:
    entry = {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(2 * count)


class HuggingFace:
    """A site with one repository of small files."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.files = {
            "model_index.json": b'{"_class_name": "TinyPipeline", "unet": ["diffusers", "U"]}',
            "unet/config.json": b"{}",
            "unet/model.safetensors": weights(),
        }
        server.default = self.answer

    def answer(self, asked: Asked) -> None:
        import hashlib

        if not asked.path.startswith(("/api/models/acme/tiny", "/acme/tiny/")):
            asked.head(404, X_Error_Code="RepoNotFound", Content_Length=0)
        elif "/tree/" in asked.path:
            rows = []
            for path, data in self.files.items():
                oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                rows.append({"type": "file", "path": path, "size": len(data), "oid": oid})
            self._json(asked, rows)
        elif asked.path.startswith("/api"):
            self._json(asked, {"id": "acme/tiny", "sha": COMMIT, "siblings": []})
        else:
            data = self.files[asked.path.partition(f"{COMMIT}/")[2]]
            self.server.files[asked.path] = asked.data = data
            asked.stop = min(asked.stop, len(data)) if asked.is_ranged else len(data)
            asked.stop = asked.stop or len(data)
            asked.serve()

    def _json(self, asked: Asked, value: Any) -> None:
        data = json.dumps(value).encode()
        asked.head(200, Content_Type="application/json", Content_Length=len(data))
        asked.send(data)


@pytest.fixture
def huggingface(start_server: Callable[[], ScriptedServer]) -> HuggingFace:
    return HuggingFace(start_server())


@pytest.fixture
def sources(tmp_path: Path, huggingface: HuggingFace) -> Iterator[Callable[..., Sources]]:
    opened: list[Any] = []

    def start(hub: RunningHub | None, *, trusted: tuple[str, ...] = (), **options: Any) -> Sources:
        origin = huggingface.server.origin
        opener = Opener(trusted=[origin, *([hub.url] if hub else []), *trusted])
        client = hub.client() if hub else None
        opened.extend(x for x in (opener, client) if x is not None)
        limits = RetryLimits(factor_s=0.01, cap_s=0.02, max_tries=4)
        return Sources(
            ContentStore(tmp_path / "cas", reserve_bytes=0),
            opener,
            Fetcher(opener, retries=limits, durable=False),
            hub=client,
            huggingface=HuggingFaceOptions(home=str(tmp_path / "hf"), endpoint=origin),
            **options,
        )

    yield start
    for one in opened:
        one.close()


def choice(text: str, **fields: Any) -> ModelChoice:
    return ModelChoice.of(parse_prefixed_ref(text), **fields)


# The hub first.


def test_a_hub_that_may_be_asked_mirrors_public_models(
    serve_hub: Callable[..., RunningHub],
    sources: Callable[..., Sources],
    huggingface: HuggingFace,
    tmp_path: Path,
) -> None:
    asked: list[IngestRequest] = []

    def ingest(request: IngestRequest, folder: str) -> Ingested:
        asked.append(request)
        Path(folder, "model.safetensors").write_bytes(weights())
        return Ingested(dtype="fp16")

    hub = serve_hub(ingester=ingest)
    model = sources(hub, may_ingest=True).ensure(choice("hf:acme/tiny", dtype="float16"))
    assert model.root.startswith(str(tmp_path / "cas" / "snapshots"))
    assert (model.identity, model.provider) == ("hf:acme/tiny", "hf")
    assert model.attributes["dtype"] == "fp16"
    assert [(x.ref, x.provider, x.dtypes) for x in asked] == [("acme/tiny", "hf", ("bf16", "fp16"))]
    assert huggingface.server.asked == []
    again = sources(None, is_offline=True).ensure(choice("hf:acme/tiny", dtype="float16"))
    assert again.root == model.root


@pytest.mark.parametrize("with_hub", [True, False])
def test_a_hub_that_refuses_leaves_the_models_own_site(
    with_hub: bool,
    serve_hub: Callable[..., RunningHub],
    sources: Callable[..., Sources],
    tmp_path: Path,
) -> None:
    # A hub without an ingester answers 403.
    started = sources(serve_hub() if with_hub else None, may_ingest=True)
    model = started.ensure(choice("hf:acme/tiny"))
    assert model.root.startswith(str(tmp_path / "hf"))
    assert model.digest == COMMIT


def test_without_leave_the_hub_is_not_asked(
    serve_hub: Callable[..., RunningHub], sources: Callable[..., Sources], tmp_path: Path
) -> None:
    def ingest(request: IngestRequest, folder: str) -> Ingested:
        raise AssertionError("nobody may ask")

    model = sources(serve_hub(ingester=ingest)).ensure(choice("hf:acme/tiny"))
    assert model.root.startswith(str(tmp_path / "hf"))


@pytest.mark.parametrize("ref", ["hf:acme/tiny@v1", "civitai:4201"])
def test_what_a_job_describes_comes_as_it_says_whatever_the_provider(
    ref: str, hub: RunningHub, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights())
    with hub.client() as client:
        publish_folder(client, folder, "mirror/one")
        resolved = client.resolve(choice("mirror/one").target).snapshot  # type: ignore[arg-type]
    model = sources(hub, may_resolve=False).ensure(choice(ref), resolved=resolved)
    assert (model.identity, model.digest) == (ref, resolved.digest)
    assert sources(None, is_offline=True).ensure(choice(ref)).path == model.path
    assert Path(model.path).read_bytes() == (folder / "model.safetensors").read_bytes()


# What overrides are checked by.


def facts(sources: Sources, ref: Ref) -> RepoFacts | None:
    return asyncio.run(sources.look_up(ref))


def test_refs_of_every_provider_are_looked_up(
    hub: RunningHub, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    (folder / "model.safetensors").write_bytes(weights())
    with hub.client() as client:
        publish_folder(client, folder, "acme/own", flavor="bf16")
    started = sources(hub)
    own = facts(started, parse_prefixed_ref("acme/own#bf16"))
    assert own is not None
    assert own.pipeline_class == "OtherPipeline"
    assert own.tags >= {"prod", "latest"}
    assert own.flavors == {"bf16"}
    missing = facts(started, parse_prefixed_ref("acme/own:beta"))
    assert missing is not None
    assert "beta" not in missing.tags
    assert facts(started, parse_prefixed_ref("acme/none")) is None
    there = facts(started, parse_prefixed_ref("hf:acme/tiny"))
    assert there == RepoFacts(pipeline_class="TinyPipeline")
    assert facts(started, parse_prefixed_ref("hf:acme/none")) is None
    assert facts(started, parse_prefixed_ref("modelscope:acme/tiny")) is None


def test_offline_what_is_here_is_looked_up(
    hub: RunningHub, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    sources(None).ensure(choice("hf:acme/tiny"))
    offline = sources(hub, is_offline=True)
    assert facts(offline, parse_prefixed_ref("hf:acme/tiny")) == RepoFacts(
        pipeline_class="TinyPipeline"
    )
    assert facts(offline, parse_prefixed_ref("acme/own")) is None


# Object storage.


def granted(server: ScriptedServer, data: bytes, key: str, *, url: str = "") -> Snapshot:
    grant = {
        "endpointUrl": server.origin,
        "bucketName": "models",
        "objectKey": key,
        "accessKeyId": "AKID",
        "secretAccessKey": "very-secret",
        "sessionToken": "session",
        "region": "auto",
    }
    file = SnapshotFile(
        path="model.safetensors",
        size_bytes=len(data),
        blake3=blake3(data).hexdigest(),
        transfer_grant=grant,
        url=url,
    )
    return snapshot_of([file])


def test_a_grant_is_a_signed_url_that_is_fetched_like_any_other(
    server: ScriptedServer, sources: Callable[..., Sources]
) -> None:
    pytest.importorskip("boto3")
    data = weights(5000)
    server.files["/models/new"] = data
    renewals: list[Snapshot] = []

    def renew() -> Snapshot:
        renewals.append(granted(server, data, "new"))
        return renewals[-1]

    events: list[str] = []
    model = sources(None, trusted=(server.origin,)).ensure(
        choice("acme/granted"),
        resolved=granted(server, data, "old"),  # gone from the storage: 404
        renew=renew,
        tell=lambda kind, payload: events.append(kind),
    )
    assert Path(model.path).read_bytes() == data
    assert len(renewals) == events.count("model.url_refresh") == 1
    query = parse_qs(urlsplit(server.asked[-1].target).query)
    assert query["X-Amz-Credential"][0].startswith("AKID/")
    assert query["X-Amz-Security-Token"] == ["session"]
    assert "very-secret" not in server.asked[-1].target


@pytest.mark.parametrize("has_url", [True, False])
def test_without_the_library_a_url_does_and_a_bare_grant_names_the_extra(
    has_url: bool,
    server: ScriptedServer,
    sources: Callable[..., Sources],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "boto3" else found(name)
    )
    data = weights()
    server.files["/plain"] = data
    started = sources(None, trusted=(server.origin,))
    snapshot = granted(server, data, "key", url=server.url("/plain") if has_url else "")
    if has_url:
        assert started.ensure(choice("acme/granted"), resolved=snapshot).bytes_downloaded
    else:
        with pytest.raises(ModelResolutionError, match=r"gen-worker\[s3\]") as error:
            started.ensure(choice("acme/granted"), resolved=snapshot)
        assert "very-secret" not in str(error.value)


def test_files_without_a_url_come_from_the_hub_by_their_digest(
    hub: RunningHub, sources: Callable[..., Sources], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights(5000))
    with hub.client() as client:
        publish_folder(client, folder, "acme/own")
        full = client.resolve(choice("acme/own").target).snapshot  # type: ignore[arg-type]
    bare = msgspec.structs.replace(
        full, files=tuple(msgspec.structs.replace(x, url="") for x in full.files)
    )
    model = sources(hub).ensure(choice("acme/own"), resolved=bare)
    assert Path(model.path).read_bytes() == (folder / "model.safetensors").read_bytes()
    other = msgspec.structs.replace(bare, digest="e" * 64)
    (tmp_path / "cas" / "blobs" / "blake3").rename(tmp_path / "gone")
    with pytest.raises(ModelResolutionError, match="TENSORHUB_URL"):
        sources(None).ensure(choice("acme/other"), resolved=other)
