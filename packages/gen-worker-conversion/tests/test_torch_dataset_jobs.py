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


def publish(worker: Worker, ref: str, text: str) -> dict[str, Any]:
    answer = worker.run("make", {"destination": {"ref": ref}, "text": text})
    assert not hasattr(answer, "error_type"), answer
    published: dict[str, Any] = answer["published"]
    return published


def test_a_dataset_published_twice_is_read_as_it_is_now_and_was(worker: Worker, hub: Hub) -> None:
    assert publish(worker, "acme/cats", "cat")["existed"] is False
    assert prompts(worker, "acme/cats") == ["cat 0", "cat 1", "cat 2"]
    with hub.client() as client:
        first = (client.find_dataset("acme", "cats") or {})["revision_digest"]

    assert publish(worker, "acme/cats", "dog")["existed"] is True
    assert prompts(worker, "acme/cats") == ["dog 0", "dog 1", "dog 2"]
    assert prompts(worker, "acme/cats", split="test") == ["dog held out"]
    # A revision stays what it is.
    assert prompts(worker, "acme/cats", checkpoint_id="1") == ["cat 0", "cat 1", "cat 2"]
    assert prompts(worker, "acme/cats", checkpoint_id=first) == ["cat 0", "cat 1", "cat 2"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"split": "validation"}, "has no split 'validation'"),
        ({"checkpoint_id": "7"}, "revision"),
        ({"checkpoint_id": "blake3:" + "0" * 64}, "has no revision"),
        ({"ref": "acme/none"}, "is not on this machine"),
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
