"""The product's own samples run as written, and so does every form in which an endpoint is written.

Each becomes a real project in a folder of its own: it is discovered here and by the build's
command, described, and called through the whole pipeline with stand-ins for its models.
"""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from gen_worker.cli.describe import describe_endpoint
from gen_worker.cli.project import Endpoint
from gen_worker.discovery import Discovery, discover, validate_endpoint_lock
from gen_worker.project import load_project
from gen_worker.testing import EndpointTester

TOML = """schema_version = 1
main = "{main}"

[[build.profiles]]
name = "cpu"
accelerator = "none"
python = "3.12"
dependencies = ["gen-worker>=0.8", "msgspec"]
"""

PREAMBLE = """
from collections.abc import *
from typing import *
import msgspec
from gen_worker import *

class Ask(msgspec.Struct):
    text: str = ""

class Reply(msgspec.Struct):
    text: str
"""


class Sample(msgspec.Struct, frozen=True):
    """One module, and calls with what they must answer: a struct's fields, or a list of items."""

    source: str
    calls: dict[str, tuple[dict[str, Any], Any]]
    models: dict[str, Any] = {}
    main: str = ""
    toml: str = TOML


def shout(text: Any) -> str:
    return str(text).upper()


class Voice:
    """Stands in for a loaded speech model."""

    def __init__(self) -> None:
        self.spoken: list[str] = []

    def __call__(self, text: str) -> None:
        self.spoken.append(text)

    def stream(self, text: str) -> Iterator[Any]:
        return iter(text.split())


PAINTER = """
import msgspec
from typing import Literal
from gen_worker import Repo, RequestContext, Resources, dispatch, inference_function

weights = Repo("main_model", "acme/painter")          # slot name + initial ref

class Ask(msgspec.Struct):
    prompt: str
    quality: Literal["draft", "final"] = "draft"

class Reply(msgspec.Struct):
    caption: str

@inference_function(
    resources=Resources(requires_gpu=True, min_vram_gb=10),
    models={"engine": dispatch("quality", {"draft": weights.flavor("int8"),
                                           "final": weights.flavor("bf16")})},
)
def paint(ctx: RequestContext, engine, ask: Ask) -> Reply:
    ctx.raise_if_canceled()
    return Reply(caption=engine(ask.prompt))
"""

VOICELAB_TOML = """schema_version = 1
name = "voice-lab"
main = "voicelab.app"

[functions.transcribe]
batch_dimension = "clips"          # optional

[models]                           # fixed keyspace, any function
asr_main = { ref = "acme/asr-large", attributes = { dtype = ["bf16", "fp16"] } }

[models.transcribe]                # choices for ModelRef(PAYLOAD, …) of that function
fast = "acme/asr-small"

[resources]
max_inflight_requests = 1
vram_gb = 12
ram_gb = 32
"""

VOICELAB = """
from typing import Annotated
import msgspec
from gen_worker import ModelRef, ModelRefSource, RequestContext, worker_function

class SpeechModel: ...

class AudioIn(msgspec.Struct):
    clips: list[str]

class TextOut(msgspec.Struct):
    text: str

@worker_function()
def transcribe(
    ctx: RequestContext,
    asr: Annotated[SpeechModel, ModelRef(ModelRefSource.FIXED, "asr_main")],
    payload: AudioIn,
) -> TextOut:
    return TextOut(text=" ".join(asr(clip) for clip in payload.clips))
"""

SPEAKER = """
from typing import Iterator
import msgspec
from gen_worker import Repo, RequestContext, Resources, inference, invocable

class SayIn(msgspec.Struct):
    text: str

class AudioPiece(msgspec.Struct):
    text: str

@inference(models={"core": Repo("core_slot", "acme/tts").allow_override("acme.tts.Voice")},
           resources=Resources(accelerator="cuda", min_vram_gb=6))
class Speaker:
    def setup(self, core): self.core = core
    def warmup(self): self.core("ready")

    @invocable(name="say")
    def say(self, ctx: RequestContext, payload: SayIn) -> Iterator[AudioPiece]:
        for piece in self.core.stream(payload.text):
            ctx.raise_if_canceled()
            yield AudioPiece(text=piece)
"""

