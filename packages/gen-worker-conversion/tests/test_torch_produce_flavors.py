"""A whole conversion in one call of an author: sent while it is made, proven, and gone on with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import ConversionContext, ProducedFlavor, Source, training_function
from gen_worker.conversion.convert import produce_flavors
from gen_worker.errors import Failure
from gen_worker.models.hub import publish_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from publishing_hub import Hub, Worker

torch: Any = pytest.importorskip("torch")

AFTER: list[Callable[[], object]] = []
"""What `casts` does when everything is made, before it returns."""


@training_function(kind="format-conversion")
def casts(ctx: ConversionContext, source: Source, to: list[str]) -> list[ProducedFlavor]:
    made = produce_flavors(ctx, source, to, max_shard_bytes=2000)
    for act in AFTER:
        act()
    return made


@pytest.fixture
def hub(publishing: Any, tmp_path: Path) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path / "hub") as hub:
        yield hub
    AFTER.clear()


@pytest.fixture
def worker(
    publishing: Any, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Worker]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where jobs keep what they go on with
    worker = publishing.Worker(tmp_path / "worker", hub, casts)
    yield worker
    worker.close()


@pytest.fixture
def source(hub: Hub, worker: Worker, small_models: Any, tmp_path: Path) -> dict[str, Any]:
    """A model on the hub."""
    with hub.client() as client:
        publish_folder(client, small_models.folder(tmp_path / "source"), "acme/source")
    hub.forget()
    return {"ref": "acme/source"}


def test_files_are_on_the_hub_before_the_function_has_returned(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    AFTER.append(lambda: hub.wait_for("complete", 3))  # three files of weights, and moved since
    answer = worker.run(
        "casts", {"source": source, "destination": {"ref": "acme/made"}, "to": ["bf16", "fp16"]}
    )
    assert not isinstance(answer, Failure), answer
    told = [flavor["attributes"] for flavor in answer["flavors"]]
    assert [flavor["flavor"] for flavor in answer["flavors"]] == ["bf16", "fp16"]
    assert all(one["verification"]["min_snr_db"] is None for one in told)  # of ones and zeros
    assert {one["provenance"]["source_ref"] for one in told} == {"acme/source"}
    paths = set(hub.tree("acme/made", flavor="fp16"))
    assert {"README.md", "provenance.json", "tokenizer.json", "verification.json"} <= paths
    refs = [json.dumps(one) for one in hub.asked if one[1].endswith("/uploads")]
    weights = sum(len(hub.tree("acme/made", flavor=one)) for one in ("bf16", "fp16"))
    assert len(refs) == weights  # each file once, though the folders were moved


def test_a_job_that_could_not_publish_converts_only_once(
    hub: Hub,
    worker: Worker,
    source: dict[str, Any],
    publishing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = {"source": source, "destination": {"ref": "acme/again"}, "to": ["bf16"]}
    plans: list[Any] = []
    from gen_worker.conversion.convert import jobs, run_conversion

    def noted(plan: Any, **options: Any) -> Any:
        plans.append(plan)
        return run_conversion(plan, **options)

    monkeypatch.setattr(jobs, "run_conversion", noted)
    publishing.hasten(monkeypatch)
    hub.faults["finalize"] = 500
    failure = worker.run("casts", request)
    assert failure.retryable, failure
    hub.faults.clear()
    answer = worker.run("casts", request)
    assert answer["published"]["ok"], answer
    first, second = plans
    assert second.is_finished
    assert not first.is_finished
    assert second.request == first.request  # though the source was fetched anew


def test_what_cannot_be_made_is_refused_with_its_reason(
    worker: Worker, source: dict[str, Any]
) -> None:
    request = {"source": source, "destination": {"ref": "acme/no"}, "to": ["nvfp5"]}
    failure = worker.run("casts", request)
    assert failure.error_type == "validation"
    assert "nvfp5" in failure.message
