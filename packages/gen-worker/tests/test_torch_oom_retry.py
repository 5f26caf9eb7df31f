"""A GPU that is full during a call, through the whole worker: engine, library, residency, ladder.

The pipeline raises torch's own error until the ladder has taken it to the step it is scripted for,
and every shape in which a function can be written calls it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gen_worker import Repo, RequestContext, Resources, inference, inference_function, invocable
from gen_worker.events import Emitted
from gen_worker.models.library import ModelLibrary
from gen_worker.models.low_vram import Ladder
from gen_worker.models.low_vram.facts import Machine
from gen_worker.models.residency import Gpus, Residency
from gen_worker.models.residency.gpu_memory import GpuMemory
from gen_worker.models.sources import LocalModel
from gen_worker.testing import EndpointTester, TesterResult

torch: Any = pytest.importorskip("torch")

GIB = 1024**3
STEPS = ["off", "model_offload", "group_offload", "sequential"]


class Painter:
    """Has a pipeline's methods; fits the GPU from one step of the ladder on."""

    made: list["Painter"]
    fits_from = "off"
    moves_that_fail = 0

    def __init__(self, path: str) -> None:
        self.name = Path(path).name
        self.seen: list[str] = []
        Painter.made.append(self)

    @classmethod
    def from_pretrained(cls, path: str) -> "Painter":
        return cls(path)

    @property
    def mode(self) -> str:
        return str(getattr(self, "_cozy_low_vram_mode", ""))

    def to(self, device: Any, dtype: Any = None) -> "Painter":
        if str(device) != "cpu" and Painter.moves_that_fail:
            Painter.moves_that_fail -= 1
            raise torch.OutOfMemoryError(f"CUDA out of memory: {self.name} to {device}")
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None) -> None: ...

    def enable_group_offload(self, **options: Any) -> None: ...

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None) -> None: ...

    def __call__(self, text: str) -> str:
        self.seen.append(self.mode)
        if STEPS.index(self.mode if self.mode in STEPS else "off") < STEPS.index(self.fits_from):
            raise torch.OutOfMemoryError(f"CUDA out of memory: {self.name} as {self.mode}")
        return text.upper()


class Ask(msgspec.Struct):
    text: str = "a"


class Answer(msgspec.Struct):
    text: str


PAINTER = Repo("painter", "acme/painter")
SECOND = Repo("second", "acme/second")
ON_GPU = Resources(requires_gpu=True)
on_gpu = inference_function(models={"pipe": PAINTER}, resources=ON_GPU)


@on_gpu
def plain(ctx: RequestContext, pipe: Painter, ask: Ask) -> Answer:
    return Answer(pipe(ask.text))


@on_gpu
async def awaited(ctx: RequestContext, pipe: Painter, ask: Ask) -> Answer:
    await asyncio.sleep(0)
    return Answer(pipe(ask.text))


@on_gpu
def generated(ctx: RequestContext, pipe: Painter, ask: Ask) -> Iterator[Answer]:
    yield Answer(pipe(ask.text))


@on_gpu
async def async_generated(ctx: RequestContext, pipe: Painter, ask: Ask) -> AsyncIterator[Answer]:
    yield Answer(pipe(ask.text))


@inference_function(models={"pipe": PAINTER, "other": SECOND}, resources=ON_GPU)
def with_two(ctx: RequestContext, pipe: Painter, other: Painter, ask: Ask) -> Answer:
    return Answer(pipe(other(ask.text)))


@inference(models={"pipe": PAINTER}, resources=ON_GPU)
class Methods:
    def setup(self, pipe: Painter) -> None:
        self.pipe = pipe

    @invocable
    def method(self, ctx: RequestContext, ask: Ask) -> Answer:
        return Answer(self.pipe(ask.text))

    @invocable
    async def awaited_method(self, ctx: RequestContext, ask: Ask) -> Answer:
        return Answer(self.pipe(ask.text))


@inference(models={"pipe": PAINTER}, resources=ON_GPU, batch_window_ms=5, max_batch=2)
class Batches:
    def setup(self, pipe: Painter) -> None:
        self.pipe = pipe

    @invocable
    def batched(self, ctx: list[RequestContext], ask: list[Ask]) -> list[Answer]:
        return [Answer(text) for text in self.pipe(" ".join(x.text for x in ask)).split()]


FUNCTIONS = {
    "plain": plain,
    "awaited": awaited,
    "method": Methods,
    "awaited-method": Methods,
    "batched": Batches,
}


class FakeGpus(Gpus):
    def is_available(self) -> bool:
        return True

    def memory(self, index: int = 0) -> GpuMemory:
        return GpuMemory(24 * GIB, 24 * GIB)