UNANNOTATED = """
import msgspec
from gen_worker import Repo, inference_function

class Input(msgspec.Struct):
    prompt: str

class Output(msgspec.Struct):
    text: str

@inference_function(models={"pipe": Repo("base_model", "acme/flux")})
def generate(ctx, pipe, payload: Input) -> Output:
    return Output(text=pipe(payload.prompt))
"""

FUNCTIONS = """
@inference_function
def bare(ctx: RequestContext, payload: Ask) -> Reply:
    return Reply(text="bare " + payload.text)

@inference_function()
def empty_parentheses(ctx, payload: Ask) -> Reply:
    return Reply(text="called " + payload.text)

@inference_function(label="Third", description="of its kind", timeout_ms=5000, name="third one")
def with_options(ctx, payload: Ask) -> Reply:
    return Reply(text="options " + payload.text)

@worker_function
def older_bare(ctx, payload: Ask) -> Reply:
    return Reply(text="older " + payload.text)

@worker_function(resources=ResourceRequirements(memory_hint_mb=10))
def older_called(ctx, payload: Ask) -> Reply:
    return Reply(text="older called " + payload.text)

@inference_function
async def awaited(ctx, payload: Ask) -> Reply:
    return Reply(text="async " + payload.text)

@inference_function
def any_names(context, question: Ask) -> Reply:
    return Reply(text=context.request_id[:0] + question.text)

@inference_function
def quoted_result(ctx, payload: Ask) -> "Reply":
    return Reply(text="later " + payload.text)
"""

STREAMS = """
@inference_function
def iterator(ctx, payload: Ask) -> Iterator[Reply]:
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
def iterable(ctx, payload: Ask) -> Iterable[Reply]:
    yield from (Reply(text=letter) for letter in payload.text)

@inference_function
def generator(ctx, payload: Ask) -> Generator[Reply, None, None]:
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
def returned(ctx, payload: Ask) -> Iterator[Reply]:
    return (Reply(text=letter) for letter in payload.text)

@inference_function
async def async_iterator(ctx, payload: Ask) -> AsyncIterator[Reply]:
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
async def async_iterable(ctx, payload: Ask) -> AsyncIterable[Reply]:
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
async def async_generator(ctx, payload: Ask) -> AsyncGenerator[Reply, None]:
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
def quoted(ctx, payload: Ask) -> "Iterator[Reply]":
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
def signals(ctx, payload: Ask) -> Iterator[IncrementalTokenDelta]:
    for letter in payload.text:
        yield IncrementalTokenDelta(text=letter)
    yield Done()
    yield IncrementalTokenDelta(text="never")

@worker_function()
def older_stream(ctx, payload: Ask) -> Iterator[Reply]:
    for letter in payload.text:
        yield Reply(text=letter)
"""

UNANNOTATED_STREAMS = """
@inference_function
def plain(ctx, payload: Ask):
    for letter in payload.text:
        yield Reply(text=letter)

@inference_function
async def awaiting(ctx, payload: Ask):
    for letter in payload.text:
        yield Reply(text=letter)
"""

