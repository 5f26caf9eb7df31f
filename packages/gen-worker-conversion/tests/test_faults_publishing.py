"""A hub that fails at any step: a typed failure, nothing visible, and a retry sends the rest."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion import ConversionContext, ProducedFlavor, training_function
from gen_worker.errors import WorkerError, classify
from gen_worker.models.hub import Clock, Flavor, HubClient, publish_flavors, publish_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from publishing_hub import Hub, Worker

pytest.importorskip("uvicorn")

SHARD_BYTES = 30_000
SHARDS = 10
STEPS = ("revision", "upload", "bytes", "complete", "finalize")
BROKEN = 0
STATUSES = (500, 401, 403, 404, 409, BROKEN)


def shards(folder: Path, name: str, other: int = 0) -> Path:
    """Write the files of a flavor, of which `other` are not those of the others of this name."""
    folder.mkdir(parents=True)
    for number in range(SHARDS):
        text = f"{name} {number} {folder.name if number < other else ''}".ljust(100)
        path = folder / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        path.write_bytes(text.encode() * (SHARD_BYTES // 100))
    (folder / "config.json").write_text(f'{{"name": "{name}"}}')
    return folder


class Source:
    """As the library makes one; no test here reads weights."""

    def __init__(self, path: str, *, attributes: dict[str, Any], ref: str) -> None:
        self.path = Path(path)


@training_function(kind="format-conversion")
def at_the_end(
    ctx: ConversionContext, source: Source, name: str, flavor: str = "bf16", other: int = 0
) -> list[ProducedFlavor]:
    return [ProducedFlavor(shards(ctx.mktemp() / flavor, name, other), flavor=flavor)]


@training_function(kind="format-conversion")
def meanwhile(
    ctx: ConversionContext, source: Source, name: str, flavor: str = "bf16", other: int = 0
) -> list[ProducedFlavor]:
    folder = shards(ctx.mktemp() / flavor, name, other)
    for path in sorted(folder.iterdir()):
        ctx.publish_early(path)
    return [ProducedFlavor(folder, flavor=flavor)]


@pytest.fixture(scope="module")
def shared_hub(publishing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("root")
    with publishing.running_hub(root / "hub") as hub:
        with hub.client() as client:
            publish_folder(client, shards(root / "source", "source"), "acme/source")
        yield hub


@pytest.fixture
def hub(shared_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose clients wait for half an hour in thirty steps that take no time."""
    now = [0.0]

    def sleep(seconds: float, token: Any) -> None:
        now[0] += max(seconds, 60.0)

    clock = Clock(now=lambda: now[0], sleep=sleep)
    monkeypatch.setitem(HubClient.__init__.__kwdefaults__ or {}, "clock", clock)
    shared_hub.heal()
    shared_hub.forget()
    yield shared_hub
    shared_hub.heal()


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    worker = publishing.Worker(tmp_path / "worker", hub, at_the_end, meanwhile)
    yield worker
    worker.close()
    assert not list(tmp_path.glob("worker/jobs/worker-*"))


def run(worker: Worker, function: str, name: str, **options: Any) -> Any:
    destination = {"ref": f"acme/{name}", "tags": ["prod"]}
    payload = {
        "source": {"ref": "acme/source"},
        "destination": destination,
        "name": name,
        **options,
    }
    return worker.run(function, payload)


def published(answer: Any) -> None:
    assert isinstance(answer, dict), answer
    assert answer["published"]["ok"], answer


def visible(hub: Hub, name: str) -> set[str]:
    return {path for tag in ("latest", "prod") for path in hub.tree(f"acme/{name}", tag)}


def open_revisions(hub: Hub) -> int:
    """Return how many revisions were begun and neither published nor dropped."""
    dropped = [one for one in hub.asked if one[0] == "DELETE" and "/uploads/" not in one[1]]
    return hub.opened - len(dropped)


def wanted_type(step: str, status: int) -> str:
    """Return the type of a failure; bytes go to a store, whose refusal is none of the token."""
    return "auth" if status in (401, 403) and step != "bytes" else "artifact_transfer"


