"""The port of every host: files fetched from a real hub, objects loaded once, and kept in step."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import ArtifactTransferError, CanceledError, ModelResolutionError
from gen_worker.models import Repo, parse_ref
from gen_worker.models.fetch import Fetcher
from gen_worker.models.hub import publish_folder
from gen_worker.models.library import ModelLibrary
from gen_worker.models.net import Opener
from gen_worker.models.residency import Residency
from gen_worker.models.sources import Sources
from gen_worker.models.sources.values import Described
from gen_worker.models.store import ContentStore
from gen_worker.ports import ModelRequest, drive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import RunningHub


class Words:
    """What an author may bring along: any type with `from_pretrained`."""

    loads: list[str]

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def from_pretrained(cls, path: str) -> Words:
        text = (Path(path) / "words.txt").read_text()
        Words.loads.append(text)
        return cls(text)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """One worker's library over a store of its own."""

    def __init__(self, root: Path, hub: RunningHub) -> None:
        self.client = hub.client()
        self.opener = Opener(trusted=[hub.url])
        self.store = ContentStore(root, reserve_bytes=0)
        sources = Sources(
            self.store, self.opener, Fetcher(self.opener, durable=False), hub=self.client
        )
        self.clock = Clock()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.library = ModelLibrary(
            sources,
            Residency(),
            tell=lambda kind, facts: self.events.append((kind, facts)),
            clock=self.clock,
        )

    def close(self) -> None:
        self.opener.close()
        self.client.close()

    def prepare(self, binding: Repo[Any], annotation: Any = Words, **asks: Any) -> Any:
        choice = binding.choose("model", {}, None)
        request = ModelRequest(parameter="model", **asks)
        return drive(self.library.prepare(binding, choice, annotation, request))

    def given(self, prepared: Any, **asks: Any) -> Any:
        async def enter() -> Any:
            async with self.library.lease(
                prepared, device="cpu", request=ModelRequest(parameter="model", **asks)
            ) as model:
                return model

        return drive(enter())


@pytest.fixture
def machine(tmp_path: Path, hub: RunningHub) -> Iterator[Machine]:
    Words.loads = []
    one = Machine(tmp_path / "cas", hub)
    yield one
    one.close()


@pytest.fixture
def publish(tmp_path: Path, hub: RunningHub) -> Callable[..., str]:
    def put(text: str, **options: Any) -> str:
        folder = tmp_path / "published"
        folder.mkdir(exist_ok=True)
        (folder / "words.txt").write_text(text)
        with hub.client() as client:
            return publish_folder(client, folder, "acme/words", **options).checkpoint_ids[0]

    return put


def test_a_model_is_fetched_and_loaded_once(machine: Machine, publish: Callable[..., str]) -> None:
    publish("one")
    first = machine.given(machine.prepare(Repo("acme/words")))
    again = machine.given(machine.prepare(Repo("acme/words")))

    assert first.text == "one"
    assert again is first
    assert Words.loads == ["one"]
    assert machine.library.residency.inventory().ram_models == ("acme/words:prod",)
    assert [kind for kind, _ in machine.events].count("worker.model.download.started") == 1
    loads = [facts["model_id"] for kind, facts in machine.events if "model.load." in kind]
    assert set(loads) == {"acme/words:prod"}