CLASSES = """
@inference
class Counter:
    def setup(self):
        self.log = ["setup"]

    def warmup(self):
        self.log.append("warmup")

    @invocable
    def history(self, ctx: RequestContext, payload: Ask) -> Reply:
        self.log.append(payload.text)
        return Reply(text=" ".join(self.log))

    @inference.function(name="Spell It!", timeout_ms=9000)
    def spell(self, ctx, payload: Ask) -> Iterator[Reply]:
        for letter in payload.text:
            yield Reply(text=letter)

    @invocable.stage(gpu_class="small")
    def encode(self, text): ...

    def shutdown(self):
        self.log.append("shutdown")

@inference(label="Async")
class Awaiting:
    async def setup(self):
        self.word = "set"

    async def warmup(self):
        self.word += " warm"

    @invocable
    async def state(self, ctx, payload: Ask) -> Reply:
        return Reply(text=self.word)

    @invocable
    async def letters(self, ctx, payload: Ask) -> AsyncIterator[Reply]:
        for letter in payload.text:
            yield Reply(text=letter)

@inference(models={"core": Repo("acme/core"), "extra": HFRepo("Org/extra")})
class TakesAll:
    def setup(self, **models):
        self.models = models

    @invocable
    def listing(self, ctx, payload: Ask) -> Reply:
        return Reply(text=" ".join(f"{k}={self.models[k]}" for k in sorted(self.models)))
"""

BATCHES = """
@batched_inference
class Chat:
    async def setup(self):
        self.greeting = "hi "

    @batched_inference.function
    async def chat(self, ctx, payload: Ask) -> AsyncIterator[IncrementalTokenDelta]:
        yield IncrementalTokenDelta(text=self.greeting)
        yield IncrementalTokenDelta(text=payload.text, item_id="b")

@inference(batch_window_ms=5, max_batch=4)
class Together:
    def setup(self): ...

    @invocable
    def together(self, ctx: list[RequestContext], payload: list[Ask]) -> list[Reply]:
        return [Reply(text=f"{one.text} in {len(payload)}") for one in payload]

@inference_function(concurrency="sequential")
def one_by_one(ctx, payload: Ask) -> Reply:
    return Reply(text=payload.text)
"""

CASES = """
class Big(msgspec.Struct):
    text: str = "big"
    size: int = 9

base = Repo("core", "acme/base")

@inference(
    models={"core": base},
    parametrize=[
        Case("small"),
        Case("large", resources=Resources(min_vram_gb=40), model=Repo("acme/large"), input=Big),
    ],
)
class Many:
    def setup(self, core):
        self.core = core

    @invocable
    def describe_it(self, ctx, payload: Ask) -> Reply:
        return Reply(text=f"{self.core} {type(payload).__name__} {payload.text}")
"""

MODELS = """
class Kind(StringEnum):
    FAST = "fast"
    FINE = "fine"

class Pick(msgspec.Struct):
    text: str
    kind: Kind = Kind.FAST

small, large = Repo("acme/small"), CivitaiRepo("4384").version("128713")

@inference_function(models={"engine": dispatch("kind", {"fast": small, "fine": large})})
def picked(ctx, engine, payload: Pick) -> Reply:
    return Reply(text=f"{engine} {ctx.models['engine']['ref']}")

@inference_function(models={"engine": small.allow_override("acme.Engine").allow_lora(),
                            "helper": HFRepo("Org/Helper").dtype("bf16")})
def replaceable(ctx, payload: Ask, engine, helper) -> Reply:
    return Reply(text=f"{ctx.models['engine']['ref']}:{ctx.models['engine']['tag']} {helper}")

@inference(models={"engine": dispatch("kind", {Kind.FAST: small, Kind.FINE: large})})
class Shop:
    def setup(self): ...

    @invocable
    def bought(self, ctx, payload: Pick, engine) -> Reply:
        return Reply(text=f"{engine} {ctx.models['engine']['ref']}")
"""

OLDER_TOML = (
    TOML
    + """
[models]
main_one = "acme/main"

[models.older-pick]
fast = "acme/fast"
fine = "acme/fine:dev#bf16"
"""
)