@pytest.mark.chaos(seeds=1)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("function", ["at-the-end", "meanwhile"])
def test_a_job_fails_as_its_hub_does(
    hub: Hub, worker: Worker, function: str, step: str, seed: int
) -> None:
    status = random.Random(f"{function} {step} {seed}").choice(STATUSES)
    name = f"{function}-{step}-{seed}"
    hub.faults[step] = status
    failure = run(worker, function, name)
    assert failure.error_type == wanted_type(step, status), failure
    assert hub.count(step) > 0
    hub.heal()
    assert visible(hub, name) == set()
    assert open_revisions(hub) == 0


@pytest.mark.chaos(seeds=2)
@pytest.mark.parametrize("function", ["at-the-end", "meanwhile"])
def test_a_retry_sends_only_what_is_missing(
    hub: Hub, worker: Worker, function: str, seed: int
) -> None:
    chance = random.Random(f"{function} {seed}")
    step, status = chance.choice(STEPS[1:]), chance.choice(STATUSES)
    name = f"{function}-retry-{seed}"
    hub.faults[step] = status
    hub.spared[step] = 0 if step == "finalize" else chance.randrange(SHARDS)
    failure = run(worker, function, name)
    assert failure.error_type in ("auth", "artifact_transfer"), (step, status, failure)
    assert visible(hub, name) == set()
    there = hub.count_done()
    hub.heal()
    hub.forget()
    published(run(worker, function, name))
    assert len(visible(hub, name)) == SHARDS + 1
    sent = [path for method, path in hub.asked if method == "PUT"]
    assert len(sent) <= SHARDS + 1 - there, (step, status)


def test_a_slow_hub_is_waited_for(hub: Hub, worker: Worker) -> None:
    hub.delays_s |= dict.fromkeys(STEPS, 0.02)
    published(run(worker, "meanwhile", "slow"))
    assert len(visible(hub, "slow")) == SHARDS + 1


@pytest.mark.parametrize("function", ["at-the-end", "meanwhile"])
def test_another_flavor_sends_only_what_it_does_not_share(
    hub: Hub, worker: Worker, function: str
) -> None:
    name = f"shared-{function}"
    run(worker, function, name)
    hub.forget()
    published(run(worker, function, name, flavor="bf16-other", other=1))
    assert hub.sent_bytes == SHARD_BYTES
    assert len(hub.tree(f"acme/{name}", "prod", "bf16-other")) == SHARDS + 1


def test_what_was_sent_before_a_crash_is_not_sent_again(
    hub: Hub, publishing: Any, tmp_path: Path
) -> None:
    """A worker that dies between the last upload and the finalize: its revision stays open."""
    from gen_worker.models.hub.revision import Revision

    folder = shards(tmp_path / "bf16", "crashed")
    with hub.client() as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Revision, "abort", lambda self: None)
        patch.setattr(Revision, "finalize", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish_flavors(client, [Flavor(folder=str(folder), name="bf16")], "acme/crashed")
    assert hub.sent_bytes > SHARDS * SHARD_BYTES
    assert visible(hub, "crashed") == set()
    hub.forget()
    with hub.client() as client:
        done = publish_flavors(client, [Flavor(folder=str(folder), name="bf16")], "acme/crashed")
    assert hub.sent_bytes == done.sent_bytes == 0
    assert len(hub.tree("acme/crashed")) == SHARDS + 1


@pytest.mark.chaos(seeds=1)
@pytest.mark.parametrize("step", STEPS)
def test_folders_are_published_whole_or_not_at_all(
    hub: Hub, tmp_path: Path, step: str, seed: int
) -> None:
    status = random.Random(f"folders {step} {seed}").choice(STATUSES)
    name = f"folder-{step}-{seed}"
    folder = shards(tmp_path / "bf16", name)
    flavor = Flavor(folder=str(folder), name="bf16")
    hub.faults[step] = status
    with hub.client() as client:
        with pytest.raises(WorkerError) as caught:
            publish_flavors(client, [flavor], f"acme/{name}", tags=["prod"])
        assert classify(caught.value).error_type == wanted_type(step, status)
        assert visible(hub, name) == set()
        assert open_revisions(hub) == 0
        hub.heal()
        hub.forget()
        done = publish_flavors(client, [flavor], f"acme/{name}", tags=["prod"])
    assert len(visible(hub, name)) == SHARDS + 1
    assert hub.sent_bytes <= done.sent_bytes <= (0 if step == "finalize" else done.size_bytes)
