"""`ModelCache`: every method of the interface, over one book."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.model_cache import ModelCache, ModelCacheStats, ModelLocation
from gen_worker.models import cache as older_module
from gen_worker.models.residency import Budgets, Gpus, Limits, Residency
from gen_worker.models.residency.gpu_memory import GpuMemory

if TYPE_CHECKING:
    from pathlib import Path


class Pipeline:
    def __init__(self) -> None:
        self.places: list[str] = []

    def to(self, place: str) -> Pipeline:
        self.places.append(place)
        return self


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(max_vram_gb=20.0, model_cache_dir=tmp_path / "models")


def load(cache: ModelCache, *names: str, size_gb: float = 8.0) -> list[Pipeline]:
    pipelines = [Pipeline() for _ in names]
    for name, pipeline in zip(names, pipelines, strict=True):
        cache.mark_loaded_to_vram(name, pipeline, size_gb)
    return pipelines


def test_the_documented_example(cache: ModelCache) -> None:
    pipeline = Pipeline()
    cache.mark_loaded_to_vram("model-a", pipeline, size_gb=8.0)
    assert cache.is_in_vram("model-a")
    assert cache.get_vram_models() == ["model-a"]
    assert cache.get_pipeline("model-a") is pipeline


def test_both_import_paths_give_one_class() -> None:
    assert older_module.ModelCache is ModelCache
    assert [x.value for x in ModelLocation] == ["vram", "cpu", "disk", "downloading"]


def test_the_directory_is_made(cache: ModelCache, tmp_path: Path) -> None:
    assert (tmp_path / "models").is_dir()


def test_a_directory_that_cannot_be_made_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    ModelCache(max_vram_gb=1, model_cache_dir=tmp_path / "file" / "models")
    assert "cannot be made" in caplog.text


def test_the_least_recently_used_leaves_first(cache: ModelCache) -> None:
    a, b = load(cache, "a", "b")
    cache.get_pipeline("a")
    load(cache, "c")
    assert set(cache.get_vram_models()) == {"a", "c"}
    assert cache.get_cpu_models() == ["b"]
    assert b.places == ["cpu"]
    assert a.places == []


def test_a_pipeline_in_ram_is_moved_up_and_not_loaded_again(cache: ModelCache) -> None:
    a, _ = load(cache, "a", "b")
    load(cache, "c")
    assert cache.residency_tier("a") == "RAM"
    assert cache.get_pipeline("a") is a
    assert a.places == ["cpu", "cuda:0"]
    assert cache.residency_tier("a") == "VRAM"
    assert cache.refcount("a") == 0
    assert cache.vram_used_gb == 16.0


def test_without_a_gpu_a_pipeline_is_used_in_ram(tmp_path: Path) -> None:
    class NoGpus(Gpus):
        def memory(self, index: int = 0) -> GpuMemory:
            return GpuMemory()

    residency = Residency(limits=Limits(Budgets(), gpus=NoGpus()))
    cache = ModelCache(model_cache_dir=tmp_path, residency=residency)
    made = Pipeline()
    residency.use("a", "cpu", lambda: made).release()
    assert cache.get_pipeline("a") is made
    assert made.places == []
    assert cache.residency_tier("a") == "RAM"


def test_pinned_and_referenced_models_stay(cache: ModelCache) -> None:
    load(cache, "a")
    cache.mark_loaded_to_vram("b", Pipeline(), 8.0, pinned=True)
    assert cache.acquire_ref("a") == 1
    assert cache.is_pinned("b")
    load(cache, "c")
    assert set(cache.get_vram_models()) == {"a", "b", "c"}
    assert not cache.unload_model("a")
    assert not cache.unload_from_vram("a")
    assert cache.release_ref("a") == 0
    assert cache.release_ref("a") == 0
    cache.pin("b", False)
    assert cache.unload_model("a")
    assert cache.vram_used_gb == 16.0


def test_marking_again_with_another_size_keeps_totals_true(cache: ModelCache) -> None:
    load(cache, "a", size_gb=8.0)
    load(cache, "a", size_gb=3.0)
    assert cache.vram_used_gb == 3.0
    assert cache.get_stats().total_models == 1


def test_a_download_over_a_loaded_model_changes_no_total(cache: ModelCache) -> None:
    (pipeline,) = load(cache, "a")
    cache.mark_downloading("a", 0.25)
    assert cache.residency_tier("a") == "VRAM"
    assert cache.get_pipeline("a") is pipeline
    assert cache.vram_used_gb == 8.0
    assert cache.get_download_progress("a") == 0.25


def test_unloading_from_ram_keeps_totals_true(cache: ModelCache) -> None:
    load(cache, "a", "b", "c")
    assert cache.unload_model("a")
    assert cache.vram_used_gb == 16.0
    assert cache.get_cpu_models() == []
    assert not cache.unload_model("a")
    assert not cache.has_model("a")


def test_downloads(cache: ModelCache) -> None:
    cache.mark_downloading("a")
    assert cache.residency_tier("a") == "DOWNLOADING"
    assert cache.get_downloading_models() == ["a"]
    cache.update_download_progress("a", 0.5)
    cache.update_download_progress("unknown", 0.5)
    assert cache.get_download_progress("a") == 0.5
    assert cache.get_download_progress("unknown") is None
    cache.mark_cached_to_disk("a", "/models/a", 2.0)
    assert cache.residency_tier("a") == "DISK"
    assert cache.get_downloading_models() == []
    assert cache.is_on_disk("a")


def test_caching_to_disk_drops_the_object(cache: ModelCache) -> None:
    load(cache, "a")
    cache.mark_cached_to_disk("a", "/models/a")
    assert cache.get_pipeline("a") is None
    assert cache.get_disk_models() == ["a"]
    assert cache.vram_used_gb == 0.0


def test_evicting_by_count_forgets_what_has_no_files(cache: ModelCache) -> None:
    cache.register_model("b", "/models/b")
    load(cache, "a", "b", "c", size_gb=1.0)
    assert cache.evict_lru_vram_until_count(1) == 2
    assert cache.get_vram_models() == ["c"]
    assert not cache.has_model("a")
    assert cache.residency_tier("b") == "DISK"
    assert cache.evict_lru_vram_until_count(1) == 0


def test_availability(cache: ModelCache) -> None:
    load(cache, "a")
    cache.mark_cached_to_disk("b", "/models/b")
    cache.register_model("c")
    assert set(cache.get_all_models()) == {"a", "b", "c"}
    assert set(cache.get_available_models()) == {"a", "b"}
    assert cache.are_models_available(["a", "b"])
    assert not cache.are_models_available(["a", "c"])
    assert cache.get_residency_map() == {"a": "VRAM", "b": "DISK", "c": "ABSENT"}
    assert cache.residency_tier("d") == "ABSENT"
    assert cache.unload_from_vram("a")
    assert not cache.unload_from_vram("a")


def test_statistics(cache: ModelCache) -> None:
    load(cache, "a", size_gb=7.777)
    cache.mark_cached_to_disk("b", "/models/b")
    stats = cache.get_stats()
    assert isinstance(stats, ModelCacheStats)
    assert stats.to_dict() == {
        "vram_models": ["a"],
        "disk_models": ["b"],
        "downloading_models": [],
        "vram_used_gb": 7.78,
        "vram_total_gb": 20.0,
        "vram_available_gb": 12.22,
        "total_models": 2,
        "vram_model_count": 1,
        "disk_model_count": 1,
    }
    assert cache.can_fit_in_vram(12.0)
    assert not cache.can_fit_in_vram(13.0)
    assert cache.vram_free_gb == pytest.approx(12.223)


def test_the_environment_sets_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_MAX_VRAM_GB", "12")
    monkeypatch.setenv("WORKER_MAX_CONCURRENT_DOWNLOADS", "5")
    monkeypatch.setenv("TENSORHUB_CACHE_DIR", str(tmp_path / "root"))
    cache = ModelCache()
    assert cache.max_vram_gb == 12.0
    assert cache.get_max_concurrent_downloads() == 5
    assert cache.model_cache_dir == str(tmp_path / "root" / "cas")
    assert ModelCache(max_vram_gb=3.0).max_vram_gb == 3.0


def test_a_cache_and_the_residency_it_looks_at_keep_one_book(tmp_path: Path) -> None:
    residency = Residency(Budgets(max_vram_gb=10.0))
    cache = ModelCache(model_cache_dir=tmp_path, residency=residency)
    made: Any = Pipeline()
    residency.use("a", "cuda:0", lambda: made, size_bytes=1024**3).release()
    assert cache.get_pipeline("a") is made
    assert cache.vram_used_gb == 1.0
    with residency.use("a", "cuda:0", Pipeline):
        assert cache.refcount("a") == 1
        assert not cache.unload_model("a")
    load(cache, "b", size_gb=9.5)
    assert residency.inventory().vram_models == ("b",)