OLDER = """
class Pick(msgspec.Struct):
    choice: str = "fast"

@worker_function()
def older_fixed(
    ctx: RequestContext,
    model: Annotated[str, ModelRef(ModelRefSource.FIXED, "main_one")],
    payload: Ask,
) -> Reply:
    return Reply(text=f"{model} {payload.text}")

@worker_function()
def older_pick(
    ctx: RequestContext,
    model: Annotated[str, ModelRef(ModelRefSource.PAYLOAD, "choice")],
    payload: Pick,
) -> Reply:
    return Reply(text=f"{model} {payload.choice}")

@worker_function()
def older_ref(
    ctx: RequestContext,
    model: Annotated[str, ModelRef(ModelRefSource.PAYLOAD_REF, "choice")],
    payload: Pick,
) -> Reply:
    return Reply(text=f"{model} {ctx.models['model']['ref']}")
"""

JOBS = """
from gen_worker.conversion import ProducedFlavor, training_function

class In(msgspec.Struct):
    source: SourceRepo
    destination: DestinationRepo
    outputs: list[OutputSpec] = []

class CastIn(msgspec.Struct):
    dtype: str = "bf16"

class Spec(msgspec.Struct):
    scheme: str = "fp8"

class Source:
    def __init__(self, path, *, attributes=None, ref=""):
        self.path, self.ref = path, ref

class Dataset:
    def __init__(self, ref, split, path, attributes): ...

def flavor(ctx, name):
    path = ctx.mktemp() / "model.safetensors"
    path.write_bytes(name.encode())
    return ProducedFlavor(path, flavor=name)

@worker_function()
def reserved(ctx: ConversionContext, payload: In) -> Reply:
    wanted = [output.attributes["dtype"] for output in payload.outputs]
    return Reply(text=f"{payload.source.ref} {payload.destination.tags} {wanted}")

@training_function(kind="quantization", calibration={"fp8": "beneficial"})
def quant(ctx: ConversionContext, source: Source, specs: list[Spec],
          datasets: list[Dataset]) -> list[ProducedFlavor]:
    return [flavor(ctx, spec.scheme) for spec in specs]

@training_function
def tune(ctx, source: Source, destination: DestinationRepo, steps: int = 3) -> list[ProducedFlavor]:
    return [flavor(ctx, f"{destination.ref.replace('/', '.')}-{steps}")]

@conversion(sub_kind="format-conversion", resources=Resources(accelerator="none"))
class Cast:
    def setup(self): ...
    @conversion.function(name="cast")
    def cast(self, ctx: ConversionContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        yield flavor(ctx, payload.dtype)

@training
class Tuner:
    def setup(self): ...
    @training.function
    def train(self, ctx: TrainingContext, payload: CastIn) -> list[ProducedFlavor]:
        return [flavor(ctx, payload.dtype)]

@dataset
class Rows:
    def setup(self): ...
    @dataset.function
    def rows(self, ctx: DatasetContext, payload: CastIn) -> Iterator[ProducedFlavor]:
        folder = ctx.mktemp()
        (folder / "dataset_info.json").write_text('{"features": {}, "kind": "text"}')
        (folder / "rows.jsonl").write_text("{}")
        yield ProducedFlavor(folder, flavor="rows")
"""

AB = [{"text": "a"}, {"text": "b"}]
DELTAS = [{"text": "a", "item_id": None}, {"text": "b", "item_id": None}]
JOB = {"source": {"ref": "{root}"}, "destination": {"ref": "acme/out", "tags": ["prod"]}}

