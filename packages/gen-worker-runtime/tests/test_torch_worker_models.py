"""Pipelines of a whole worker: loaded ahead, used by jobs, and given back on command."""

import gc
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import RequestContext, inference, inference_function
from gen_worker.models import Repo
from gen_worker.models.snapshot import Snapshot, SnapshotFile, snapshot_of
from gen_worker.models.store import ContentStore
from gen_worker.runtime.wire import (
    EndpointConfig,
    LoadModel,
    LoadModelResult,
    ResolvedRepo,
    ResolvedRepoFile,
    UnloadModel,
    UnloadModelResult,
)
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from conftest import Work

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

REF = "acme/tiny:prod"


class Ask(msgspec.Struct):
    seed: int = 0


class Drawn(msgspec.Struct):
    mean: float


SEEN: "weakref.WeakSet[Any]" = weakref.WeakSet()


def draw(pipeline: Any, seed: int) -> Drawn:
    SEEN.add(pipeline)
    generator = torch.Generator().manual_seed(seed)
    done = pipeline("a cat", num_inference_steps=1, generator=generator, output_type="np")
    return Drawn(mean=float(done.images[0].mean()))


@inference_function(models={"pipeline": Repo("acme/tiny")})
def paint(ctx: RequestContext, pipeline: diffusers.StableDiffusionPipeline, payload: Ask) -> Drawn:
    return draw(pipeline, payload.seed)


@inference(models={"pipeline": Repo("acme/tiny")})
class Studio:
    def setup(self, pipeline: diffusers.StableDiffusionPipeline) -> None:
        self.pipeline = pipeline

    @inference.function
    def sketch(self, ctx: RequestContext, payload: Ask) -> Drawn:
        return draw(self.pipeline, payload.seed)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResolvedRepo:
    """A tiny pipeline whose files are in the worker's store already."""
    from gen_worker.models import tiny

    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    tiny.tiny_stable_diffusion(tmp_path / "pipeline")
    store = ContentStore(str(tmp_path / "cas"))
    files = []
    for path in sorted((tmp_path / "pipeline").rglob("*")):
        if path.is_file():
            digest, size_bytes = store.add_file(str(path))
            name = path.relative_to(tmp_path / "pipeline").as_posix()
            files.append(SnapshotFile(path=name, size_bytes=size_bytes, blake3=digest))
    snapshot: Snapshot = snapshot_of(files)
    store.build(snapshot)
    return ResolvedRepo(
        snapshot_digest=snapshot.checkpoint_id,
        files=tuple(
            ResolvedRepoFile(path=one.path, size_bytes=one.size_bytes, blake3=one.blake3)
            for one in snapshot.files
        ),
    )


async def test_a_pipeline_is_loaded_used_and_given_back(work: "Work", repo: ResolvedRepo) -> None:
    async with Orchestrator() as orchestrator, work(orchestrator, paint, Studio):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: repo}))
        await orchestrator.until(
            lambda: worker.registration.resources.ram_models == (REF,), timeout_s=60
        )
        worker.send(LoadModel(model_id=REF))
        done = await orchestrator.until(lambda: worker.heard(LoadModelResult), timeout_s=60)
        assert done[0].success, done[0].error_message
        assert done[0].size_bytes > 100_000

        first = await worker.submit("paint", {"seed": 1}).output(timeout_s=60)
        again = await worker.submit("sketch", {"seed": 1}).output(timeout_s=60)
        assert first == again
        assert len(SEEN) == 1  # the class and the function share it

        worker.send(UnloadModel(model_id=REF))
        await orchestrator.until(lambda: worker.heard(UnloadModelResult))
        assert worker.heard(UnloadModelResult)[0].success
        gc.collect()
        assert not SEEN
        assert await worker.submit("sketch", {"seed": 1}).output(timeout_s=60) == first
