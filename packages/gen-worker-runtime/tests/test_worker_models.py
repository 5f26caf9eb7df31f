"""Models of a whole worker: described by an orchestrator, fetched from a real hub, used by jobs."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest
import uvicorn

from gen_worker import RequestContext, inference, inference_function
from gen_worker.manifest import LockedModel, Manifest
from gen_worker.models import ModelRef, ModelRefSource, Repo, dispatch, parse_ref
from gen_worker.models.hub import HubClient, LocalHub, publish_folder
from gen_worker.runtime.wire import (
    DownloadModel,
    EndpointConfig,
    LoadModel,
    LoadModelResult,
    ModelReady,
    RefStatus,
    ResolvedModel,
    ResolvedRepo,
    ResolvedRepoFile,
    StartupPhase,
    UnloadModel,
    UnloadModelResult,
)
from gen_worker.runtime.worker.commands import problem_text
from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from conftest import Work

REF = "acme/words:prod"


class Ask(msgspec.Struct):
    which: Literal["one", "two"] = "one"


class Said(msgspec.Struct):
    text: str
    setups: int = 0


class Words:
    """What an author may bring along: any type with `from_pretrained`."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def from_pretrained(cls, path: str) -> "Words":
        return cls((Path(path) / "words.txt").read_text())


@inference_function(models={"words": Repo("acme/words").allow_override(f"{__name__}.Words")})
def read(ctx: RequestContext, words: str, payload: Ask) -> Said:
    return Said(text=(Path(words) / "words.txt").read_text())


TABLE = {"one": Repo("acme/words"), "two": Repo("acme/others")}


@inference_function(models={"words": dispatch("which", TABLE)})
def choose(ctx: RequestContext, words: Words, payload: Ask) -> Said:
    return Said(text=words.text)


class Stage:
    setups = 0
    shutdowns = 0
    held = threading.Event()
    go = threading.Event()


@inference(models={"words": Repo("acme/words")})
class Reader:
    def setup(self, words: Words) -> None:
        Stage.setups += 1
        self.words = words

    def warmup(self) -> None:
        pass

    @inference.function
    def recite(self, ctx: RequestContext, payload: Ask) -> Said:
        return Said(text=self.words.text, setups=Stage.setups)

    @inference.function
    def linger(self, ctx: RequestContext, payload: Ask) -> Said:
        Stage.held.set()
        Stage.go.wait(60)
        return Said(text=self.words.text)

    def shutdown(self) -> None:
        Stage.shutdowns += 1


@inference_function
def keyed(
    ctx: RequestContext,
    words: Annotated[str, ModelRef(ModelRefSource.FIXED, "main")],
    payload: Ask,
) -> Said:
    return Said(text=(Path(words) / "words.txt").read_text())