SAMPLES = {
    "painter": Sample(
        PAINTER,
        {"paint": ({"prompt": "a hill", "quality": "final"}, {"caption": "A HILL"})},
        models={"engine": shout},
        main="painter.app",
    ),
    "voicelab": Sample(
        VOICELAB,
        {"transcribe": ({"clips": ["a", "b"]}, {"text": "A B"})},
        models={"asr": shout},
        main="voicelab.app",
        toml=VOICELAB_TOML,
    ),
    "speaker": Sample(
        SPEAKER,
        {"say": ({"text": "a b"}, AB)},
        models={"core": Voice()},
    ),
    "unannotated": Sample(
        UNANNOTATED,
        {"generate": ({"prompt": "hi"}, {"text": "HI"})},
        models={"pipe": shout},
    ),
    "functions": Sample(
        PREAMBLE + FUNCTIONS,
        {
            "bare": ({"text": "a"}, {"text": "bare a"}),
            "empty-parentheses": ({"text": "a"}, {"text": "called a"}),
            "third-one": ({"text": "a"}, {"text": "options a"}),
            "older-bare": ({"text": "a"}, {"text": "older a"}),
            "older-called": ({"text": "a"}, {"text": "older called a"}),
            "awaited": ({"text": "a"}, {"text": "async a"}),
            "any-names": ({"text": "a"}, {"text": "a"}),
            "quoted-result": ({"text": "a"}, {"text": "later a"}),
        },
    ),
    "streams": Sample(
        PREAMBLE + STREAMS,
        {
            **{
                name: ({"text": "ab"}, AB)
                for name in (
                    *("iterator", "iterable", "generator", "returned", "async-iterator"),
                    *("async-iterable", "async-generator", "quoted", "older-stream"),
                )
            },
            "signals": ({"text": "ab"}, DELTAS),
        },
    ),
    "unannotated_streams": Sample(
        PREAMBLE + UNANNOTATED_STREAMS,
        {name: ({"text": "ab"}, AB) for name in ("plain", "awaiting")},
    ),
    "classes": Sample(
        PREAMBLE + CLASSES,
        {
            "history": ({"text": "call"}, {"text": "setup warmup call"}),
            "spell-it": ({"text": "ab"}, AB),
            "state": ({}, {"text": "set warm"}),
            "letters": ({"text": "ab"}, AB),
            "listing": ({}, {"text": "core=CORE extra=EXTRA"}),
        },
        models={"core": "CORE", "extra": "EXTRA"},
    ),
    "batches": Sample(
        PREAMBLE + BATCHES,
        {
            "chat": (
                {"text": "you"},
                [{"text": "hi ", "item_id": None}, {"text": "you", "item_id": "b"}],
            ),
            "together": ({"text": "a"}, {"text": "a in 1"}),
            "one-by-one": ({"text": "a"}, {"text": "a"}),
        },
    ),
    "cases": Sample(
        PREAMBLE + CASES,
        {
            "small": ({"text": "a"}, {"text": "BASE Ask a"}),
            "large": ({}, {"text": "LARGE Big big"}),
        },
        models={"acme/base": "BASE", "acme/large": "LARGE"},
    ),
    "models": Sample(
        PREAMBLE + MODELS,
        {
            "picked": ({"text": "", "kind": "fine"}, {"text": "LARGE 4384"}),
            "replaceable": (
                {"text": "", "_models": {"engine": "acme/mine:dev"}},
                {"text": "acme/mine:dev HELPER"},
            ),
            "bought": ({"text": ""}, {"text": "SMALL acme/small"}),
        },
        models={"acme/small": "SMALL", "4384": "LARGE", "engine": "OTHER", "helper": "HELPER"},
    ),
    "older": Sample(
        PREAMBLE + OLDER,
        {
            "older-fixed": ({"text": "a"}, {"text": "MODEL a"}),
            "older-pick": ({"choice": "fine"}, {"text": "MODEL fine"}),
            "older-ref": ({"choice": "acme/any"}, {"text": "MODEL acme/any"}),
        },
        models={"model": "MODEL"},
        toml=OLDER_TOML,
    ),
    "jobs": Sample(
        PREAMBLE + JOBS,
        {
            "reserved": (
                {**JOB, "outputs": [{"attributes": {"dtype": "fp8"}}]},
                {"text": "{root} ['prod'] ['fp8']"},
            ),
            "quant": ({**JOB, "specs": [{"scheme": "int4"}, {}]}, ["int4", "fp8"]),
            "tune": ({**JOB, "steps": 7}, ["acme.out-7"]),
            "cast": ({**JOB, "dtype": "fp16"}, ["fp16"]),
            "train": ({**JOB, "dtype": "fp32"}, ["fp32"]),
            "rows": ({"destination": {"ref": "acme/rows"}}, ["rows"]),
        },
    ),
}
CALLS = [(name, function) for name, sample in SAMPLES.items() for function in sample.calls]


