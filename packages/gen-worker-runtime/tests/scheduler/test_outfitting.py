"""What a worker gets along with a request, and the addresses at which it finds it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.errors import ArtifactTransferError, ResourceError, SettingsError
from gen_worker.models.hub import NotOnHubError
from gen_worker.models.settings import ModelSettings
from gen_worker.models.snapshot import Snapshot, SnapshotFile
from gen_worker.runtime.scheduler.addresses import own_address_towards
from gen_worker.runtime.scheduler.files import Passes
from gen_worker.runtime.scheduler.job_options import JobOptions
from gen_worker.runtime.scheduler.model_facts import ModelFacts
from gen_worker.runtime.scheduler.outfitting import Outfitter
from gen_worker.runtime.scheduler.settings import SchedulerSettings
from gen_worker.runtime.wire import ResolvedRepo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from conftest import Clock, MakeSubmission, OpenLedger
    from gen_worker.runtime.scheduler.dispatcher.ports import Equipment

DIGEST = "a" * 64


class Catalog:
    """Says whether all functions work with the hub."""

    def __init__(self, uses_hub: bool) -> None:
        self.uses_hub = uses_hub

    def known(self, *_name: str) -> Any:
        return None

    async def facts(self, *name: str) -> Any:
        assert name == ("bob", "paint", "r-1", "draw")
        return SimpleNamespace(uses_hub=self.uses_hub)


async def describe(refs: Iterable[str]) -> Mapping[str, ResolvedRepo]:
    return {ref: ResolvedRepo(snapshot_digest=DIGEST) for ref in refs}


def outfit(
    open_ledger: OpenLedger, submission: MakeSubmission, clock: Clock, uses_hub: bool, **fields: Any
) -> tuple[Equipment, Passes]:
    passes = Passes(b"k" * 32, now=clock)
    outfitter = Outfitter(Catalog(uses_hub), passes, lambda one: f"http://for-{one}", describe)  # type: ignore[arg-type]

    async def scene() -> Equipment:
        async with open_ledger() as ledger:
            kept = await ledger.submit(submission("r1", release_id="r-1", **fields))
            options = JobOptions(endpoint_owner="bob", refs=("acme/model:prod",))
            live: Any = SimpleNamespace(record=kept.record, options=options)
            state: Any = SimpleNamespace(worker_id="w1")
            return await outfitter.outfit(live, state, b"\x80")

    return asyncio.run(scene()), passes


def test_a_job_gets_a_token_for_its_files_and_what_its_models_are(
    open_ledger: OpenLedger, submission: MakeSubmission, clock: Clock
) -> None:
    equipment, passes = outfit(open_ledger, submission, clock, False, timeout_ms=1000)
    job = passes.read(equipment.capability_token)
    assert job is not None
    assert (job.request_id, job.worker_id, job.owner) == ("r1", "w1", "acme")
    assert job.expires_at == clock.now + 1 + 3600
    assert equipment.file_base_url == "http://for-w1"
    assert list(equipment.repos) == ["acme/model:prod"]


def test_a_job_that_publishes_works_with_the_hub_of_its_worker(
    open_ledger: OpenLedger, submission: MakeSubmission, clock: Clock
) -> None:
    equipment, _ = outfit(open_ledger, submission, clock, True)
    assert (equipment.file_base_url, equipment.capability_token) == ("", "")
    assert equipment.job_id == "r1"
    assert list(equipment.repos) == ["acme/model:prod"]


class Facts(ModelFacts):
    """Asks a hub that does what a test says."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(ModelSettings(hub_url="http://hub.invalid"), "", clock=clock)
        self.asked: list[str] = []
        self.error: Exception | None = None

    def _resolve(self, ref: str) -> ResolvedRepo:
        self.asked.append(ref)
        if self.error is not None:
            raise self.error
        return ResolvedRepo(snapshot_digest=f"{len(self.asked):064}")


