"""What jobs publish on a real hub: whole, once, and early where they can; or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003  # the decorators read it
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.conversion import (
    ConversionContext,
    DestinationRepo,
    ProducedFlavor,
    SourceRepo,
    training_function,
)
from gen_worker.endpoint.classes import conversion
from gen_worker.errors import Failure
from gen_worker.models.hub import publish_folder
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from publishing_hub import Hub, Worker

DATA = {
    "model_index.json": b"{}",
    "tokenizer/vocab.txt": b"same",
    "tokenizer_2/vocab.txt": b"same",
    "unet/model.safetensors": b"weights" * 20_000,
    "empty.txt": b"",
}
WEIGHTS = "unet/model.safetensors"
SCRATCH: list[Path] = []


def write(ctx: ConversionContext, name: str = "bf16", weights: str = "") -> Path:
    """Make an artifact, with weights of its own where the hub must not have them already."""
    root = ctx.mktemp() / name
    SCRATCH.append(root.parent.parent)
    for path, data in DATA.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    if weights:
        (root / WEIGHTS).write_bytes(weights.encode() * 10_000)
    return root


class In(msgspec.Struct):
    destination: DestinationRepo
    source: SourceRepo


class Out(msgspec.Struct):
    ok: bool = True


@inference_function
def shape_a(ctx: RequestContext, payload: In) -> Out:
    for path in DATA:
        ctx.save_checkpoint(path, Path(ctx.source_path or "", path), "unknown")
    ctx.publish_repo_revision(
        destination_repo=payload.destination.ref, destination_repo_tags=payload.destination.tags
    )
    return Out()


class Source:
    """As the library makes one; no test here reads weights."""

    def __init__(self, path: str, *, attributes: dict[str, Any], ref: str) -> None:
        self.path = Path(path)


@training_function(kind="format-conversion")
def shape_b(
    ctx: ConversionContext, source: Source, name: str = "bf16", weights: str = ""
) -> list[ProducedFlavor]:
    return [ProducedFlavor(write(ctx, name, weights), {"quant_method": name}, flavor=name)]


class CastIn(msgspec.Struct):
    destination: DestinationRepo
    source: SourceRepo


@conversion(sub_kind="format-conversion")
class ShapeC:
    def setup(self) -> None: ...

    @conversion.function(name="shape-c")
    def cast(self, ctx: ConversionContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        yield ProducedFlavor(write(ctx), flavor="bf16")


BETWEEN: list[Callable[[ConversionContext, Path], object]] = []
"""What `early` does once its first file is on its way."""


@training_function(kind="quantization")
def early(ctx: ConversionContext, source: Source, weights: str = "") -> list[ProducedFlavor]:
    root = write(ctx, weights=weights)
    first = root / WEIGHTS
    ctx.publish_early(first)
    for act in BETWEEN:
        act(ctx, first)
    for path in sorted(root.rglob("*.txt")):
        ctx.publish_early(path)
    return [ProducedFlavor(root, flavor="nf4")]


@training_function(kind="format-conversion")
def broken(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    ctx.publish_early(write(ctx) / WEIGHTS)
    raise LookupError("half-way")


@training_function(kind="quantization")
def mixed(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    return [ProducedFlavor(write(ctx, name), flavor=name) for name in ("nf4", "bf16")]


@training_function(kind="pruning")
def smaller(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    (root := ctx.mktemp() / "bf16").mkdir()
    SCRATCH.append(root.parent.parent)
    (root / "model.gguf").write_bytes(b"one file")
    return [ProducedFlavor(root, flavor="bf16")]


@training_function(kind="pruning")
def pickled(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    root = write(ctx)
    (root / "unet" / "pytorch_model.bin").write_bytes(b"code")
    return [ProducedFlavor(root, flavor="pruned")]


FUNCTIONS = (pickled, shape_a, shape_b, ShapeC, early, broken, mixed, smaller)


@pytest.fixture(scope="module")
def shared_hub(publishing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def hub(shared_hub: Hub, publishing: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose clients wait in no time."""
    publishing.hasten(monkeypatch)
    shared_hub.forget()
    yield shared_hub
    shared_hub.faults.clear()
    BETWEEN.clear()
    assert not any(path.exists() for path in SCRATCH)
    SCRATCH.clear()


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    worker = publishing.Worker(tmp_path / "worker", hub, *FUNCTIONS)
    yield worker
    worker.close()
    assert not list(tmp_path.glob("worker/jobs/worker-*"))