class Folders:
    """Models whose files are here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def hold(self, choice: Any, **asks: Any) -> Iterator[LocalModel]:
        folder = self.root / choice.ref.rpartition("/")[2]
        folder.mkdir(exist_ok=True)
        yield LocalModel(
            identity=choice.ref,
            provider="tensorhub",
            ref=choice.ref,
            path=str(folder),
            root=str(folder),
            digest="0" * 64,
            files=(),
            size_bytes=0,
        )


class Worker:
    """An engine with one GPU over the real model library."""

    def __init__(self, tester: EndpointTester, told: list[dict[str, Any]]) -> None:
        self.tester = tester
        self.told = told

    def run(self, name: str) -> list[TesterResult]:
        """Call a function; a batched one by as many callers as make a batch."""
        count = 2 if name == "batched" else 1
        calls = [self.tester.start(name, {"text": f"x{number}"}) for number in range(count)]
        return [call.wait() for call in calls]

    @property
    def escalations(self) -> list[tuple[str, str, int]]:
        events = [one for one in self.told if one["stage"] == "oom_escalation"]
        return [(one["model_id"], one["mode"], one["attempt"]) for one in events]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    Painter.made = []
    testers: list[EndpointTester] = []

    def make(function: Any, *, fits_from: str = "off", moves_that_fail: int = 0) -> Worker:
        monkeypatch.setattr(Painter, "fits_from", fits_from)
        monkeypatch.setattr(Painter, "moves_that_fail", moves_that_fail)
        told: list[dict[str, Any]] = []

        def tell(kind: str, payload: dict[str, Any]) -> None:
            if kind == "low_vram_mode_applied":
                told.append(payload)

        folders: Any = Folders(tmp_path)
        machine = Machine(Ladder(), gpus=FakeGpus(), ram_gb=lambda: 64.0)
        library = ModelLibrary(folders, Residency(), machine=machine, tell=tell)
        tester = EndpointTester(function, models=library, devices=["cuda:0"])
        testers.append(tester)
        return Worker(tester, told)

    yield make
    for tester in testers:
        tester.close()


def retries(result: TesterResult) -> list[Any]:
    events = [one for one in result.events if isinstance(one, Emitted)]
    assert {one.request_id for one in events} <= {result.request_id}
    return [(one.type, one.payload) for one in events if one.type == "inference.oom_retry"]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("fits_from", "count"), [("model_offload", 1), ("group_offload", 2)])
def test_a_call_is_made_again_a_step_further_down(
    start: Callable[..., Worker], name: str, fits_from: str, count: int
) -> None:
    worker = start(FUNCTIONS[name], fits_from=fits_from)
    for result in worker.run(name):
        assert result.failure is None, result.failure
        assert result.value.text.startswith("X")
        assert retries(result) == [
            ("inference.oom_retry", {"function_name": name, "attempt": number})
            for number in range(1, count + 1)
        ]
    (painter,) = Painter.made
    assert painter.seen[-count - 1 :] == ["vae_only", *STEPS[1 : count + 1]]
    model_id = "acme/painter"
    assert worker.escalations == [
        (model_id, mode, number) for number, mode in enumerate(STEPS[1 : count + 1], 1)
    ]
    # It stays there: the next call has nothing to retry.
    for result in worker.run(name):
        assert result.failure is None
        assert retries(result) == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_third_time_is_final_and_the_next_call_goes_on_from_there(
    start: Callable[..., Worker], name: str
) -> None:
    worker = start(FUNCTIONS[name], fits_from="sequential")
    for result in worker.run(name):
        assert result.failure is not None
        assert result.failure.error_type == "resource"
        assert len(retries(result)) == 2
    for result in worker.run(name):
        assert result.failure is None, result.failure
        assert len(retries(result)) == 1
    (painter,) = Painter.made
    assert painter.mode == "sequential"


@pytest.mark.parametrize("function", [generated, async_generated])
def test_a_stream_is_never_repeated(start: Callable[..., Worker], function: Any) -> None:
    worker = start(function, fits_from="model_offload")
    (result,) = worker.run(function.__name__.replace("_", "-"))
    assert result.failure is not None
    assert result.failure.error_type == "resource"
    assert retries(result) == []
    assert worker.escalations == []


def test_every_injected_pipeline_goes_down_one_step(start: Callable[..., Worker]) -> None:
    worker = start(with_two, fits_from="group_offload")
    (result,) = worker.run("with-two")
    assert result.failure is None, result.failure
    assert [painter.mode for painter in Painter.made] == ["group_offload", "group_offload"]
    assert len(retries(result)) == 2
    assert worker.escalations == [
        ("acme/painter", "model_offload", 1),
        ("acme/second", "model_offload", 1),
        ("acme/painter", "group_offload", 2),
        ("acme/second", "group_offload", 2),
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_pipeline_that_cannot_be_moved_is_offloaded_before_the_call(
    start: Callable[..., Worker], name: str
) -> None:
    worker = start(FUNCTIONS[name], moves_that_fail=1)
    for result in worker.run(name):
        assert result.failure is None, result.failure
        assert retries(result) == []
    assert worker.escalations == [("acme/painter", "model_offload", 1)]