def test_a_hub_is_asked_once_a_minute_and_not_waited_for_when_it_is_silent(clock: Clock) -> None:
    async def scene() -> None:
        facts = Facts(clock)

        async def digest() -> str:
            found = await facts.describe(["acme/model:prod", "hf:acme/other", "not a ref at all"])
            return found["acme/model:prod"].snapshot_digest.lstrip("0") if found else ""

        assert [await digest(), await digest()] == ["1", "1"]
        clock.now += 61
        assert await digest() == "1", "it is asked behind this"
        await facts.close()
        assert await digest() == "2"
        facts.error = ArtifactTransferError("gone", phase="connect", retryable=True)
        clock.now += 61
        assert await digest() == "2"
        await facts.close()
        clock.now += 1800
        assert await digest() == "", "its URLs are too old"
        facts.error = NotOnHubError("there is none")
        assert await digest() == ""
        assert set(facts.asked) == {"acme/model:prod"}

    asyncio.run(scene())


def test_several_who_ask_for_the_same_model_ask_the_hub_once(clock: Clock) -> None:
    async def scene() -> None:
        facts = Facts(clock)
        found = await asyncio.gather(*(facts.describe(["acme/model:prod"]) for _ in range(10)))
        assert len(facts.asked) == 1
        assert all(one == found[0] for one in found)

    asyncio.run(scene())


def test_providers_that_could_not_be_opened_are_opened_the_next_time(clock: Clock) -> None:
    class Disk(ModelFacts):
        is_full = True

        def _open(self) -> Any:
            if self.is_full:
                raise ResourceError("the disk is full")
            return SimpleNamespace(look_up=look_up, close=lambda: None)

    async def look_up(ref: object) -> Any:
        return ref

    async def scene() -> None:
        facts: Any = Disk(ModelSettings(), "", clock=clock)
        with pytest.raises(ResourceError):
            await facts.look_up("acme/model")
        facts.is_full = False
        assert await facts.look_up("acme/model") == "acme/model"
        await facts.close()

        closed: Any = Disk(ModelSettings(), "", clock=clock)
        with pytest.raises(ResourceError):
            await closed.look_up("acme/model")
        await closed.close()

    asyncio.run(scene())


def test_without_a_hub_nobody_is_asked(clock: Clock) -> None:
    facts = ModelFacts(ModelSettings(), "", clock=clock)
    assert asyncio.run(facts.describe(["acme/model:prod"])) == {}


def test_what_a_hub_says_becomes_what_workers_read(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    file = SnapshotFile(path="w.safetensors", size_bytes=3, blake3=DIGEST, url="http://hub/blob")
    snapshot = Snapshot(digest=DIGEST, files=(file,))

    class Hub:
        def __init__(self, url: str, token: str) -> None:
            assert (url, token) == ("http://hub.invalid", "secret")

        def resolve(self, ref: Any, *, for_inference: bool) -> Any:
            assert (str(ref), for_inference) == ("acme/model:prod", True)
            return SimpleNamespace(snapshot=snapshot)

        def close(self) -> None: ...

    monkeypatch.setattr("gen_worker.models.hub.HubClient", Hub)
    settings = ModelSettings(hub_url="http://hub.invalid", hub_token="secret")
    facts = ModelFacts(settings, "", clock=clock)
    found = asyncio.run(facts.describe(["acme/model:prod"]))["acme/model:prod"]
    assert found.snapshot_digest == DIGEST
    assert msgspec.structs.astuple(found.files[0]) == ("w.safetensors", 3, DIGEST, file.url)


@pytest.mark.parametrize(
    ("peer", "address"), [("ipv4:127.0.0.1:5", "127.0.0.1"), ("unix:", "127.0.0.1")]
)
def test_a_machine_is_called_by_its_address_on_the_way(peer: str, address: str) -> None:
    assert own_address_towards(peer) == address


def test_limits_of_functions_are_read_or_refused_together() -> None:
    settings = SchedulerSettings(max_running=("draw=3", " ann/paint/draw = 1 "))
    assert settings.running_limits == {"draw": 3, "ann/paint/draw": 1}
    with pytest.raises(SettingsError) as refusal:
        _ = SchedulerSettings(max_running=("draw", "=2", "draw=0", "x=y")).running_limits
    assert len(refusal.value.problems) == 4


def test_the_data_folder_is_named_or_where_programs_keep_data() -> None:
    assert SchedulerSettings(data_home="/srv/data").folder == "/srv/data/gen-worker"
    assert SchedulerSettings(data_dir="/srv/mine").folder == "/srv/mine"