def destination(name: str, *tags: str) -> dict[str, Any]:
    return {"ref": f"acme/{name}", "tags": list(tags)}


@pytest.fixture
def source(hub: Hub, worker: Worker, tmp_path: Path) -> dict[str, Any]:
    """A model on the hub."""
    root = tmp_path / "source"
    for path, data in DATA.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    with hub.client() as client:
        publish_folder(client, root, "acme/source")
    hub.forget()
    return {"ref": "acme/source"}


def test_the_three_shapes_publish_equal_manifests(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    trees = []
    for shape in ("shape-a", "shape-b", "shape-c"):
        answer = worker.run(shape, {"source": source, "destination": destination(shape, "prod")})
        assert not hasattr(answer, "error_type"), answer
        trees.append(hub.tree(f"acme/{shape}", "prod"))
    assert trees[0] == trees[1] == trees[2]
    assert sorted(trees[0]) == sorted(DATA)
    assert trees[0]["tokenizer/vocab.txt"] == trees[0]["tokenizer_2/vocab.txt"]


def test_a_second_run_sends_no_byte_and_another_flavor_only_what_is_new(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    payload = {"source": source, "destination": destination("again")}
    worker.run("shape-b", payload)
    hub.forget()
    answer = worker.run("shape-b", payload)
    assert answer["published"]["ok"]
    assert hub.sent_bytes == 0
    answer = worker.run("shape-b", {**payload, "name": "fp8", "weights": "other"})
    assert answer["published"]["ok"]
    assert hub.sent_bytes == 50_000


def test_an_artifact_takes_the_place_of_the_one_before(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    """It is what was verified: nothing of another model is mixed into it."""
    payload = {"source": source, "destination": destination("replaced", "prod")}
    assert worker.run("shape-b", payload)["published"]["ok"]
    assert worker.run("shape-b", {**payload, "name": "fp8"})["published"]["ok"]
    assert worker.run("smaller", payload)["published"]["ok"]
    assert list(hub.tree("acme/replaced", "prod", "bf16")) == ["model.gguf"]
    assert sorted(hub.tree("acme/replaced", "prod", "fp8")) == sorted(DATA)


def test_a_quantization_publishes_casts_too(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    answer = worker.run("mixed", {"source": source, "destination": destination("mixed")})
    assert not isinstance(answer, Failure), answer
    told = {
        one["flavor"]: [edge["relationship_kind"] for edge in one["lineage"]]
        for one in hub.finalized[-1]["checkpoint_flavors"]
    }
    assert told == {"nf4": ["quantization"], "bf16": ["format-conversion"]}


def test_the_lineage_is_the_checkpoint_that_was_read(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    """Also where the payload names only a tag."""
    told: list[Any] = []
    BETWEEN.append(lambda ctx, path: told.append(ctx.source_path))
    worker.run("early", {"source": source, "destination": destination("lineage")})
    with hub.client() as client:
        found = client.resolve(TensorhubRef(owner="acme", repo="source"))
    assert Path(told[0]).name == found.snapshot.checkpoint_id


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"checkpoint_id": "blake3:" + "0" * 64}, "not on the hub"),
        ({"checkpoint_id": "seven"}, "digest"),
        ({"attributes": {"dtype": "nf4"}}, "no form that fits"),
        ({"attributes": {"color": "red"}}, "choose nothing"),
    ],
)
def test_a_source_is_what_was_asked_for_or_none(
    hub: Hub, worker: Worker, source: dict[str, Any], chosen: dict[str, Any], message: str
) -> None:
    payload = {"source": {**source, **chosen}, "destination": destination("none")}
    for shape in ("shape-a", "shape-b", "shape-c"):
        failure = worker.run(shape, payload)
        assert message in failure.message
    assert hub.count("revision") == 0


# While the function works


def test_a_file_is_sent_while_the_next_one_is_made(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    BETWEEN.append(lambda ctx, path: hub.wait_for("complete"))  # before the function goes on
    answer = worker.run(
        "early", {"source": source, "destination": destination("early", "prod"), "weights": "e"}
    )
    assert answer["published"]["ok"], answer
    assert sorted(hub.tree("acme/early", "prod")) == sorted(DATA)
    assert hub.count("revision") == hub.count("finalize") == 1
    sent = sum(one.endswith("/uploads") for method, one in hub.asked if method == "POST")
    assert sent == len(DATA)  # none twice


def test_a_file_that_changes_after_all_is_sent_as_it_is_in_the_end(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    def change(ctx: ConversionContext, path: Path) -> None:
        hub.wait_for("complete")
        path.write_bytes(b"changed")

    BETWEEN.append(change)
    worker.run("early", {"source": source, "destination": destination("changed"), "weights": "c"})
    from blake3 import blake3

    digest = hub.tree("acme/changed")[WEIGHTS]
    assert digest.endswith(blake3(b"changed").hexdigest())


def test_an_upload_that_fails_fails_the_job(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    hub.faults["upload"] = 403
    failure = worker.run("early", {"source": source, "destination": destination("refused")})
    assert failure.error_type in ("auth", "artifact_transfer")
    assert hub.tree("acme/refused") == {}


def test_a_file_that_can_run_code_is_never_published(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    answer = worker.run("pickled", {"source": source, "destination": destination("pickled")})
    assert answer.error_type == "validation"
    assert "'pytorch_model.bin' is not published" in answer.message
    assert "safetensors or GGUF" in answer.message
    assert hub.count("finalize") == 0


def test_a_function_that_fails_leaves_no_revision(
    hub: Hub, worker: Worker, source: dict[str, Any]
) -> None:
    failure = worker.run("broken", {"source": source, "destination": destination("broken")})
    assert "half-way" in failure.detail
    assert_nothing_visible(hub, "broken")


# A hub that fails


@pytest.mark.parametrize("status", [500, 403])
@pytest.mark.parametrize("step", ["revision", "upload", "bytes", "complete", "finalize"])
@pytest.mark.parametrize("function", ["shape-b", "early"])
def test_a_hub_that_fails_at_a_step_fails_the_job(
    hub: Hub, worker: Worker, source: dict[str, Any], function: str, step: str, status: int
) -> None:
    hub.faults[step] = status
    name = f"{function}-{step}-{status}"
    payload = {"source": source, "destination": destination(name, "prod"), "weights": name}
    failure = worker.run(function, payload)
    assert failure.error_type in ("auth", "artifact_transfer"), failure
    hub.faults.clear()
    assert_nothing_visible(hub, name)
    event = [one for one in worker.events.told if one.type == "transform.publish_failed"]
    assert len(event) == (step == "finalize")


def assert_nothing_visible(hub: Hub, name: str) -> None:
    for tag in ("latest", "prod"):
        assert hub.tree(f"acme/{name}", tag) == {}
    dropped = [one for one in hub.asked if one[0] == "DELETE" and "/uploads/" not in one[1]]
    assert len(dropped) == hub.opened


def test_a_publication_that_takes_its_time_is_waited_for(publishing: Any, tmp_path: Path) -> None:
    with publishing.running_hub(tmp_path / "slow", finalizes_later=True) as hub:
        worker = publishing.Worker(tmp_path / "worker", hub, *FUNCTIONS)
        (tmp_path / "source").mkdir()
        try:
            answer = worker.run(
                "shape-c", {"destination": destination("slow", "prod"), "source": {"ref": ""}}
            )
        finally:
            worker.close()
        assert answer["published"]["ok"], answer
        assert sorted(hub.tree("acme/slow", "prod")) == sorted(DATA)
        polls = [path for method, path in hub.asked if method == "GET" and "/revisions/" in path]
        assert polls
        assert hub.count("finalize") == 1
    SCRATCH.clear()
