"""What the class decorators make of a class, its methods, stages and rows."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Literal

import msgspec
import pytest

from gen_worker import (
    Case,
    ConversionContext,
    DatasetContext,
    RequestContext,
    Resources,
    TrainingContext,
    batched_inference,
    conversion,
    dataset,
    inference,
    invocable,
    training,
)
from gen_worker.spec import (
    Batching,
    ClassSpec,
    ContextParameter,
    FunctionSpec,
    ModelParameter,
    PayloadParameter,
    StageSpec,
    class_spec_of,
    specs_of,
)
from gen_worker.streaming import IncrementalTokenDelta, TokenStreamSignal
from gen_worker.types import ProducedFlavor


class FakeBinding:
    slot_name = ""
    dialect: Literal["binding", "injection"] = "binding"

    def __init__(self, *, is_per_call: bool = False) -> None:
        self.is_per_call = is_per_call

    def check(self, parameter: str, payload_type: type | None) -> None: ...
    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return {}

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


FIXED = FakeBinding()
PER_CALL = FakeBinding(is_per_call=True)


class In(msgspec.Struct):
    text: str


class OtherIn(msgspec.Struct):
    number: int


class Out(msgspec.Struct):
    text: str


def class_spec(cls: type) -> ClassSpec:
    spec = class_spec_of(cls)
    assert spec is not None
    return spec


def only(cls: type) -> FunctionSpec:
    (spec,) = specs_of(cls)
    return spec


def test_one_class_many_functions() -> None:
    @inference(
        label="Voices",
        description="All of them",
        resources=Resources(min_vram_gb=6),
        models={"core": FIXED, "voice": PER_CALL},
        allowed_shapes=[[1, 2]],
        sub_kind="speech",
        prefer_distilled=True,
    )
    class Speaker:
        def setup(self, core: "Out") -> None: ...
        async def warmup(self) -> None: ...
        def shutdown(self) -> None: ...

        @invocable(name="Say It", label="Say", timeout_ms=10, rate_limit_per_invoker=3)
        def say(self, ctx: RequestContext, payload: In, voice: Any) -> Iterator[Out]:
            yield Out(payload.text)

        @inference.function
        async def spell(self, ctx, payload: In) -> Out:  # type: ignore[no-untyped-def]
            return Out(payload.text)

        def helper(self) -> None: ...

        @inference.stage(gpu_class="small")
        def encode_text(self) -> None: ...

    spec = class_spec(Speaker)
    assert (spec.kind, spec.archetype, spec.name) == ("inference", "SerialWorker", "Speaker")
    assert (spec.has_setup, spec.has_warmup, spec.has_shutdown) == (True, True, True)
    assert spec.setup_parameters == (ModelParameter("core", FIXED, Out),)
    assert spec.stages == (
        StageSpec(python_name="encode_text", name="encode-text", gpu_class="small"),
    )
    assert (spec.file, spec.functions) == (__file__, specs_of(Speaker))

    say, spell = specs_of(Speaker)
    assert (say.name, say.registered_name, say.python_name) == ("say-it", "Say It", "say")
    assert (say.label, say.description) == ("Say", "All of them")
    assert (say.timeout_ms, say.rate_limit_per_invoker) == (10, 3)
    assert (say.shape, say.delta_type, say.result_type) == ("generator", Out, None)
    assert say.parameters == (
        ContextParameter("ctx"),
        PayloadParameter("payload", In),
        ModelParameter("voice", PER_CALL, Any),
    )
    assert list(say.bindings) == ["core", "voice"]
    assert (say.owner, say.decorator) == (Speaker, "@inference.function")
    assert say.qualname.endswith("Speaker.say")
    assert (spell.label, spell.shape, spell.sub_kind) == ("Voices", "async", "speech")
    assert spell.prefer_distilled
    assert spell.allowed_shapes == ((1, 2),)
    assert spell.resources.min_vram_gb == 6


def test_the_class_itself_is_returned_and_works_in_a_plain_test() -> None:
    class Speaker:
        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out(payload.text)

    assert inference(Speaker) is Speaker
    assert Speaker().say(RequestContext("t"), In("hi")) == Out("hi")
    assert not class_spec(Speaker).has_setup


def test_setup_takes_models_by_keyword() -> None:
    @inference(models={"core": FIXED, "voice": PER_CALL, "vae": FIXED})
    class Speaker:
        def setup(self, **models: Any) -> None: ...

        @invocable
        def say(self, ctx: RequestContext, payload: In, voice: Any) -> Out:
            return Out("")

    names = [parameter.name for parameter in class_spec(Speaker).setup_parameters]
    assert names == ["core", "vae"]


def test_marks_are_inherited_unless_overridden_without_one() -> None:
    class Base:
        @invocable
        def first(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

        @invocable
        def second(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    @inference
    class Child(Base):
        def first(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    assert [spec.name for spec in specs_of(Child)] == ["second"]
    assert specs_of(Base) == ()


def test_a_subclass_is_no_endpoint_by_itself() -> None:
    @inference
    class Speaker:
        @invocable
        def say(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    class Child(Speaker): ...

    assert specs_of(Child) == ()


def test_annotations_may_name_nested_and_local_types() -> None:
    class Local(msgspec.Struct):
        x: int

    @inference
    class Speaker:
        class Nested(msgspec.Struct):
            y: int

        @invocable
        def say(self, ctx: RequestContext, payload: "Nested") -> "Local":
            return Local(1)

    spec = only(Speaker)
    assert (spec.payload_type, spec.result_type) == (Speaker.Nested, Local)


class Flavors:
    def as_list(self, ctx: Any, payload: In) -> list[ProducedFlavor]:
        return []

    def as_iterator(self, ctx: Any, payload: In) -> Iterator[ProducedFlavor]:
        yield ProducedFlavor("x")

    def nothing(self, ctx: Any, payload: In) -> None: ...


@pytest.mark.parametrize(
    ("decorator", "kind", "context"),
    [
        (conversion, "conversion", ConversionContext),
        (conversion, "conversion", RequestContext),
        (training, "training", TrainingContext),
        (training, "training", ConversionContext),
        (dataset, "dataset", DatasetContext),
        (dataset, "dataset", None),
    ],
)
@pytest.mark.parametrize("method", ["as_list", "as_iterator", "nothing"])
def test_producing_kinds(decorator: Any, kind: str, context: Any, method: str) -> None:
    body = vars(Flavors)[method]

    def produce(self: Any, ctx: Any, payload: In) -> Any:
        return body(self, ctx, payload)

    produce.__annotations__ = dict(body.__annotations__, ctx=context or Any)
    cls = type("Produces", (), {"produce": decorator.function(produce)})
    spec = only(decorator(calibration={"fp8": "required"})(cls))
    assert spec.kind == kind
    assert spec.decorator == f"@{kind}.function"
    assert spec.calibration == {"fp8": "required"}
    expected = {
        "as_list": (list[ProducedFlavor], None, "single"),
        "as_iterator": (None, ProducedFlavor, "incremental"),
        "nothing": (None, None, "single"),
    }
    assert (spec.result_type, spec.delta_type, spec.output_mode) == expected[method]


def test_batched_inference_streams_on_one_loop() -> None:
    @batched_inference(models={"core": FIXED})
    class Chat:
        async def setup(self, core: Any) -> None: ...
        async def shutdown(self) -> None: ...

        @batched_inference.function(name="chat", timeout_ms=5)
        async def run(self, ctx, payload: In) -> AsyncIterator[TokenStreamSignal]:  # type: ignore[no-untyped-def]
            yield IncrementalTokenDelta(text="x")

    spec = only(Chat)
    assert class_spec(Chat).archetype == "BatchedWorker"
    assert (spec.shape, spec.delta_type) == ("async_generator", IncrementalTokenDelta)
    assert (spec.decorator, spec.timeout_ms) == ("@batched_inference.function", 5)


def test_a_runtime_makes_a_batched_worker_with_an_engine_in_setup() -> None:
    @inference(runtime="vllm", models={"core": FIXED})
    class Chat:
        def setup(self, engine: Any, core: Any) -> None: ...

        @invocable
        async def chat(self, ctx: RequestContext, payload: In) -> AsyncIterator[Out]:
            yield Out("")

    spec = class_spec(Chat)
    assert (spec.archetype, spec.runtime) == ("BatchedWorker", "vllm")
    assert [parameter.name for parameter in spec.setup_parameters] == ["core"]


def test_micro_batches_may_be_typed_as_lists_or_as_single_calls() -> None:
    @inference(batch_window_ms=5, max_batch=8)
    class Embed:
        @invocable
        def many(self, ctxs: list[RequestContext], payloads: list[In]) -> list[Out]:
            return [Out("") for _ in payloads]

        @invocable
        def older(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    for spec in specs_of(Embed):
        assert spec.batching == Batching(window_ms=5.0, max_batch=8)
        assert (spec.payload_type, spec.result_type) == (In, Out)


def test_each_row_is_a_function_of_its_own() -> None:
    big = Resources(min_vram_gb=40)

    @inference(
        resources=Resources(min_vram_gb=8),
        parametrize=[Case("small"), Case("Large One", resources=big, input=OtherIn)],
    )
    class Model:
        @invocable
        def run(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    small, large = specs_of(Model)
    assert [(s.name, s.registered_name, s.case) for s in (small, large)] == [
        ("small", "small", "small"),
        ("large-one", "Large One", "Large One"),
    ]
    assert (small.resources.min_vram_gb, large.resources.min_vram_gb) == (8, 40)
    assert (small.payload_type, large.payload_type) == (In, OtherIn)
    assert large.parameters[1] == PayloadParameter("payload", OtherIn)
    assert small.owner is large.owner is Model


def test_a_row_with_its_own_fixed_model_has_its_own_instance() -> None:
    other = FakeBinding()

    @inference(models={"core": FIXED}, parametrize=[Case("a"), Case("b", model=other)])
    class Model:
        def setup(self, core: Any) -> None: ...

        @invocable
        def run(self, ctx: RequestContext, payload: In) -> Out:
            return Out("")

    a, b = specs_of(Model)
    assert a.owner is Model
    assert b.owner is not None
    assert b.owner is not Model
    assert issubclass(b.owner, Model)
    assert (b.owner.__module__, b.owner.__qualname__) == (Model.__module__, Model.__qualname__)
    assert a.bindings["core"].binding is FIXED
    assert b.bindings["core"].binding is other
    assert specs_of(b.owner) == (b,)
    assert class_spec(b.owner).cls is b.owner


def test_a_row_replaces_a_model_chosen_per_call_in_place() -> None:
    other = FakeBinding(is_per_call=True)

    @inference(models={"voice": PER_CALL}, parametrize=[Case("a", model=other)])
    class Model:
        @invocable
        def run(self, ctx: RequestContext, payload: In, voice: Any) -> Out:
            return Out("")

    assert only(Model).models["voice"].binding is other
    assert only(Model).owner is Model


def test_decorators_share_their_marks() -> None:
    for decorator in (inference, training, dataset, conversion):
        assert decorator.function is invocable
        assert decorator.stage is invocable.stage
