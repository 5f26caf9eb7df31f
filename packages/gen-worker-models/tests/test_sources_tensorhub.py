"""A ref of the hub becomes verified files in the content store, whatever the hub does meanwhile."""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, ModelResolutionError, classify
from gen_worker.models.choice import LoraChoice, ModelChoice
from gen_worker.models.fetch import Fetcher, FetchProgress, RetryLimits
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.hub import (
    Flavor,
    HubClient,
    Ingested,
    IngestRequest,
    TagNotFoundError,
    publish_flavors,
    publish_folder,
)
from gen_worker.models.net import Opener
from gen_worker.models.sources import (
    ModelAccessError,
    OfflineMissError,
    Sources,
    UnsupportedProviderError,
)
from gen_worker.models.store import ContentStore, DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningHub, ScriptedServer
    from gen_worker.models.snapshot import Snapshot


def weights(count: int = 64, dtype: str = "BF16") -> bytes:
    """Return a safetensors file of one random tensor."""
    entry = {"dtype": dtype, "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(2 * count)


def write(folder: Path, **files: bytes | Any) -> Path:
    """Write files; `__` in a name stands for `/`, `_json` at its end for `.json`."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace(
            "_st", ".safetensors"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def pipeline(folder: Path, **more: bytes) -> Path:
    index = {"_class_name": "TinyPipeline", "unet": ["diffusers", "Tiny"], "x": [None, None]}
    unet = weights(300_000)
    return write(folder, model_index_json=index, unet__config_json={}, unet__model_st=unet, **more)


class Events:
    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, payload: dict[str, Any]) -> None:
        self.all.append((kind, payload))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.all]


class Worker:
    """One machine: a store, and sources over it."""

    def __init__(self, root: Path, hub: RunningHub | None, *scopes: str, **options: Any) -> None:
        self.client = hub.client(*scopes) if hub else None
        trusted = [hub.url] if hub else []
        self.opener = Opener(trusted=[*trusted, *options.pop("trusted", ())])
        retries = RetryLimits(factor_s=0.01, cap_s=0.02, max_tries=4)
        self.store = ContentStore(root, reserve_bytes=0)
        self.sources = Sources(
            self.store,
            self.opener,
            Fetcher(self.opener, retries=retries, durable=False),
            hub=options.pop("client", self.client),
            **options,
        )

    def close(self) -> None:
        self.opener.close()
        if self.client is not None:
            self.client.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(hub: RunningHub | None, *scopes: str, root: str = "cas", **options: Any) -> Worker:
        workers.append(Worker(tmp_path / root, hub, *scopes, **options))
        return workers[-1]

    yield start
    for one in workers:
        one.close()


def choice(ref: str, **fields: Any) -> ModelChoice:
    return ModelChoice.from_record({"ref": ref, **fields})


def publish(hub: RunningHub, folder: Path, repository: str = "acme/tiny", **options: Any) -> str:
    with hub.client() as client:
        return publish_folder(client, folder, repository, **options).checkpoint_ids[0]


def test_a_ref_becomes_a_directory_with_the_published_files(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "model")
    checkpoint = publish(hub, folder)
    events = Events()
    here = worker(hub)

    model = here.sources.ensure(choice("acme/tiny"), tell=events, request_id="r1")

    assert model.path == model.root == here.store.snapshot(checkpoint)
    assert f"blake3:{model.digest}" == checkpoint
    assert model.files == ("model_index.json", "unet/config.json", "unet/model.safetensors")
    for path in model.files:
        assert Path(model.root, path).read_bytes() == (folder / path).read_bytes()
    assert (model.identity, model.provider, model.ref) == (
        "tensorhub:acme/tiny:prod",
        "tensorhub",
        "acme/tiny:prod",
    )
    total = sum((folder / path).stat().st_size for path in model.files)
    assert model.size_bytes == model.bytes_downloaded == total
    assert not model.was_cached
    assert model.attributes["dtype"] == "bf16"
    base = {
        "model_id": "acme/tiny:prod",
        "provider": "tensorhub",
        "source": "tensorhub_cas",
        "request_id": "r1",
    }
    (first, started), (last, completed) = events.all[0], events.all[-1]
    assert first == "model.download.started"
    assert started == base | {"estimated_total_bytes": total, "estimated_eta_seconds": -1}
    assert last == "model.download.completed"
    assert completed == base | {"bytes_total": total, "duration_ms": completed["duration_ms"]}


def test_the_progress_is_that_of_the_whole_model(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    seen: list[FetchProgress] = []
    model = worker(hub).sources.ensure(choice("acme/tiny"), watch=seen.append)
    assert {(state.bytes_total, state.files_total) for state in seen} == {(model.size_bytes, 3)}
    assert seen == sorted(seen)
    assert (seen[-1].bytes_done, seen[-1].files_done) == (model.size_bytes, 3)


def test_what_is_here_is_not_fetched_again_and_tells_nothing(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    here = worker(hub)
    first = here.sources.ensure(choice("acme/tiny"))
    events = Events()
    again = here.sources.ensure(choice("acme/tiny"), tell=events)
    assert again == msgspec.structs.replace(first, bytes_downloaded=0, was_cached=True)
    assert events.all == []


def test_a_pinned_ref_that_is_here_needs_no_network(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    checkpoint = publish(hub, pipeline(tmp_path / "model"))
    worker(hub).sources.ensure(choice(f"acme/tiny@{checkpoint}"))
    with HubClient("http://127.0.0.1:9") as gone:  # nothing listens there
        model = worker(None, client=gone).sources.ensure(choice(f"acme/tiny@{checkpoint}"))
    assert model.was_cached
    assert model.attributes["dtype"] == "bf16"


def test_a_moved_tag_is_followed_and_only_what_changed_is_fetched(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "model")
    publish(hub, folder)
    here = worker(hub)
    first = here.sources.ensure(choice("acme/tiny"))
    write(folder, unet__config_json={"changed": True})
    publish(hub, folder)
    second = here.sources.ensure(choice("acme/tiny"))
    assert second.digest != first.digest
    assert second.bytes_downloaded == (folder / "unet/config.json").stat().st_size


def test_flavors_and_attributes_choose_the_files(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    small = write(tmp_path / "small", model_st=weights(8, "F16"))
    large = write(tmp_path / "large", model_st=weights(16, "BF16"))
    with hub.client() as client:
        publish_flavors(
            client,
            [Flavor(folder=str(small), name="fp16"), Flavor(folder=str(large), name="bf16")],
            "acme/tiny",
        )
    sources = worker(hub).sources
    fp16 = sources.ensure(choice("acme/tiny#fp16"))
    bf16 = sources.ensure(choice("acme/tiny#bf16"))
    asked = sources.ensure(choice("acme/tiny", attributes={"dtype": ["bf16", "fp16"]}))
    assert fp16.digest != bf16.digest
    assert asked.digest == bf16.digest
    # One weights file and nothing that tells a layout: the file is what is loaded.
    assert fp16.path == os.path.join(fp16.root, "model.safetensors")


def test_a_silent_hub_leaves_the_last_known_meaning_of_a_tag_and_it_is_said(
    hub: RunningHub,
    worker: Callable[..., Worker],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    known = worker(hub).sources.ensure(choice("acme/tiny"))
    events = Events()
    with HubClient("http://127.0.0.1:9") as gone, caplog.at_level(logging.WARNING):
        model = worker(None, client=gone).sources.ensure(choice("acme/tiny"), tell=events)
        strict = worker(None, client=gone, may_use_last_known=False).sources
        with pytest.raises(ModelResolutionError, match="cannot be asked") as error:
            strict.ensure(choice("acme/tiny"))
    assert error.value.retryable
    assert (model.digest, model.is_last_known) == (known.digest, True)
    assert events.kinds == ["model.resolve.last_known"]
    assert "using" in caplog.text


@pytest.mark.parametrize("is_offline", [True, False])
def test_without_any_hub_what_was_fetched_once_is_found_and_the_rest_is_named(
    is_offline: bool, hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    known = worker(hub).sources.ensure(choice("acme/tiny"))
    alone = worker(None, is_offline=is_offline).sources
    assert alone.ensure(choice("acme/tiny")).digest == known.digest
    found = alone.find(choice("acme/tiny"))
    assert found is not None
    assert found.digest == known.digest
    assert alone.find(choice("acme/other")) is None
    with pytest.raises(ModelResolutionError, match="'acme/other:prod'") as error:
        alone.ensure(choice("acme/other"))
    assert isinstance(error.value, OfflineMissError) == is_offline
    assert classify(error.value).exit_code == 3


def test_offline_uses_no_network_even_if_a_hub_is_configured(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    checkpoint = publish(hub, pipeline(tmp_path / "model"))
    offline = worker(hub, is_offline=True).sources
    for ref in ("acme/tiny", f"acme/tiny@{checkpoint}"):
        with pytest.raises(OfflineMissError):
            offline.ensure(choice(ref))


def test_an_entry_of_the_job_needs_no_question_to_the_hub(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    with hub.client() as client:
        resolved = client.resolve(choice("acme/tiny").target).snapshot  # type: ignore[arg-type]
    here = worker(hub, client=None)  # trusts its origin, and has no client
    model = here.sources.ensure(choice("acme/tiny"), resolved=resolved)
    assert model.digest == resolved.digest
    assert model.bytes_downloaded > 0


def test_a_worker_that_may_not_resolve_says_what_is_missing(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    with pytest.raises(ModelResolutionError, match="WORKER_ALLOW_TENSORHUB_API_RESOLVE"):
        worker(hub, may_resolve=False).sources.ensure(choice("acme/tiny"))


def test_an_entry_for_another_checkpoint_than_the_pinned_one_is_refused(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    with hub.client() as client:
        resolved = client.resolve(choice("acme/tiny").target).snapshot  # type: ignore[arg-type]
    pinned = choice(f"acme/tiny@blake3:{'0' * 64}")
    with pytest.raises(ModelResolutionError, match="another checkpoint"):
        worker(hub).sources.ensure(pinned, resolved=resolved)


@pytest.mark.parametrize(
    ("ref", "missing"),
    [
        ("acme/none", "no repository 'acme/none'"),
        ("acme/tiny:beta", "no tag 'beta', only 'latest', 'prod'"),
        ("acme/tiny#int4", "no flavor 'int4', only 'default'"),
        (f"acme/tiny@blake3:{'a' * 64}", "no checkpoint"),
    ],
)
def test_what_is_not_on_the_hub_is_named_with_what_it_has(
    ref: str, missing: str, hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    with pytest.raises(ModelResolutionError, match=missing) as error:
        worker(hub).sources.ensure(choice(ref))
    assert repr(str(choice(ref).target)) in str(error.value)
    assert not error.value.retryable
    if "beta" in ref:
        assert isinstance(error.value, TagNotFoundError)
        assert error.value.available == ("latest", "prod")


def test_a_refused_token_is_an_error_of_access_that_names_the_variable(
    hub: RunningHub, worker: Callable[..., Worker]
) -> None:
    with HubClient(hub.url, "wrong") as stranger, pytest.raises(ModelAccessError) as error:
        worker(hub, client=stranger).sources.ensure(choice("acme/tiny"))
    assert "TENSORHUB_TOKEN" in str(error.value)
    assert classify(error.value).exit_code == 3


def test_expired_urls_are_asked_for_again_and_the_download_goes_on(
    serve_hub: Callable[..., RunningHub], worker: Callable[..., Worker], tmp_path: Path
) -> None:
    ahead = [0.0]
    hub = serve_hub(now=lambda: time.time() + ahead[0], url_ttl_s=60.0)
    publish(hub, pipeline(tmp_path / "model"))
    with hub.client() as client:
        stale = client.resolve(choice("acme/tiny").target).snapshot  # type: ignore[arg-type]
    ahead[0] = 120.0
    events = Events()
    model = worker(hub).sources.ensure(choice("acme/tiny"), resolved=stale, tell=events)
    assert model.digest == stale.digest
    # Once for all files: the first that is refused renews for the others.
    assert events.kinds.count("model.url_refresh") == 1
    assert dict(events.all)["model.url_refresh"] == {"model_id": "acme/tiny:prod"}


def test_a_worker_that_may_not_resolve_gets_new_urls_from_who_gave_the_old_ones(
    serve_hub: Callable[..., RunningHub], worker: Callable[..., Worker], tmp_path: Path
) -> None:
    ahead = [0.0]
    hub = serve_hub(now=lambda: time.time() + ahead[0], url_ttl_s=60.0)
    publish(hub, pipeline(tmp_path / "model"))
    with hub.client() as client:
        ref = choice("acme/tiny").target
        stale = client.resolve(ref).snapshot  # type: ignore[arg-type]
        ahead[0] = 120.0
        here = worker(hub, may_resolve=False)
        with pytest.raises(ModelResolutionError, match="acme/tiny:prod"):
            here.sources.ensure(choice("acme/tiny"), resolved=stale)
        model = here.sources.ensure(
            choice("acme/tiny"),
            resolved=stale,
            renew=lambda: client.resolve(ref).snapshot,  # type: ignore[arg-type]
        )
    assert model.digest == stale.digest


def test_threads_that_want_one_model_fetch_it_once(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    sources = worker(hub).sources
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: sources.ensure(choice("acme/tiny")), range(6)))
    assert sum(not model.was_cached for model in models) == 1
    assert len({model.path for model in models}) == 1


def test_a_failed_fetch_does_not_poison_the_model(
    hub: RunningHub, worker: Callable[..., Worker], server: ScriptedServer, tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    with hub.client() as client:
        good = client.resolve(choice("acme/tiny").target).snapshot  # type: ignore[arg-type]
    bad = msgspec.structs.replace(
        good,
        files=tuple(msgspec.structs.replace(x, url=server.url("/gone")) for x in good.files),
    )
    here = worker(hub, client=None, trusted=[server.origin])
    events = Events()
    with pytest.raises(ModelResolutionError, match="acme/tiny:prod"):
        here.sources.ensure(choice("acme/tiny"), resolved=bad, tell=events)
    assert events.all[-1][0] == "worker.model.download.failed"
    assert set(events.all[-1][1]) == {"model_id", "provider", "source", "error_type", "duration_ms"}
    assert here.sources.ensure(choice("acme/tiny"), resolved=good).digest == good.digest


def test_at_most_so_many_models_are_downloaded_at_a_time(
    hub: RunningHub, worker: Callable[..., Worker], server: ScriptedServer, tmp_path: Path
) -> None:
    running, most = [0], [0]
    lock, both = threading.Lock(), threading.Barrier(2)

    def slow(asked: Any) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        both.wait(60)  # two of the four models at a time, and never three
        with lock:
            running[0] -= 1
        asked.serve()

    jobs = {}
    for number in range(4):
        data = weights(8)
        server.files[f"/{number}"] = data
        server.plan(f"/{number}", slow)
        jobs[f"acme/m{number}"] = _snapshot(server, {"model.safetensors": (f"/{number}", data)})
    here = worker(None, trusted=[server.origin], max_downloads=2)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda job: here.sources.ensure(choice(job[0]), resolved=job[1]), jobs.items())
        )
    assert most[0] == 2


def test_a_cancel_ends_the_download_and_the_next_one_goes_on(
    worker: Callable[..., Worker], server: ScriptedServer
) -> None:
    data = weights(6_000_000)
    server.files["/w"] = data
    token = CancelToken()

    def stall(asked: Any) -> None:
        server.released.wait(60)
        asked.cut()

    def watch(state: FetchProgress) -> None:
        if state.bytes_done > 4_000_000:
            token.cancel()

    server.plan("/w", lambda asked: asked.serve(most=5_000_000), *[stall] * 8)
    here = worker(None, trusted=[server.origin])
    snapshot = _snapshot(server, {"model.safetensors": ("/w", data)})
    with pytest.raises(CanceledError):
        here.sources.ensure(choice("acme/m"), resolved=snapshot, token=token, watch=watch)
    server.released.set()
    server._plans.clear()
    model = here.sources.ensure(choice("acme/m"), resolved=snapshot)
    assert model.bytes_downloaded < len(data) - 4_000_000
    assert Path(model.path).read_bytes() == data


def test_a_damaged_file_is_fetched_again_in_chunks(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    here = worker(hub)
    model = here.sources.ensure(choice("acme/tiny"))
    path = os.path.join(model.root, "unet", "model.safetensors")
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"x" * 10)
    assert here.store.verify()
    assert here.sources.find(choice("acme/tiny")) is None
    again = here.sources.ensure(choice("acme/tiny"))
    published = tmp_path / "model/unet/model.safetensors"
    assert Path(path).read_bytes() == published.read_bytes()
    assert again.bytes_downloaded == os.stat(path).st_size


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"model.bin": b"x" * 9, "small.ckpt": b"x"}, "'model.bin' and 1 more"),
        ({"weights.PKL": b"x"}, "weights.PKL"),
    ],
)
def test_unsafe_weights_are_refused_before_a_byte_is_fetched(
    files: dict[str, bytes],
    named: str,
    hub: RunningHub,
    worker: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    publish(hub, folder)
    here = worker(hub)
    events = Events()
    with pytest.raises(UnsafeFileFormat, match=named) as error:
        here.sources.ensure(choice("acme/tiny"), tell=events)
    assert "safetensors" in str(error.value)
    assert error.value.ref == "acme/tiny:prod"
    assert events.all == []
    assert here.store.usage().used_bytes == 0


def test_a_component_that_is_unsafe_alone_is_refused_before_the_weights_move(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    index = {"unet": ["diffusers", "Tiny"], "vae": ["diffusers", "Tiny"]}
    folder = write(tmp_path / "bad", model_index_json=index, unet__m_st=weights(100_000))
    (folder / "vae").mkdir()
    (folder / "vae" / "model.bin").write_bytes(b"x" * 1000)
    publish(hub, folder)
    here = worker(hub)
    with pytest.raises(UnsafeFileFormat, match="component 'vae'"):
        here.sources.ensure(choice("acme/tiny"))
    assert here.store.usage().used_bytes == (folder / "model_index.json").stat().st_size


def test_a_full_disk_is_told_before_a_byte_moves(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    here = worker(hub)
    tiny = ContentStore(tmp_path / "small", budget_bytes=1000, reserve_bytes=0)
    sources = Sources(tiny, here.opener, Fetcher(here.opener), hub=here.client)
    with pytest.raises(DiskFullError):
        sources.ensure(choice("acme/tiny"))
    assert tiny.usage().used_bytes == 0


def test_a_plan_says_what_would_be_fetched_and_fetches_nothing(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "model")
    publish(hub, folder)
    here = worker(hub)
    plan = here.sources.resolve(choice("acme/tiny"))
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert (plan.size_bytes, plan.missing_bytes) == (total, total)
    assert here.store.usage().used_bytes == 0
    model = here.sources.ensure(choice("acme/tiny"))
    plan = here.sources.resolve(choice("acme/tiny"))
    assert (plan.size_bytes, plan.missing_bytes, plan.digest) == (total, 0, model.digest)


def test_a_held_model_is_not_evicted(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    publish(hub, pipeline(tmp_path / "model"))
    here = worker(hub)
    with here.sources.hold(choice("acme/tiny")) as model:
        here.store.collect(0)
        assert os.path.isdir(model.path)
    here.store.collect(0)
    assert not os.path.isdir(model.path)


def test_a_public_model_the_hub_lacks_is_asked_for(
    serve_hub: Callable[..., RunningHub], worker: Callable[..., Worker], tmp_path: Path
) -> None:
    asked: list[IngestRequest] = []

    def ingest(request: IngestRequest, folder: str) -> Ingested:
        asked.append(request)
        with open(os.path.join(folder, "model.safetensors"), "wb") as file:
            file.write(weights(8))
        return Ingested(dtype="fp16")

    hub = serve_hub(ingester=ingest)
    here = worker(hub, may_ingest=True)
    # A ref of the hub's own cannot be ingested: the error says both.
    with pytest.raises(ModelResolutionError, match="public model either"):
        here.sources.ensure(choice("acme/none"))
    assert asked == []


def test_a_lora_is_a_model_of_its_own(
    hub: RunningHub, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    folder = write(tmp_path / "lora", pytorch_lora_weights_st=weights(8))
    publish(hub, folder, "acme/style")
    model = worker(hub).sources.ensure(LoraChoice(ref="acme/style", tag="prod", weight=0.5))
    assert os.path.basename(model.path) == "pytorch_lora_weights.safetensors"


def test_modelscope_is_refused_with_what_to_do(worker: Callable[..., Worker]) -> None:
    declared = ModelChoice(ref="owner/repo", provider="modelscope")
    with pytest.raises(UnsupportedProviderError, match="HFRepo") as error:
        worker(None).sources.ensure(declared)
    assert classify(error.value).exit_code == 3


def test_hostile_paths_of_an_entry_never_reach_the_disk() -> None:
    from gen_worker.errors import ValidationError
    from gen_worker.models.snapshot import snapshot_from_record

    for path in ("../x", "/etc/x", "a/../../x", "C:/x", "NUL", "a\\b"):
        with pytest.raises(ValidationError):
            snapshot_from_record(
                {
                    "snapshot_digest": "0" * 64,
                    "files": [{"path": path, "size_bytes": 1, "blake3": "0" * 64, "url": "x"}],
                }
            )


def _snapshot(server: ScriptedServer, files: dict[str, tuple[str, bytes]]) -> Snapshot:
    from blake3 import blake3

    from gen_worker.models.snapshot import SnapshotFile, snapshot_of

    return snapshot_of(
        SnapshotFile(
            path=path,
            size_bytes=len(data),
            blake3=blake3(data).hexdigest(),
            url=server.url(place),
        )
        for path, (place, data) in files.items()
    )