class Project(NamedTuple):
    root: Path
    main: str

    def discover(self) -> Discovery:
        return discover(self.root, self.main)


@pytest.fixture
def make_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Project]]:
    """Write samples as projects; what they add to this interpreter is removed again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def make(name: str) -> Project:
        sample = SAMPLES[name]
        main = sample.main or f"sample_{name}"
        (tmp_path / "endpoint.toml").write_text(
            sample.toml.replace("{main}", main), encoding="utf-8"
        )
        *packages, module = main.split(".")
        folder = tmp_path.joinpath("src", *packages)
        folder.mkdir(parents=True)
        if packages:
            (folder / "__init__.py").touch()
        (folder / f"{module}.py").write_text(sample.source)
        return Project(tmp_path, main)

    yield make
    for module in set(sys.modules) - known:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


def filled(value: Any, root: Path) -> Any:
    """Put the project's folder where a sample says `{root}`."""
    text = msgspec.json.encode(value).decode()
    return msgspec.json.decode(text.replace("{root}", str(root)))


def finish(tester: EndpointTester, call: Any) -> Any:
    """Wait for a call, and let the time of batches that still form pass."""
    for _ in range(3000):
        try:
            return call.wait(timeout_s=0.02)
        except TimeoutError:
            tester.clock.advance(0.001)
    raise AssertionError(f"{call} did not end")


@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_discovered_without_a_complaint(
    name: str, make_project: Callable[[str], Project]
) -> None:
    found = make_project(name).discover()
    assert [str(problem) for problem in (*found.problems, *found.warnings)] == []
    assert {spec.name for spec in found.functions} == set(SAMPLES[name].calls)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_builds_command_writes_its_lock(
    name: str, make_project: Callable[[str], Project]
) -> None:
    project = make_project(name)
    command = [sys.executable, "-W", "error", "-m", "gen_worker.discover"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project.root)
    assert done.returncode == 0, done.stderr
    lock = tomllib.loads(done.stdout)
    assert [function["name"] for function in lock["functions"]] == [
        spec.name for spec in project.discover().functions
    ]
    assert validate_endpoint_lock(lock).errors == []


@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_described(name: str, make_project: Callable[[str], Project]) -> None:
    project = make_project(name)
    functions = project.discover().functions
    loaded = load_project(project.root)
    endpoint = Endpoint(str(project.root), project.main, loaded.endpoint_name, functions, loaded)
    document = msgspec.json.decode(msgspec.json.encode(describe_endpoint(endpoint)))
    described = {entry["slug"]: entry for entry in document["functions"]}
    assert set(described) == set(SAMPLES[name].calls)
    for slug, (_, answer) in SAMPLES[name].calls.items():
        entry = described[slug]
        assert entry["input_schema"]["type"] == "object"
        if entry["kind"] == "inference":
            assert entry["is_generator"] == isinstance(answer, list)
        assert set(entry["models"]) == set(
            next(spec for spec in functions if spec.name == slug).bindings
        )


@pytest.mark.parametrize(("name", "function"), CALLS)
def test_it_answers(name: str, function: str, make_project: Callable[[str], Project]) -> None:
    project, sample = make_project(name), SAMPLES[name]
    payload, expected = filled(sample.calls[function], project.root)
    functions = list(project.discover().functions)
    with EndpointTester(functions, models=sample.models) as tester:
        result = finish(tester, tester.start(function, payload))
        assert result.failure is None, result.failure
        if "flavors" in msgspec.to_builtins(result.value):
            assert [flavor["flavor"] for flavor in result.value["flavors"]] == expected
        elif isinstance(expected, list):
            assert msgspec.to_builtins(result.deltas) == expected
            assert result.value == {"yielded": len(expected)}
        else:
            assert msgspec.to_builtins(result.value) == expected


