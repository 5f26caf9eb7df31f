"""Datasets from job to job: made, published as revisions, and read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import (
    Dataset,
    DatasetContext,
    ProducedFlavor,
    training_function,
)
from gen_worker.testing import EndpointTester

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from publishing_hub import Hub, Worker

pytest.importorskip("pyarrow")

READ: list[list[dict[str, Any]]] = []


@training_function(kind="dataset-generation")
def make(ctx: DatasetContext, text: str, count: int = 3) -> list[ProducedFlavor]:
    with ctx.dataset_writer(
        {"prompt": "string"}, kind="prompt_corpus", on_file=ctx.publish_early
    ) as out:
        out.write_all({"prompt": f"{text} {number}"} for number in range(count))
        out.write({"prompt": f"{text} held out"}, split="test")
    return [ProducedFlavor(out.directory)]


@training_function(kind="dataset-generation:read")
def read(ctx: DatasetContext, datasets: list[Dataset]) -> list[ProducedFlavor]:
    for dataset in datasets:
        dataset.verify()
        READ.append(list(dataset.iter_prompts()))
    return []


@pytest.fixture(scope="module")
def hub(publishing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    worker = publishing.Worker(tmp_path / "worker", hub, make, read)
    yield worker
    worker.close()
    READ.clear()
    hub.faults.clear()


def prompts(worker: Worker, ref: str, **chosen: Any) -> list[str]:
    answer = worker.run("read", {"datasets": [{"ref": ref, **chosen}]})
    assert not hasattr(answer, "error_type"), answer
    return [row["prompt"] for row in READ.pop()]


def publish(worker: Worker, ref: str, text: str, *tags: str, count: int = 3) -> dict[str, Any]:
    destination = {"ref": ref, "tags": list(tags)}
    answer = worker.run("make", {"destination": destination, "text": text, "count": count})
    assert not hasattr(answer, "error_type"), answer
    published: dict[str, Any] = answer["published"]
    return published


def test_a_revision_stays_what_it_is(worker: Worker, hub: Hub) -> None:
    assert publish(worker, "acme/cats", "cat")["existed"] is False
    with hub.client() as client:
        first = (client.find_dataset("acme", "cats") or {})["revision_digest"]
    again = publish(worker, "acme/cats", "dog")
    assert (again["existed"], again["revision"]) == (True, 2)
    assert prompts(worker, "acme/cats") == ["dog 0", "dog 1", "dog 2"]
    assert prompts(worker, "acme/cats", split="test") == ["dog held out"]
    for chosen in ({"checkpoint_id": "1"}, {"checkpoint_id": first}):
        assert prompts(worker, "acme/cats", **chosen) == ["cat 0", "cat 1", "cat 2"]
    assert prompts(worker, f"acme/cats@{first}") == ["cat 0", "cat 1", "cat 2"]


def test_tags_name_revisions(worker: Worker) -> None:
    """As those of models: a ref without one means `prod`, where a revision has it."""
    publish(worker, "acme/tagged", "first", "prod", "v1")
    publish(worker, "acme/tagged", "second")
    publish(worker, "acme/tagged", "third", "v3")
    for ref, text in (
        ("acme/tagged", "first"),
        ("acme/tagged:v1", "first"),
        ("acme/tagged:latest", "third"),
        ("acme/tagged:v3", "third"),
    ):
        assert prompts(worker, ref)[0] == f"{text} 0", ref
    publish(worker, "acme/tagged", "fourth", "prod")
    assert prompts(worker, "acme/tagged")[0] == "fourth 0"
    assert prompts(worker, "acme/tagged:v1")[0] == "first 0"


def fetched(hub: Hub) -> int:
    """Return how many files were fetched, and begin to count anew."""
    count = sum(method == "GET" and path.endswith("/content") for method, path in hub.asked)
    hub.forget()
    return count


def test_equal_files_are_fetched_once(worker: Worker, hub: Hub) -> None:
    publish(worker, "acme/kept", "cat")
    hub.forget()
    assert prompts(worker, "acme/kept") == ["cat 0", "cat 1", "cat 2"]
    assert fetched(hub) == 3
    assert prompts(worker, "acme/kept") == ["cat 0", "cat 1", "cat 2"]
    publish(worker, "acme/as-kept", "cat")
    assert prompts(worker, "acme/as-kept") == ["cat 0", "cat 1", "cat 2"]
    assert fetched(hub) == 0
    publish(worker, "acme/kept", "cat", count=4)
    hub.forget()
    assert len(prompts(worker, "acme/kept")) == 4
    assert fetched(hub) == 2  # the other split is what it was


def test_a_damaged_file_is_fetched_again(worker: Worker, hub: Hub) -> None:
    publish(worker, "acme/damaged", "cat")
    assert prompts(worker, "acme/damaged") == ["cat 0", "cat 1", "cat 2"]
    blobs = [path for path in (worker.folder / "cas" / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 3
    for path in blobs:
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    hub.forget()
    assert prompts(worker, "acme/damaged") == ["cat 0", "cat 1", "cat 2"]
    assert fetched(hub) == 3


def test_what_a_job_reads_is_not_evicted(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    from gen_worker.models.store import ContentStore

    store = ContentStore(worker.folder / "cas", reserve_bytes=0)
    publish(worker, "acme/leased", "cat")
    whole = Dataset.verify

    def evicted(dataset: Dataset) -> int:
        store.collect(0)
        return whole(dataset)

    monkeypatch.setattr(Dataset, "verify", evicted)
    assert prompts(worker, "acme/leased") == ["cat 0", "cat 1", "cat 2"]
    store.collect(0)
    assert store.snapshots() == ()


def test_a_dataset_is_meant_where_a_model_has_the_same_name(
    worker: Worker, hub: Hub, tmp_path: Path
) -> None:
    from gen_worker.models.hub import publish_folder

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    publish(worker, "acme/both", "cat")
    with hub.client() as client:
        publish_folder(client, tmp_path / "model", "acme/both")
    assert prompts(worker, "acme/both") == ["cat 0", "cat 1", "cat 2"]


@pytest.mark.parametrize(
    ("destination", "message"),
    [({"visibility": "secret"}, "'secret'"), ({"tags": ["latest"]}, "'latest'")],
)
def test_a_destination_is_checked_before_the_work(
    worker: Worker, hub: Hub, destination: dict[str, Any], message: str
) -> None:
    hub.forget()
    payload = {"destination": {"ref": "acme/no", **destination}, "text": "cat"}
    failure = worker.run("make", payload)
    assert failure.error_type == "validation", failure
    assert message in failure.message
    assert hub.asked == []


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"split": "validation"}, "has no split 'validation'"),
        ({"checkpoint_id": "7"}, "revision"),
        ({"checkpoint_id": "blake3:" + "0" * 64}, "has no revision"),
        ({"ref": "acme/none"}, "is not on this machine"),
        ({"ref": "acme/birds:v9"}, "has no tag 'v9'"),
    ],
)
def test_what_is_not_there_is_named(worker: Worker, chosen: dict[str, Any], message: str) -> None:
    publish(worker, "acme/birds", "bird")
    failure = worker.run("read", {"datasets": [{"ref": "acme/birds", **chosen}]})
    assert message in f"{failure.message}"
    assert failure.error_type in ("validation", "artifact_transfer", "model_resolution"), failure


@pytest.mark.parametrize("step", ["upload", "bytes", "complete", "dataset"])
def test_a_hub_that_fails_leaves_no_dataset(worker: Worker, hub: Hub, step: str) -> None:
    hub.faults[step] = 403
    answer = worker.run("make", {"destination": {"ref": f"acme/no-{step}"}, "text": step})
    assert answer.error_type in ("auth", "artifact_transfer"), answer
    hub.faults.clear()
    with hub.client() as client:
        assert client.find_dataset("acme", f"no-{step}") is None
    assert ("dataset.publish_failed" in worker.events.types()) == (step == "dataset")


def test_the_testing_kit_runs_a_generation() -> None:
    with EndpointTester(make) as tester:
        answer = tester.run("make", {"destination": {"ref": "acme/kit"}, "text": "kit"}).value
        files = [one["path"] for one in answer["flavors"][0]["files"]]
    assert files == ["data/test-00000.parquet", "data/train-00000.parquet", "dataset_info.json"]
