"""Components that several pipelines use are loaded once and given back."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker import ModelCache, Repo
from gen_worker.models import ModelChoice
from gen_worker.models.dispatching import dispatch
from gen_worker.models.loading import (
    LoadedComponentKey,
    MissingComponentsError,
    SharedComponentCache,
    build_function_owned_pipeline,
    is_shareable,
)

KEY = LoadedComponentKey(ref="tensorhub:acme/base:prod")


class Component:
    """A stand-in for a loaded module."""


def test_a_component_is_loaded_once() -> None:
    cache = SharedComponentCache()
    first = cache.acquire(KEY, Component)
    second = cache.acquire(KEY, lambda: pytest.fail("loaded twice"))
    assert first is second
    assert cache.refcount(KEY) == 2
    assert cache.stats == {"hits": 1, "misses": 1, "entries": 1}


def test_many_threads_wait_for_one_load() -> None:
    cache = SharedComponentCache()
    barrier = threading.Barrier(8)
    loads: list[int] = []
    found: list[Any] = []

    def load() -> Component:
        loads.append(1)
        return Component()

    def acquire() -> None:
        barrier.wait()
        found.append(cache.acquire(KEY, load))

    threads = [threading.Thread(target=acquire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, found))) == 1
    assert cache.refcount(KEY) == 8


def test_a_failed_load_leaves_nothing_and_may_be_tried_again() -> None:
    cache = SharedComponentCache()

    def fail() -> Any:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        cache.acquire(KEY, fail)
    assert cache.stats["entries"] == 0
    assert isinstance(cache.acquire(KEY, Component), Component)


def test_only_what_nobody_uses_is_evicted() -> None:
    cache = SharedComponentCache()
    cache.acquire(KEY, Component)
    assert not cache.evict(KEY)
    assert cache.release(KEY) == 0
    assert cache.evict(KEY)
    assert not cache.contains(KEY)
    assert cache.release(KEY) == 0


def test_what_is_pinned_goes_by_force_only() -> None:
    cache = SharedComponentCache()
    cache.acquire(KEY, Component, pin=True)
    cache.release(KEY)
    assert cache.drain() == 0
    assert cache.drain(force=True) == 1


def test_a_model_cache_is_told() -> None:
    told = ModelCache(max_vram_gb=20.0)
    cache = SharedComponentCache(told)
    value = cache.acquire(KEY, Component, size_gb=2.0)
    assert told.get_pipeline(KEY.cache_id()) is value
    cache.release(KEY)
    cache.shutdown()
    assert not told.is_in_vram(KEY.cache_id())


def test_an_id_is_readable_and_different_for_every_field() -> None:
    choice = ModelChoice(ref="acme/base", tag="prod", dtype="fp16", subfolder="vae")
    key = LoadedComponentKey.from_binding(choice, device_id=1)
    assert key.dtype == "float16"
    assert key.cache_id().startswith("shared::tensorhub:acme--base:prod::dev1::")
    assert len(key.cache_id().rpartition("::")[2]) == 16
    others = [
        LoadedComponentKey.from_binding(choice, device_id=0),
        LoadedComponentKey.from_binding(choice, device_id=1, adapter_id="x"),
        LoadedComponentKey.from_binding(ModelChoice(ref="acme/base", tag="dev"), device_id=1),
    ]
    assert len({item.cache_id() for item in [key, *others]}) == 4


def test_what_a_caller_may_change_is_not_shared() -> None:
    repo = Repo("acme/base")
    assert is_shareable(repo)
    assert not is_shareable(repo.allow_lora())
    assert not is_shareable(repo.allow_override("diffusers.DiffusionPipeline"))
    assert not is_shareable(dispatch(field="model", table={"a": repo}))


class Pipeline:
    _optional_components = ("safety_checker",)

    def __init__(
        self,
        unet: Any,
        vae: Any,
        scheduler: Any,
        safety_checker: Any,
        requires_safety_checker: bool = True,
    ) -> None:
        self.parts = (unet, vae, scheduler, safety_checker)
        self.requires_safety_checker = requires_safety_checker


class Scheduler:
    def __init__(self, config: str) -> None:
        self.config = config

    @classmethod
    def from_config(cls, config: str) -> "Scheduler":
        return cls(config)


def test_a_pipeline_is_put_together_by_reference_with_a_scheduler_of_its_own() -> None:
    shared = {"vae": Component(), "scheduler": Scheduler("c"), "unused": 1, "unet": "theirs"}
    unet = Component()
    made = build_function_owned_pipeline(shared, Pipeline, unet=unet)
    assert made.parts[0] is unet
    assert made.parts[1] is shared["vae"]
    assert made.parts[2] is not shared["scheduler"]
    assert made.parts[2].config == "c"
    assert made.parts[3] is None
    assert made.requires_safety_checker is False


def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingComponentsError, match="'scheduler', 'unet'") as caught:
        build_function_owned_pipeline({"vae": SimpleNamespace()}, Pipeline)
    assert caught.value.missing == ("scheduler", "unet")