@pytest.mark.parametrize(("name", "function"), CALLS)
def test_every_name_of_a_function_finds_it(
    name: str, function: str, make_project: Callable[[str], Project]
) -> None:
    functions = make_project(name).discover().functions
    (spec,) = (spec for spec in functions if spec.name == function)
    with EndpointTester(list(functions), models=SAMPLES[name].models) as tester:
        assert tester.engine.lookup(spec.registered_name) is spec
        assert tester.engine.lookup(spec.name) is spec


def test_a_class_is_set_up_once_warmed_up_and_shut_down(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("classes")
    functions = list(project.discover().functions)
    module = sys.modules[project.main]
    made: list[Any] = []
    original = module.Counter.setup

    def setup(self: Any) -> None:
        made.append(self)
        original(self)

    module.Counter.setup = setup
    with EndpointTester(functions, models=SAMPLES["classes"].models) as tester:
        assert tester.run("history", {"text": "1"}).value.text == "setup warmup 1"
        assert tester.run("history", {"text": "2"}).value.text == "setup warmup 1 2"
        assert len(made) == 1
    assert made[0].log == ["setup", "warmup", "1", "2", "shutdown"]


def test_calls_that_arrive_together_are_one_batch(make_project: Callable[[str], Project]) -> None:
    functions = list(make_project("batches").discover().functions)
    with EndpointTester(functions) as tester:
        calls = [tester.start("together", {"text": letter}) for letter in "abcd"]
        answers = [call.wait().value.text for call in calls]
    assert answers == [f"{letter} in 4" for letter in "abcd"]


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        ({"helper": "acme/mine"}, "model_override_not_allowed"),
        ({"engine": "acme/mine", "helper": "acme/mine"}, "model_override_not_allowed"),
        ({"nobody": "acme/mine"}, "unknown_override_param"),
    ],
)
def test_an_override_that_is_not_allowed_refuses_the_whole_call(
    overrides: dict[str, str], code: str, make_project: Callable[[str], Project]
) -> None:
    functions = list(make_project("models").discover().functions)
    with EndpointTester(functions, models=SAMPLES["models"].models) as tester:
        failure = tester.run("replaceable", {"text": "", "_models": overrides}).failure
    assert failure is not None
    assert (failure.error_type, failure.code, failure.exit_code) == ("validation", code, 2)


def test_the_lock_says_what_the_sample_declares(make_project: Callable[[str], Project]) -> None:
    """The product's own example of a lock, abridged as it is there."""
    project = make_project("painter")
    target = project.root / "endpoint.lock"
    command = [sys.executable, "-m", "gen_worker.discovery", "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True, cwd=project.root, env=os.environ)
    (function,) = tomllib.loads(target.read_text())["functions"]
    assert (
        function
        | {
            "name": "paint",
            "python_name": "paint",
            "module": "painter.app",
            "decorator": "inference_function",
            "output_mode": "single",
            "incremental_output": False,
            "payload_type": {"module": "painter.app", "qualname": "Ask"},
        }
        == function
    )
    assert (
        function["resources"] | {"requires_gpu": True, "min_vram_gb": 10.0}
        == (function["resources"])
    )
    engine = function["bindings"]["engine"]
    row = {"ref": "acme/painter", "tag": "prod", "provider": "tensorhub", "slot_name": "main_model"}
    assert engine == {
        "kind": "dispatch",
        "field": "quality",
        "slot_name": "main_model",
        "allow_override": False,
        "allow_lora": False,
        "pipeline_classes": [],
        "table": {"draft": {**row, "flavor": "int8"}, "final": {**row, "flavor": "bf16"}},
    }
    schema = function["input_schema"]
    assert (schema["title"], schema["type"], schema["required"]) == ("Ask", "object", ["prompt"])
    assert all(len(function[f"{part}_schema_sha256"]) == 64 for part in ("payload", "output"))
