"""The shapes authors copy, written with the real bindings, and their checks in every dialect."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest

from gen_worker import (
    DefinitionError,
    Repo,
    RequestContext,
    Resources,
    dispatch,
    inference,
    inference_function,
    invocable,
    worker_function,
)
from gen_worker.models.dispatching import Dispatch
from gen_worker.models.injection import ModelRef
from gen_worker.spec import FunctionSpec, class_spec_of, specs_of

FUNCTION = """
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

UNANNOTATED = """
import msgspec
from gen_worker import Repo, inference_function

class Input(msgspec.Struct):
    prompt: str

class Output(msgspec.Struct):
    text: str

@inference_function(models={"pipe": Repo("acme/painter")})
def generate(ctx, pipe, payload: Input) -> Output:
    return Output(text=pipe(payload.prompt))
"""

INJECTION = """
import msgspec
from typing import Annotated
from gen_worker import ModelRef, ModelRefSource, RequestContext, worker_function

class SpeechModel: ...

class AudioIn(msgspec.Struct):
    audio: str

class TextOut(msgspec.Struct):
    text: str

@worker_function()
def transcribe(
    ctx: RequestContext,
    asr: Annotated[SpeechModel, ModelRef(ModelRefSource.FIXED, "asr_main")],
    payload: AudioIn,
) -> TextOut: ...
"""

CLASS = """
import msgspec
from collections.abc import Iterator
from gen_worker import Repo, RequestContext, Resources, inference, invocable

class SayIn(msgspec.Struct):
    text: str

class AudioPiece(msgspec.Struct):
    audio_chunk: bytes

@inference(models={"core": Repo("core_slot", "acme/tts").allow_override("acme.tts.Voice")},
           resources=Resources(accelerator="cuda", min_vram_gb=6))
class Speaker:
    def setup(self, core): self.core = core
    def warmup(self): self.core("ready")

    @invocable(name="say")
    def say(self, ctx: RequestContext, payload: SayIn) -> Iterator[AudioPiece]:
        for piece in self.core.stream(payload.text):
            ctx.raise_if_canceled()
            yield piece
"""


@pytest.fixture(params=["", "from __future__ import annotations\n"], ids=["plain", "postponed"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], dict[str, Any]]:
    """Run a sample as a module, with its annotations as objects and as text."""

    def run_sample(source: str) -> dict[str, Any]:
        module = ModuleType("sample")
        monkeypatch.setitem(sys.modules, "sample", module)
        exec(request.param + source, vars(module))
        return vars(module)

    return run_sample


def spec_of(endpoint: Any) -> FunctionSpec:
    (spec,) = specs_of(endpoint)
    return spec


def test_a_function_picks_its_model_by_a_payload_field(run: Callable[[str], Any]) -> None:
    sample = run(FUNCTION)
    spec = spec_of(sample["paint"])
    assert spec.payload_type is sample["Ask"]
    assert isinstance(spec.models["engine"].binding, Dispatch)
    assert spec.resources.needs_gpu
    assert sample["paint"](RequestContext("t"), str.upper, sample["Ask"]("hi")).caption == "HI"


def test_nothing_but_payload_and_result_needs_an_annotation(run: Callable[[str], Any]) -> None:
    sample = run(UNANNOTATED)
    spec = spec_of(sample["generate"])
    assert [parameter.name for parameter in spec.parameters] == ["ctx", "pipe", "payload"]
    assert sample["generate"](None, str.upper, sample["Input"]("hi")).text == "HI"


def test_a_worker_function_annotates_its_models(run: Callable[[str], Any]) -> None:
    sample = run(INJECTION)
    model = spec_of(sample["transcribe"]).models["asr"]
    assert isinstance(model.binding, ModelRef)
    assert model.annotation is sample["SpeechModel"]


def test_a_class_gets_its_models_in_setup(run: Callable[[str], Any]) -> None:
    sample = run(CLASS)
    spec = spec_of(sample["Speaker"])
    owner = class_spec_of(sample["Speaker"])
    assert owner is not None
    assert [parameter.name for parameter in owner.setup_parameters] == ["core"]
    assert (spec.name, spec.shape, spec.delta_type) == ("say", "generator", sample["AudioPiece"])
    assert list(spec.bindings) == ["core"]


# The same mistakes, however the endpoint is written.
class Ask(msgspec.Struct):
    prompt: str
    quality: Literal["draft", "final"] = "draft"


class Reply(msgspec.Struct):
    caption: str


class Options(NamedTuple):
    models: dict[str, Any]
    resources: Resources = Resources()


def as_function(options: Options) -> object:
    @inference_function(models=options.models, resources=options.resources)
    def paint(ctx: RequestContext, engine: Any, ask: Ask) -> Reply:
        return Reply("")

    return paint


def as_class(options: Options) -> object:
    @inference(models=options.models, resources=options.resources)
    class Painter:
        @invocable
        def paint(self, ctx: RequestContext, ask: Ask, engine: Any) -> Reply:
            return Reply("")

    return Painter


def as_worker_function(options: Options) -> object:
    def paint(ctx: RequestContext, engine: Any, ask: Ask) -> Reply:
        return Reply("")

    paint.__annotations__["engine"] = Annotated[Any, options.models["engine"]]
    return worker_function(options.resources)(paint)


WEIGHTS = Repo("acme/painter")
WHOLE = dispatch("quality", {"draft": WEIGHTS, "final": WEIGHTS})


@pytest.mark.parametrize("define", [as_function, as_class, as_worker_function])
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options({"engine": dispatch("qual", {"draft": WEIGHTS})}), "model_field_unknown"),
        (Options({"engine": dispatch("prompt", {"draft": WEIGHTS})}), "dispatch_field_type"),
        (Options({"engine": dispatch("quality", {"draft": WEIGHTS})}), "dispatch_table"),
        (
            Options({"engine": dispatch("quality", {"draft": WEIGHTS, "best": WEIGHTS})}),
            "dispatch_table",
        ),
        (
            Options({"engine": WHOLE}, Resources(vram_scales_with=["size"])),
            "unknown_payload_field",
        ),
    ],
)
def test_every_dialect_checks_the_same(
    define: Callable[[Options], object], options: Options, code: str
) -> None:
    assert specs_of(define(Options({"engine": WHOLE}, Resources(vram_scales_with=["prompt"]))))
    with pytest.raises(DefinitionError) as caught:
        define(options)
    assert code in [problem.code for problem in caught.value.problems]