class Hub:
    """A hub on loopback, and what it says of its models as orchestrators pass it on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hub = LocalHub(root / "hub")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(self.hub.app, log_level="error", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()
        self.client = HubClient(self.url, self.hub.issue_token("admin"))

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self.hub.close()

    def publish(self, repo: str, text: str) -> ResolvedRepo:
        folder = self.root / "published"
        folder.mkdir(exist_ok=True)
        (folder / "words.txt").write_text(text)
        publish_folder(self.client, folder, repo)
        return self.resolved(repo)

    def resolved(self, repo: str) -> ResolvedRepo:
        ref = parse_ref(repo)
        snapshot = self.client.resolve(ref).snapshot  # type: ignore[arg-type]
        return ResolvedRepo(
            snapshot_digest=snapshot.checkpoint_id,
            files=tuple(
                ResolvedRepoFile(
                    path=file.path, size_bytes=file.size_bytes, blake3=file.blake3, url=file.url
                )
                for file in snapshot.files
            ),
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    Stage.setups = Stage.shutdowns = 0
    Stage.held.clear()
    Stage.go.clear()
    hub = Hub(tmp_path)
    monkeypatch.setenv("TENSORHUB_URL", hub.url)
    monkeypatch.setenv("TENSORHUB_CAS_DIR", str(tmp_path / "cas"))
    monkeypatch.setenv("WORKER_LOCAL_MODEL_CACHE_DIR", str(tmp_path / "copies"))
    yield hub
    Stage.go.set()
    hub.close()


def phases(worker: Any) -> list[str]:
    return [one.phase for one in worker.heard(StartupPhase) if one.phase]


def ready_kinds(worker: Any) -> set[tuple[str, str]]:
    return {(one.model_id, one.kind) for one in worker.heard(ModelReady)}


async def test_required_models_are_here_before_the_worker_is_ready(work: "Work", hub: Hub) -> None:
    repo = hub.publish("acme/words", "first")
    async with Orchestrator() as orchestrator, work(orchestrator, read):
        worker = await orchestrator.connected()
        await orchestrator.until(lambda: phases(worker) == ["models_downloading"])
        resources = worker.registration.resources
        assert (resources.available_functions, resources.loading_functions) == ((), ("read",))
        refused = await worker.submit("read").result()
        assert refused.error_type == "function_unavailable"

        # Spelled as orchestrators may spell it.
        worker.send(EndpointConfig(required_refs=("acme/words",), repos={"acme/words": repo}))
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert ready_kinds(worker) == {
            (REF, "ready"),
            (REF, "download_completed"),
            (REF, "cached"),
        }
        await orchestrator.until(
            lambda: worker.registration.resources.available_functions == ("read",)
        )
        assert worker.registration.resources.disk_models == (REF,)
        await orchestrator.until(lambda: worker.events("worker.model.download.completed"))
        assert (await worker.submit("read").output())["text"] == "first"


async def test_a_job_says_itself_what_its_refs_mean(work: "Work", hub: Hub) -> None:
    old = hub.publish("acme/words", "old")
    new = hub.publish("acme/words", "new")
    async with Orchestrator() as orchestrator, work(orchestrator, read):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: old}))
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert (await worker.submit("read").output())["text"] == "old"
        assert (await worker.submit("read", repos={REF: new}).output())["text"] == "new"
        # It extends what is known in general, and only for itself.
        others = {"acme/others:prod": hub.publish("acme/others", "others")}
        assert (await worker.submit("read", repos=others).output())["text"] == "old"


async def test_callers_models_need_the_authors_leave(work: "Work", hub: Hub) -> None:
    words, others = hub.publish("acme/words", "words"), hub.publish("acme/others", "others")
    repos = {REF: words, "acme/others:prod": others}
    async with Orchestrator() as orchestrator, work(orchestrator, read, choose):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(required_refs=tuple(repos), repos=repos))
        await orchestrator.until(lambda: "ready" in phases(worker))
        theirs = ResolvedModel(slot_name="words", ref="acme/others", source="override")
        output = await worker.submit("read", models={"words": theirs}).output()
        assert output["text"] == "others"
        refused = await worker.submit("choose", models={"words": theirs}).result()
        assert refused.error_type == "validation"
        # What the owner re-pointed needs none.
        owners = ResolvedModel(slot_name="words", ref="acme/others", source="default")
        output = await worker.submit("choose", models={"words": owners}).output()
        assert output["text"] == "others"
        assert (await worker.submit("choose", {"which": "one"}).output())["text"] == "words"


async def test_a_class_is_set_up_ahead_and_again_after_its_model_was_unloaded(
    work: "Work", hub: Hub
) -> None:
    repo = hub.publish("acme/words", "words")
    async with Orchestrator() as orchestrator, work(orchestrator, Reader) as running:
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: repo}))
        await orchestrator.until(lambda: "warming" in phases(worker))
        worker.send(LoadModel(model_id="acme/words"))
        loaded = (await orchestrator.until(lambda: worker.heard(LoadModelResult)))[0]
        assert (loaded.model_id, loaded.success, loaded.error_message) == (REF, True, "")
        await orchestrator.until(lambda: worker.registration.resources.ram_models == (REF,))
        same = ResolvedModel(slot_name="words", ref="acme/words", source="default")
        output = await worker.submit("recite", models={"words": same}).output()
        assert output == {"text": "words", "setups": 1}

        job = worker.submit("linger")
        await orchestrator.until(Stage.held.is_set)
        worker.send(UnloadModel(model_id=REF))
        refused = (await orchestrator.until(lambda: worker.heard(UnloadModelResult)))[0]
        assert (refused.success, refused.error_message) == (False, "model_in_use")
        await orchestrator.until(lambda: worker.events("model.unload.failed"))
        Stage.go.set()
        await job.output()

        worker.send(UnloadModel(model_id=REF))
        await orchestrator.until(lambda: len(worker.heard(UnloadModelResult)) == 2)
        assert worker.heard(UnloadModelResult)[1].success
        assert Stage.shutdowns == 1
        await orchestrator.until(lambda: worker.registration.resources.ram_models == ())
        assert worker.registration.resources.disk_models == (REF,)
        assert running.models.library.residency.value(REF) is None
        assert (await worker.submit("recite").output())["setups"] == 2
    assert Stage.shutdowns == 2


async def test_a_model_is_downloaded_on_command(work: "Work", hub: Hub) -> None:
    extra = hub.publish("acme/extra", "extra")
    async with Orchestrator() as orchestrator, work(orchestrator, read):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(repos={"acme/extra": extra}))
        worker.send(DownloadModel(model_id="acme/extra:latest", ref="acme/extra"))
        done = (await orchestrator.until(lambda: worker.heard(LoadModelResult)))[0]
        assert (done.model_id, done.success) == ("acme/extra:latest", True)
        await orchestrator.until(
            lambda: "acme/extra:prod" in worker.registration.resources.disk_models
        )
        worker.send(DownloadModel(model_id="acme/nothing"))
        await orchestrator.until(lambda: len(worker.heard(LoadModelResult)) == 2)
        failed = worker.heard(LoadModelResult)[1]
        assert (failed.model_id, failed.success) == ("acme/nothing:prod", False)
        worker.send(LoadModel(model_id="acme/extra"))
        await orchestrator.until(lambda: len(worker.heard(LoadModelResult)) == 3)
        assert "no function" in worker.heard(LoadModelResult)[2].error_message


async def test_a_model_that_cannot_be_had_ends_the_waiting(work: "Work", hub: Hub) -> None:
    repo = hub.publish("acme/words", "words")
    lost = msgspec.structs.replace(repo.files[0], url=f"{hub.url}/nowhere")
    broken = msgspec.structs.replace(repo, files=(lost,))
    async with Orchestrator() as orchestrator, work(orchestrator, read, renewal_s=0.0):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: broken}))
        await orchestrator.until(lambda: "ready" in phases(worker))
        refused = worker.submit("read")
        result = await refused.result()
        assert result.error_type == "function_unavailable"
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: broken}))
        assert (await worker.submit("read").result()).error_type == "function_unavailable"
        # Described anew, it is tried again.
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: repo}))
        await orchestrator.until(
            lambda: worker.registration.resources.available_functions == ("read",)
        )
        assert (await worker.submit("read").output())["text"] == "words"


async def test_refused_urls_are_asked_for_anew(work: "Work", hub: Hub) -> None:
    repo = hub.publish("acme/words", "words")
    stale = msgspec.structs.replace(repo.files[0], url=f"{hub.url}/api/v1/repos")
    async with Orchestrator() as orchestrator, work(orchestrator, read):
        worker = await orchestrator.connected()
        stale_repo = msgspec.structs.replace(repo, files=(stale,))
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: stale_repo}))
        await orchestrator.until(lambda: worker.events("model.url_refresh"))
        worker.send(EndpointConfig(required_refs=(REF,), repos={REF: repo}))
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert (await worker.submit("read").output())["text"] == "words"


async def test_keys_are_the_images_until_the_orchestrator_sends_its_own(
    work: "Work", hub: Hub
) -> None:
    words, others = hub.publish("acme/words", "words"), hub.publish("acme/others", "others")
    manifest = Manifest(functions=(), models={"main": LockedModel(ref="acme/words")})
    repos = {REF: words, "acme/others:prod": others}
    async with Orchestrator() as orchestrator, work(orchestrator, keyed, manifest=manifest):
        worker = await orchestrator.connected()
        worker.send(EndpointConfig(repos=repos))
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert (await worker.submit("keyed").output())["text"] == "words"
        worker.send(EndpointConfig(repos=repos, ref_by_key={"main": "acme/others"}))
        await orchestrator.until(
            lambda: "acme/others:prod" in worker.registration.resources.disk_models
        )
        assert (await worker.submit("keyed").output())["text"] == "others"


async def test_a_request_for_a_model_that_is_gone_is_refused(work: "Work", hub: Hub) -> None:
    words = hub.publish("acme/words", "words")
    status = {"choose": {"two": RefStatus(ref="acme/others", status="repo_deleted")}}
    config = EndpointConfig(
        required_refs=(REF,),
        repos={REF: words},
        ref_status_by_function=status,
        supported_refs=("acme/words",),
    )
    async with Orchestrator() as orchestrator, work(orchestrator, choose):
        worker = await orchestrator.connected()
        worker.send(config)
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert (await worker.submit("choose", {"which": "one"}).output())["text"] == "words"
        refused = await worker.submit("choose", {"which": "two"}).result()
        assert refused.error_type == "function_unavailable"


async def test_without_a_configuration_models_are_fetched_after_a_while(
    work: "Work", hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("acme/words", "words")
    monkeypatch.setenv("WORKER_ALLOW_TENSORHUB_API_RESOLVE", "1")
    monkeypatch.setenv("TENSORHUB_TOKEN", hub.hub.issue_token("admin"))
    async with Orchestrator() as orchestrator, work(orchestrator, read, config_grace_s=0.05):
        worker = await orchestrator.connected()
        await orchestrator.until(lambda: "ready" in phases(worker))
        assert (await worker.submit("read").output())["text"] == "words"


def test_a_load_that_did_not_fit_says_so_first_and_no_text_has_credentials() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert problem_text(OutOfMemoryError("1 GiB wanted")).startswith(
        "insufficient_vram: OutOfMemoryError: 1 GiB wanted\n"
    )
    assert problem_text(RuntimeError("CUDA out of memory")).startswith("insufficient_vram: ")
    text = problem_text(ValueError("https://hub/file?signature=abc"), with_traceback=False)
    assert text.startswith("ValueError: https://hub/file?")
    assert "abc" not in text
