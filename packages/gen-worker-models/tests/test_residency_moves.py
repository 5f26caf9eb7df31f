"""The executor: leases, moves, and books that stay true whatever fails."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, classify
from gen_worker.models.residency import (
    Budgets,
    Limits,
    ModelInUseError,
    Part,
    Residency,
    TierChange,
)
from gen_worker.models.residency.host_memory import HostMemory

if TYPE_CHECKING:
    from collections.abc import Collection

GIB = 1024**3
GPU = "cuda:0"


class Model:
    def __init__(self, name: str, size: int = 4, base: str = "") -> None:
        self.name = name
        self.parts: tuple[Part, ...] = (Part(name, size),)
        if base:
            self.parts += (Part(base, 6),)
        self.is_offloaded = False
        self.moved: list[str] = []
        self.fails: type[BaseException] | None = None
        self.kept: Collection[str] = ()


class FakeMovers:
    """Moves nothing and remembers all."""

    def __init__(self) -> None:
        self.held = 0
        self.allocated = 0
        self.flushes = 0

    def measure(self, value: Any) -> tuple[Part, ...]:
        return tuple(value.parts)

    def can_move(self, value: Any) -> bool:
        return True

    def to_gpu(self, value: Any, place: str) -> None:
        self._move(value, place)

    def to_ram(self, value: Any, keep: Collection[str]) -> None:
        value.kept = keep
        self._move(value, "cpu")

    def is_offloaded(self, value: Any) -> bool:
        return bool(value.is_offloaded)

    def is_at(self, value: Any, place: str) -> bool:
        return bool(value.moved and value.moved[-1] == place)

    def held_bytes(self, value: Any, place: str) -> int:
        return self.held

    def allocated_bytes(self, place: str) -> int:
        return self.allocated

    def flush(self) -> None:
        self.flushes += 1

    def _move(self, value: Any, place: str) -> None:
        value.moved.append(place)
        if value.fails is not None and place != "cpu":
            raise value.fails("cannot move")


class Host:
    """A residency with ten bytes of VRAM and thirty of RAM."""

    def __init__(self, vram: int = 10, ram: int = 30) -> None:
        budgets = Budgets(max_vram_gb=vram / GIB, max_ram_gb=ram / GIB)
        self.movers = FakeMovers()
        self.changes: list[TierChange] = []
        self.loaded: list[str] = []
        self.residency = Residency(
            limits=Limits(budgets, host=HostMemory),
            movers=self.movers,
            observe=self.changes.append,
        )

    def use(self, model: Model, place: str = GPU, **options: Any) -> Any:
        def load() -> Model:
            self.loaded.append(model.name)
            return model

        return self.residency.use(model.name, place, load, **options)

    def tiers(self, *names: str) -> list[str]:
        return [self.residency.tier(name) for name in names]


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_resident_model_is_leased_again_without_a_move(host: Host) -> None:
    model = Model("a")
    with host.use(model) as first, host.use(model) as second:
        assert first is second is model
    assert (host.loaded, model.moved) == (["a"], [GPU])
    assert host.residency.used_bytes(GPU) == 4


def test_the_least_recently_used_waits_in_ram_and_comes_back(host: Host) -> None:
    a, b, c = Model("a"), Model("b"), Model("c")
    for model in (a, b, a, c):
        host.use(model).release()
    assert host.tiers("a", "b", "c") == ["vram", "ram", "vram"]
    with host.use(b) as back:
        assert back is b
    assert host.loaded == ["a", "b", "c"]
    assert host.tiers("a", "b", "c") == ["ram", "vram", "vram"]
    assert (host.residency.used_bytes(GPU), host.residency.used_bytes("cpu")) == (8, 4)


def test_a_leased_model_stays_and_the_over_commit_is_counted_and_said(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with host.use(Model("a", 8)), caplog.at_level(logging.WARNING):
        host.use(Model("b", 8)).release()
        assert host.tiers("a", "b") == ["vram", "vram"]
    assert host.residency.over_commits == 1
    assert "'b'" in caplog.text


def test_releasing_twice_gives_back_once(host: Host) -> None:
    lease = host.use(Model("a"))
    other = host.use(Model("a"))
    lease.release()
    lease.release()
    with pytest.raises(ModelInUseError):
        host.residency.unload("a")
    other.release()
    assert host.residency.unload("a")


def test_unload_of_a_leased_model_is_refused_with_its_code(host: Host) -> None:
    with host.use(Model("a")), pytest.raises(ModelInUseError) as raised:
        host.residency.unload("a")
    assert classify(raised.value).code == "model_in_use"
    with host.use(Model("a")), pytest.raises(ModelInUseError):
        host.residency.demote("a")


def test_unload_waits_for_a_move_and_then_finds_the_model_in_use(host: Host) -> None:
    """An object that is on its way up must not outlive its name: the next one would get it."""
    model, moving, go = Model("a"), threading.Event(), threading.Event()
    host.use(model, "cpu").release()
    refused: list[BaseException] = []
    leases: list[Any] = []

    def put(value: Model, place: str) -> None:
        moving.set()
        assert go.wait(60)

    def unload() -> None:
        try:
            host.residency.unload("a")
        except ModelInUseError as error:
            refused.append(error)

    up = threading.Thread(target=lambda: leases.append(host.use(model, put=put)))
    up.start()
    assert moving.wait(60)
    gone = threading.Thread(target=unload)
    gone.start()
    gone.join(0.05)
    assert gone.is_alive()
    go.set()
    up.join(60)
    gone.join(60)
    # Either it came first, and there is nothing left, or it was refused.
    assert (len(refused), host.tiers("a")) in ((1, ["vram"]), (0, ["cold"]))


def test_forgetting_what_is_not_known_says_so(host: Host) -> None:
    assert not host.residency.forget("a")
    host.residency.know("a")
    assert host.residency.forget("a")
    assert host.residency.find("a") is None


def test_unload_keeps_the_files(host: Host) -> None:
    host.residency.know("a", path="/models/a")
    host.use(Model("a")).release()
    assert host.residency.unload("a")
    assert not host.residency.unload("a")
    assert host.tiers("a") == ["disk"]
    assert host.residency.used_bytes(GPU) == 0


def test_demote_keeps_parts_that_another_model_uses(host: Host) -> None:
    host = Host(vram=20)
    a, b = Model("a", 1, base="base"), Model("b", 1, base="base")
    host.use(a).release()
    host.use(b).release()
    assert host.residency.used_bytes(GPU) == 8
    assert host.residency.demote("a")
    assert "base" in a.kept
    assert "a" not in a.kept
    assert (host.residency.used_bytes(GPU), host.residency.used_bytes("cpu")) == (7, 1)


def test_a_shared_part_returns_to_the_model_in_ram_when_the_last_on_the_gpu_goes() -> None:
    host = Host(vram=20)
    a, b = Model("a", 1, base="base"), Model("b", 1, base="base")
    host.use(a).release()
    host.use(b).release()
    host.residency.demote("a")
    host.residency.unload("b")
    assert b.moved == [GPU, "cpu"]
    assert set(b.kept) == {"b"}
    assert host.residency.used_bytes("cpu") == 7


def test_an_offloaded_pipeline_is_never_moved(host: Host) -> None:
    model = Model("a", 8)

    def install(value: Model, place: str) -> None:
        value.is_offloaded = True
        host.movers.held = 2

    host.use(model, put=install).release()
    assert host.residency.used_bytes(GPU) == 2
    assert host.residency.used_bytes("cpu") == 8
    assert host.residency.demote("a")
    assert model.moved == []
    assert host.tiers("a") == ["ram"]


def test_a_refresh_measures_what_the_ladder_changed(host: Host) -> None:
    model = Model("a", 8)
    with host.use(model):
        assert host.residency.used_bytes(GPU) == 8
        model.is_offloaded, host.movers.held = True, 3
        host.residency.refresh("a")
        assert host.residency.used_bytes(GPU) == 3
        model.is_offloaded = False
        model.moved.append("cpu")
        host.residency.refresh("a")
        assert host.tiers("a") == ["ram"]
    assert host.residency.unload("a")


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_a_failed_move_leaves_the_model_in_ram_and_not_in_vram(
    host: Host, error: type[BaseException]
) -> None:
    model = Model("a")
    model.fails = error
    with pytest.raises(error):
        host.use(model)
    assert host.tiers("a") == ["ram"]
    assert (host.residency.used_bytes(GPU), host.residency.used_bytes("cpu")) == (0, 4)
    model.fails = None
    with host.use(model) as again:
        assert again is model
    assert host.loaded == ["a"]


def test_a_failed_promotion_leaves_the_model_in_ram(host: Host) -> None:
    model = Model("a")
    host.use(model).release()
    host.residency.demote("a")
    model.fails = RuntimeError
    with pytest.raises(RuntimeError):
        host.use(model)
    assert host.tiers("a") == ["ram"]
    assert host.residency.inventory().vram_models == ()


def test_a_model_that_cannot_be_moved_back_is_given_up(host: Host) -> None:
    model = Model("a")

    def put(value: Model, place: str) -> None:
        raise RuntimeError("broken half-way")

    host.movers.to_ram = lambda value, keep: put(value, "cpu")  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="half-way"):
        host.use(model, put=put)
    assert host.tiers("a") == ["cold"]
    assert host.residency.used_bytes("cpu") == 0


def test_a_demotion_that_fails_leaves_the_books_true_and_the_next_one_goes(host: Host) -> None:
    a, b, c = Model("a"), Model("b"), Model("c", 5)
    host.use(a).release()
    host.use(b).release()
    real = host.movers.to_ram

    def to_ram(value: Model, keep: Collection[str]) -> None:
        if value is a:
            raise RuntimeError("stuck")
        real(value, keep)

    host.movers.to_ram = to_ram  # type: ignore[method-assign]
    host.use(c).release()
    assert host.tiers("a", "b", "c") == ["vram", "ram", "vram"]
    assert host.residency.used_bytes(GPU) == 9
    with host.use(a) as still:
        assert still is a


def test_a_model_that_shrinks_on_its_way_is_measured_again(host: Host) -> None:
    model = Model("a", 8)
    host.use(model, "cpu").release()

    def cast(value: Model, place: str) -> None:
        value.parts = (Part("a", 4),)

    host.use(model, put=cast).release()
    assert host.residency.used_bytes(GPU) == 4


def test_an_object_that_cannot_be_measured_has_the_size_the_gpu_lost(host: Host) -> None:
    model = Model("a")
    model.parts = ()

    def put(value: Model, place: str) -> None:
        host.movers.allocated += 3

    host.use(model, put=put, size_bytes=7).release()
    assert host.residency.used_bytes(GPU) == 3
    other = Model("b")
    other.parts = ()
    host.use(other, size_bytes=2).release()
    assert host.residency.used_bytes(GPU) == 5


def test_a_failed_load_changes_nothing(host: Host) -> None:
    host.residency.know("a", path="/models/a")

    def load() -> Model:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        host.residency.use("a", GPU, load)
    assert host.tiers("a") == ["disk"]


def test_a_model_larger_than_known_makes_others_leave_afterwards(host: Host) -> None:
    host.use(Model("a")).release()
    with host.use(Model("b", 9), size_bytes=2):
        assert host.tiers("a", "b") == ["ram", "vram"]


def test_tier_changes_are_told_once_each(host: Host) -> None:
    host.residency.know("a", path="/models/a")
    host.use(Model("a")).release()
    host.use(Model("a")).release()
    host.residency.demote("a")
    host.residency.unload("a")
    host.residency.forget("a")
    tiers = ["cold", "disk", "vram", "ram", "disk", "cold"]
    assert [(x.before, x.now) for x in host.changes] == list(pairwise(tiers))


def test_an_observer_may_fail_and_may_read(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def observe(change: TierChange) -> None:
        seen.append(residency.inventory().hot)
        raise RuntimeError("observer")

    residency = Residency(Budgets(max_vram_gb=1.0), movers=host.movers, observe=observe)
    residency.use("a", GPU, lambda: Model("a")).release()
    assert seen == [("a",)]
    assert "observer" in caplog.text


def test_the_inventory_names_hot_warm_and_cold(host: Host) -> None:
    host.residency.know("on-disk", path="/x", size_bytes=7)
    host.residency.know("nowhere")
    host.use(Model("a", 8)).release()
    host.use(Model("b", 8)).release()
    host.residency.downloading("coming", 0.5)
    found = host.residency.inventory()
    assert (found.vram_models, found.ram_models) == (("b",), ("a",))
    assert set(found.disk_models) == {"a", "on-disk"}
    assert found.hot == ("b",)
    assert set(found.warm) == {"a", "on-disk"}
    assert set(found.cold) == {"nowhere", "coming"}
    assert found.downloading_models == ("coming",)
    assert found.sizes_bytes["on-disk"] == 7
    assert found.sizes_bytes["b"] == 8


def test_a_model_may_be_on_two_gpus(host: Host) -> None:
    with host.use(Model("a")) as first, host.use(Model("a"), "cuda:1") as second:
        assert first is not second
    assert host.residency.gpus() == ("cuda:0", "cuda:1")
    host.use(Model("b", 9)).release()
    assert host.residency.used_bytes("cuda:1") == 4
    assert host.residency.unload("a")
    assert host.tiers("a") == ["cold"]


def test_on_a_cpu_models_live_in_ram_and_leave_it_in_turn() -> None:
    host = Host(ram=10)
    for name in ("a", "b", "c"):
        with host.use(Model(name), "cpu") as model:
            assert model.moved == []
    assert host.residency.inventory().ram_models == ("b", "c")
    assert host.residency.used_bytes("cpu") == 8


def test_marking_again_replaces_the_size(host: Host) -> None:
    model = Model("a")
    host.residency.add("a", model, GPU, size_bytes=3)
    assert host.residency.used_bytes(GPU) == 3
    host.residency.add("a", model, GPU, size_bytes=7)
    host.residency.add("b", Model("b"), GPU, size_bytes=3)
    assert host.residency.used_bytes(GPU) == 10
    assert host.tiers("a", "b") == ["vram", "vram"]


def test_free_and_trim(host: Host) -> None:
    host.use(Model("a", 3)).release()
    host.use(Model("b", 3)).release()
    host.residency.pin("c")
    host.use(Model("c", 3)).release()
    assert host.residency.free(GPU, 4) == 0
    assert host.tiers("a", "b", "c") == ["ram", "vram", "vram"]
    assert host.residency.free(GPU, 9) == 2
    assert host.residency.trim(GPU, 0) == 0
    host.residency.pin("c", False)
    assert host.residency.trim(GPU, 0) == 1
    assert host.tiers("b", "c") == ["ram", "cold"]


def test_one_thread_loads_and_the_others_wait(host: Host) -> None:
    started, go = threading.Event(), threading.Event()
    leases: list[Any] = []

    def load() -> Model:
        host.loaded.append("a")
        started.set()
        assert go.wait(60)
        return Model("a")

    def worker() -> None:
        leases.append(host.residency.use("a", GPU, load))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert host.loaded == ["a"]
    assert len({id(lease.value) for lease in leases}) == 1
    found = host.residency.find("a")
    assert found is not None
    assert found.leases == 4


def test_a_resident_model_is_leased_while_another_is_moved(host: Host) -> None:
    host.use(Model("a")).release()
    with host.residency.mutex(GPU):
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(host.use(Model("a"))))
        thread.start()
        thread.join(60)
        assert len(got) == 1


def test_a_cancel_ends_the_waiting_for_another_move(host: Host) -> None:
    token = CancelToken()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            host.use(Model("a"), token=token)
        except CanceledError as error:
            raised.append(error)

    with host.residency.mutex(GPU):
        thread = threading.Thread(target=wait)
        thread.start()
        token.cancel()
        thread.join(60)
    assert len(raised) == 1
    assert host.loaded == []
    with host.use(Model("a"), token=CancelToken()):
        assert host.loaded == ["a"]


def test_a_cancel_ends_the_waiting_for_a_copy_that_moves(host: Host) -> None:
    model, moving, go = Model("a"), threading.Event(), threading.Event()
    host.use(model, "cpu").release()
    token = CancelToken()
    raised: list[BaseException] = []

    def put(value: Model, place: str) -> None:
        moving.set()
        assert go.wait(60)

    def wait() -> None:
        try:
            host.use(model, "cpu", token=token)
        except CanceledError as error:
            raised.append(error)

    up = threading.Thread(target=lambda: host.use(model, put=put).release())
    up.start()
    assert moving.wait(60)
    waiting = threading.Thread(target=wait)
    waiting.start()
    token.cancel()
    waiting.join(60)
    assert len(raised) == 1
    go.set()
    up.join(60)


def test_an_interrupted_move_leaves_the_others_usable(host: Host) -> None:
    a, b = Model("a"), Model("b")
    host.use(a).release()
    host.use(b).release()

    def to_ram(value: Model, keep: Collection[str]) -> None:
        raise KeyboardInterrupt

    host.movers.to_ram = to_ram  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        host.use(Model("c", 9))
    for model in (a, b):
        with host.use(model) as still:
            assert still is model


@pytest.mark.chaos
def test_many_threads_leave_books_that_add_up(seed: int) -> None:
    import random

    host = Host(vram=10, ram=12)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        dice = random.Random(seed * 100 + number)
        try:
            for _ in range(60):
                name = dice.choice("abcdef")
                place = dice.choice([GPU, GPU, "cuda:1", "cpu"])
                act = dice.random()
                if act < 0.7:
                    with host.use(Model(name, 2 + ord(name) % 4), place) as model:
                        assert model.name == name
                elif act < 0.8:
                    host.residency.free(place, dice.randrange(12))
                else:
                    try:
                        dice.choice([host.residency.unload, host.residency.demote])(name)
                    except ModelInUseError:
                        pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert all(not record.leases for record in host.residency.records())
    for place in (GPU, "cuda:1"):
        host.residency.free(place, 0)
        copies = [
            record.copies[place] for record in host.residency.records() if place in record.copies
        ]
        assert sum(part.size_bytes for copy in copies for part in copy.parts) <= 10
        assert all(not copy.is_moving and copy.place == place for copy in copies)