def test_threads_that_want_a_model_at_once_load_it_once(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    found: list[Any] = []
    barrier = threading.Barrier(6)

    def call() -> None:
        barrier.wait()
        found.append(machine.given(machine.prepare(Repo("acme/words"))))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == len(Words.loads) == 1


def test_a_resident_model_is_leased_without_leaving_the_event_loop(
    machine: Machine, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")

    async def scenario() -> None:
        binding = Repo("acme/words")
        choice = binding.choose("model", {}, None)
        prepared = await machine.library.prepare(binding, choice, Words)
        async with machine.library.lease(prepared, device="cpu") as first:
            assert isinstance(first, Words)
        monkeypatch.setattr(asyncio, "to_thread", None)
        assert await machine.library.prepare(binding, choice, Words) is prepared
        async with machine.library.lease(prepared, device="cpu") as again:
            assert again is first

    asyncio.run(scenario())


def test_a_tag_that_moved_is_noticed_and_its_name_goes_to_the_new_version(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    old = machine.prepare(Repo("acme/words"))
    assert machine.given(old).text == "one"
    publish("two")
    assert machine.given(machine.prepare(Repo("acme/words"))).text == "one"  # asked a moment ago

    machine.clock.now += 3600
    new = machine.prepare(Repo("acme/words"))

    assert machine.given(new).text == "two"
    assert machine.library.residency.inventory().ram_models == ("acme/words:prod",)
    # A class endpoint that was set up with the old version keeps it.
    assert machine.given(old).text == "one"
    assert machine.given(new).text == "two"


def test_a_version_in_use_keeps_its_name(machine: Machine, publish: Callable[..., str]) -> None:
    publish("one")
    old = machine.prepare(Repo("acme/words"))

    async def scenario() -> None:
        async with machine.library.lease(old, device="cpu") as used:
            publish("two")
            machine.clock.now += 3600
            new = machine.prepare(Repo("acme/words"))
            assert machine.given(new).text == "two"
            assert isinstance(used, Words)
            assert used.text == "one"
            names = set(machine.library.residency.inventory().ram_models)
            assert names == {"acme/words:prod", "acme/words:prod~2"}

    drive(scenario())


def test_two_types_of_one_ref_are_two_objects(
    machine: Machine, publish: Callable[..., str]
) -> None:
    class Louder(Words):
        @classmethod
        def from_pretrained(cls, path: str) -> Louder:
            return cls(super().from_pretrained(path).text.upper())

    publish("one")
    assert machine.given(machine.prepare(Repo("acme/words"))).text == "one"
    assert machine.given(machine.prepare(Repo("acme/words"), Louder)).text == "ONE"
    assert machine.given(machine.prepare(Repo("acme/words"))).text == "one"
    assert Words.loads == ["one", "one"]


def test_files_are_kept_while_somebody_may_load_them(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    prepared = machine.prepare(Repo("acme/words"), str)
    machine.store.collect(1)
    assert Path(machine.given(prepared), "words.txt").read_text() == "one"


def test_a_canceled_call_waits_for_no_model(machine: Machine, publish: Callable[..., str]) -> None:
    publish("one")
    token = CancelToken()
    token.cancel()
    with pytest.raises(CanceledError):
        machine.prepare(Repo("acme/words"), token=token)
    assert machine.given(machine.prepare(Repo("acme/words"))).text == "one"


def test_a_model_that_does_not_exist_is_named(machine: Machine) -> None:
    with pytest.raises(ModelResolutionError, match="acme/absent:prod"):
        machine.prepare(Repo("acme/absent"))


def test_what_no_ladder_knows_cannot_need_less(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    prepared = machine.prepare(Repo("acme/words"))
    machine.given(prepared)
    assert drive(machine.library.escalate([prepared], MemoryError(), device="cpu")) is False


def test_a_callers_ref_is_looked_up_with_and_without_an_event_loop(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    facts = drive(machine.library.look_up(parse_ref("acme/words")))
    assert facts is not None
    assert facts == asyncio.run(machine.library.look_up(parse_ref("acme/words")))
    assert drive(machine.library.look_up(parse_ref("acme/absent"))) is None


def test_a_callers_model_that_is_here_needs_no_hub(
    tmp_path: Path, hub: RunningHub, machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    machine.prepare(Repo("acme/words"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    alone = Machine(tmp_path / "cas", hub._replace(url=url))
    try:
        assert drive(alone.library.look_up(parse_ref("acme/words"))) is not None
        with pytest.raises(ArtifactTransferError):
            drive(alone.library.look_up(parse_ref("acme/absent")))
    finally:
        alone.close()


def test_a_lease_that_is_canceled_while_the_model_loads_is_given_back(
    machine: Machine, publish: Callable[..., str]
) -> None:
    inside, may_end = threading.Event(), threading.Event()

    class Slow(Words):
        @classmethod
        def from_pretrained(cls, path: str) -> Slow:
            inside.set()
            assert may_end.wait(60)
            return cls("slow")

    publish("one")
    prepared = machine.prepare(Repo("acme/words"), Slow)

    async def use() -> None:
        async with machine.library.lease(prepared, device="cpu"):
            raise AssertionError("canceled before it was there")

    async def scenario() -> None:
        task = asyncio.create_task(use())
        await asyncio.to_thread(inside.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()

    asyncio.run(scenario())  # waits for its threads
    assert machine.library.residency.unload("acme/words:prod")


def test_files_that_nobody_asked_for_lately_may_be_evicted(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one", tags=("old",))
    digest = machine.prepare(Repo("acme/words:old"), str).model.digest
    publish("two")
    machine.prepare(Repo("acme/words"), str)
    machine.store.collect(1)
    assert machine.store.snapshot(digest) is not None

    machine.clock.now += 3600
    machine.prepare(Repo("acme/words"), str)
    machine.store.collect(1)
    assert machine.store.snapshot(digest) is None


def test_what_a_call_takes_at_its_peak_reaches_the_ladder(
    machine: Machine, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("one")
    prepared = machine.prepare(Repo("acme/words"))
    seen: list[float | None] = []

    def place(value: Any, device: str, *, peak_vram_gb: float | None, **options: Any) -> None:
        seen.append(peak_vram_gb)

    def use(name: str, device: str, load: Any, *, put: Any, **options: Any) -> Any:
        put(load(), device)

    monkeypatch.setattr("gen_worker.models.low_vram.place", place)
    monkeypatch.setattr(machine.library.residency, "use", use)
    machine.library.bring(prepared, "cuda:0", ModelRequest("f", "model", peak_vram_gb=7.5))
    assert seen == [7.5]


def test_a_job_says_what_its_models_mean(machine: Machine, publish: Callable[..., str]) -> None:
    publish("one")
    old = machine.client.resolve(parse_ref("acme/words")).snapshot  # type: ignore[arg-type]
    publish("two")
    meant = {"old": Described(old)}
    library = ModelLibrary(
        machine.library.sources,
        Residency(),
        describe=lambda choice, request: meant.get(request.request_id),
    )
    machine.library = library

    assert machine.given(machine.prepare(Repo("acme/words"), request_id="old")).text == "one"
    assert machine.given(machine.prepare(Repo("acme/words"), request_id="new")).text == "two"
    assert machine.given(machine.prepare(Repo("acme/words"), request_id="old")).text == "one"


def test_files_are_fetched_without_knowing_what_for(
    machine: Machine, publish: Callable[..., str]
) -> None:
    publish("one")
    model = drive(machine.library.fetch(Repo("acme/words").choice))
    assert (Path(model.root) / "words.txt").read_text() == "one"
    assert machine.library.residency.inventory().disk_models == ("acme/words:prod",)
    assert Words.loads == []
