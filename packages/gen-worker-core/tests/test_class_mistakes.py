"""Every mistake in a decorated class has its code and its exception."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, Literal

import msgspec
import pytest

from gen_worker import (
    Case,
    ConversionContext,
    DatasetContext,
    DefinitionError,
    RequestContext,
    Resources,
    batched_inference,
    conversion,
    dataset,
    inference,
    invocable,
    training,
)
from gen_worker.endpoint.problems import DEFINITION_CODES
from gen_worker.types import ProducedFlavor


class FakeBinding:
    slot_name = ""
    dialect: Literal["binding", "injection"] = "binding"

    def __init__(self, *, is_per_call: bool = False) -> None:
        self.is_per_call = is_per_call

    def check(self, parameter: str, payload_type: type | None) -> None:
        if self.is_per_call and not hasattr(payload_type, "quality"):
            raise ValueError(f"{payload_type!r} has no field 'quality'")

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


class Graded(msgspec.Struct):
    quality: str


class Reserved(msgspec.Struct):
    overrides: str = msgspec.field(name="_models", default="")


class Out(msgspec.Struct):
    text: str


# Method bodies to build classes of.
def sync(self: Any, ctx: RequestContext, payload: In) -> Out:
    return Out("")


def streaming(self: Any, ctx: RequestContext, payload: In) -> Iterator[Out]:
    yield Out("")


async def coroutine(self: Any, ctx: RequestContext, payload: In) -> Out:
    return Out("")


async def async_streaming(self: Any, ctx: RequestContext, payload: In) -> AsyncIterator[Out]:
    yield Out("")


async def async_as_iterator(self: Any, ctx: RequestContext, payload: In) -> Iterator[Out]:
    return iter(())


def with_voice(self: Any, ctx: RequestContext, payload: Graded, voice: Any) -> Out:
    return Out("")


def wrong_voice(self: Any, ctx: RequestContext, payload: In, voice: Any) -> Out:
    return Out("")


def reserved(self: Any, ctx: RequestContext, payload: Reserved) -> Out:
    return Out("")


def extra(self: Any, ctx: RequestContext, payload: In, engine: Any) -> Out:
    return Out("")


def no_payload(self: Any, ctx: RequestContext, payload: dict[str, str]) -> Out:
    return Out("")


def compute(self: Any, ctx: RequestContext, payload: In, compute: Any) -> Out:
    return Out("")


def listed(self: Any, ctx: Any, payload: list[In]) -> list[Out]:
    return []


def listed_with_voice(self: Any, ctx: Any, payload: list[Graded], voice: Any) -> list[Out]:
    return []


def flavors(self: Any, ctx: ConversionContext, payload: In) -> list[ProducedFlavor]:
    return []


def dataset_flavors(self: Any, ctx: DatasetContext, payload: In) -> list[ProducedFlavor]:
    return []


async def async_flavors(self: Any, ctx: Any, payload: In) -> list[ProducedFlavor]:
    return []


def produces_struct(self: Any, ctx: Any, payload: In) -> Out:
    return Out("")


def yields_struct(self: Any, ctx: Any, payload: In) -> Iterator[Out]:
    yield Out("")


def setup(self: Any) -> None: ...
def setup_core(self: Any, core: Any) -> None: ...
def setup_voice(self: Any, voice: Any) -> None: ...
def setup_unbound(self: Any, core: Any, missing: Any) -> None: ...
def setup_positional(self: Any, core: Any, /) -> None: ...
def setup_without_self() -> None: ...
async def async_hook(self: Any) -> None: ...
def hook_with_argument(self: Any, argument: Any) -> None: ...
def init_with_argument(self: Any, argument: Any) -> None: ...


def build(*methods: Callable[..., Any], mark: Any = invocable, **members: Any) -> type:
    """Make a class of these functions, each marked and named as written."""
    marked: dict[str, Any] = {}
    for method in methods:
        copy = FunctionType(method.__code__, globals(), method.__name__)
        copy.__annotations__ = dict(method.__annotations__)
        marked[method.__name__] = mark(copy)
    return type("Built", (), {**marked, **members})


def named(name: Any) -> Any:
    return invocable(name=name)


def stage(**options: Any) -> Any:
    def prepare(self: Any) -> None: ...

    return invocable.stage(**options)(prepare)


def case(name: Any, **fields: Any) -> Case:
    return Case(name, **fields)


BATCH: dict[str, Any] = {"batch_window_ms": 4, "max_batch": 4}

ROWS: list[tuple[Any, dict[str, Any], Callable[[], Any], str, type[Exception]]] = [
    # the class
    (inference, {}, lambda: sync, "not_a_class", TypeError),
    (batched_inference, {}, lambda: sync, "not_a_class", TypeError),
    (inference, {}, lambda: inference(build(sync)), "decorated_twice", ValueError),
    (inference, {}, build, "no_functions", ValueError),
    (
        inference,
        {},
        lambda: build(sync, __init__=init_with_argument),
        "constructor_arguments",
        ValueError,
    ),
    # hooks
    (inference, {}, lambda: build(sync, setup=setup_unbound), "invalid_hook", ValueError),
    (inference, {}, lambda: build(sync, setup=setup_without_self), "invalid_hook", ValueError),
    (inference, {}, lambda: build(sync, setup=7), "invalid_hook", TypeError),
    (inference, {}, lambda: build(sync, warmup=hook_with_argument), "invalid_hook", ValueError),
    (inference, {}, lambda: build(sync, shutdown=hook_with_argument), "invalid_hook", ValueError),
    (inference, {}, lambda: build(sync, shutdown=async_hook), "invalid_hook", ValueError),
    # models
    (inference, {"models": {"core": "acme/x"}}, lambda: build(sync), "invalid_models", TypeError),
    (
        inference,
        {"models": {"core": FIXED}},
        lambda: build(sync),
        "unknown_model_parameter",
        ValueError,
    ),
    (
        inference,
        {"models": {"core": FIXED}},
        lambda: build(sync, setup=setup),
        "unknown_model_parameter",
        ValueError,
    ),
    (
        inference,
        {"models": {"core": FIXED}},
        lambda: build(sync, setup=setup_positional),
        "unknown_model_parameter",
        ValueError,
    ),
    (
        inference,
        {"models": {"voice": PER_CALL}},
        lambda: build(with_voice, setup=setup_voice),
        "model_in_setup",
        ValueError,
    ),
    (
        inference,
        {"models": {"voice": PER_CALL}},
        lambda: build(sync),
        "unknown_model_parameter",
        ValueError,
    ),
    (
        inference,
        {"models": {"voice": PER_CALL}},
        lambda: build(wrong_voice),
        "binding_mismatch",
        ValueError,
    ),
    # engines and batches
    (inference, {"runtime": "triton"}, lambda: build(coroutine), "invalid_runtime", ValueError),
    (inference, {"runtime": "vllm"}, lambda: build(sync), "invalid_runtime", ValueError),
    (inference, {"max_batch": 4}, lambda: build(sync), "invalid_batching", ValueError),
    (inference, {"batch_window_ms": 4}, lambda: build(sync), "invalid_batching", ValueError),
    (
        inference,
        BATCH | {"batch_window_ms": 0},
        lambda: build(sync),
        "invalid_batching",
        ValueError,
    ),
    (
        inference,
        BATCH | {"batch_window_ms": "4"},
        lambda: build(sync),
        "invalid_batching",
        ValueError,
    ),
    (inference, BATCH | {"max_batch": 1}, lambda: build(sync), "invalid_batching", ValueError),
    (inference, BATCH, lambda: build(coroutine), "invalid_batching", ValueError),
    (inference, BATCH, lambda: build(streaming), "invalid_batching", ValueError),
    (inference, {}, lambda: build(listed), "invalid_batching", ValueError),
    (
        inference,
        BATCH | {"models": {"voice": PER_CALL}},
        lambda: build(listed_with_voice),
        "invalid_batching",
        ValueError,
    ),
    # rows
    (
        inference,
        {"parametrize": [Case("a")]},
        lambda: build(sync, streaming),
        "invalid_case",
        ValueError,
    ),
    (inference, {"parametrize": [Case("a")]}, build, "invalid_case", ValueError),
    (inference, {"parametrize": []}, lambda: build(sync), "invalid_case", ValueError),
    (inference, {"parametrize": ["a"]}, lambda: build(sync), "invalid_case", TypeError),
    (inference, {"parametrize": Case("a")}, lambda: build(sync), "invalid_case", TypeError),
    (inference, {"parametrize": [Case(" ")]}, lambda: build(sync), "invalid_name", ValueError),
    (inference, {"parametrize": [case(3)]}, lambda: build(sync), "invalid_name", TypeError),
    (
        inference,
        {"parametrize": [Case("a_b"), Case("A-B")]},
        lambda: build(sync),
        "duplicate_name",
        ValueError,
    ),
    (
        inference,
        {"models": {"core": FIXED}, "parametrize": [case("a", model="acme/x")]},
        lambda: build(sync, setup=setup_core),
        "invalid_case",
        TypeError,
    ),
    (
        inference,
        {"parametrize": [Case("a", model=FIXED)]},
        lambda: build(sync),
        "invalid_case",
        ValueError,
    ),
    (
        inference,
        {"models": {"core": FIXED}, "parametrize": [Case("a", model=PER_CALL)]},
        lambda: build(sync, setup=setup_core),
        "invalid_case",
        ValueError,
    ),
    (
        inference,
        {"parametrize": [case("a", input=dict)]},
        lambda: build(sync),
        "invalid_case",
        TypeError,
    ),
    (
        inference,
        {"parametrize": [case("a", resources=3)]},
        lambda: build(sync),
        "invalid_resources",
        TypeError,
    ),
    (
        inference,
        {"models": {"voice": PER_CALL}, "parametrize": [Case("a", input=In)]},
        lambda: build(with_voice),
        "binding_mismatch",
        ValueError,
    ),
    # methods and stages
    (inference, {}, lambda: build(sync, mark=named("!!")), "invalid_name", ValueError),
    (inference, {}, lambda: build(sync, mark=named(3)), "invalid_name", TypeError),
    (inference, {}, lambda: build(sync, streaming, mark=named("x")), "duplicate_name", ValueError),
    (
        inference,
        {},
        lambda: build(sync, mark=invocable(timeout_ms=-1)),
        "invalid_option",
        ValueError,
    ),
    (
        inference,
        {},
        lambda: build(sync, mark=invocable(allowed_shapes=[[0]])),
        "invalid_option",
        ValueError,
    ),
    (
        inference,
        {},
        lambda: build(sync, mark=lambda method: staticmethod(invocable(method))),
        "not_a_function",
        TypeError,
    ),
    (inference, {}, lambda: build(sync, s=stage(gpu_class="huge")), "invalid_stage", ValueError),
    (inference, {}, lambda: build(sync, s=stage(name="..")), "invalid_name", ValueError),
    (inference, {}, lambda: build(sync, s=stage(name=3)), "invalid_name", TypeError),
    (
        inference,
        {},
        lambda: build(sync, s=stage(name="x_y"), t=stage(name="X-Y")),
        "duplicate_name",
        ValueError,
    ),
    (batched_inference, {}, lambda: build(async_streaming, s=stage()), "invalid_stage", ValueError),
    (batched_inference, {}, lambda: build(coroutine), "not_a_stream", TypeError),
    (
        inference,
        {},
        lambda: build(streaming, mark=batched_inference.function),
        "not_a_stream",
        TypeError,
    ),
    # signatures
    (inference, {}, lambda: build(reserved), "reserved_field", ValueError),
    (inference, {}, lambda: build(extra), "unbound_parameter", ValueError),
    (inference, {}, lambda: build(no_payload), "payload_missing", ValueError),
    (inference, {}, lambda: build(compute), "reserved_parameter", ValueError),
    (inference, {}, lambda: build(async_as_iterator), "return_shape", ValueError),
    (
        inference,
        {"resources": Resources(vram_scales_with=["size"])},
        lambda: build(sync),
        "unknown_payload_field",
        ValueError,
    ),
    # producing kinds
    (dataset, {}, lambda: build(flavors), "context_annotation", ValueError),
    (conversion, {}, lambda: build(dataset_flavors), "context_annotation", ValueError),
    (training, {}, lambda: build(dataset_flavors), "context_annotation", ValueError),
    (conversion, {}, lambda: build(async_flavors), "async_not_allowed", ValueError),
    (training, {}, lambda: build(produces_struct), "return_type", ValueError),
    (conversion, {}, lambda: build(yields_struct), "return_type", ValueError),
    # options
    (inference, {"label": 3}, lambda: build(sync), "invalid_option", TypeError),
    (inference, {"sub_kind": 3}, lambda: build(sync), "invalid_option", TypeError),
    (inference, {"prefer_distilled": "yes"}, lambda: build(sync), "invalid_option", TypeError),
    (inference, {"allowed_shapes": "8x8"}, lambda: build(sync), "invalid_option", ValueError),
    (inference, {"resources": 3}, lambda: build(sync), "invalid_resources", TypeError),
    (
        conversion,
        {"calibration": {"fp8": "sometimes"}},
        lambda: build(flavors),
        "invalid_calibration",
        TypeError,
    ),
]


@pytest.mark.parametrize(("decorator", "options", "make", "code", "error"), ROWS)
def test_mistakes(
    decorator: Any,
    options: dict[str, Any],
    make: Callable[[], Any],
    code: str,
    error: type[Exception],
) -> None:
    target = make()
    with pytest.raises(error) as caught:
        decorator(target, **options)
    assert isinstance(caught.value, DefinitionError)
    assert code in [problem.code for problem in caught.value.problems]
    if error is ValueError:
        assert not isinstance(caught.value, TypeError)


def test_the_classes_of_the_table_are_right_otherwise() -> None:
    """Without its mistake each body is accepted, so the table tests what it says."""
    inference(build(sync, streaming, coroutine, async_streaming, setup=setup, warmup=async_hook))
    inference(models={"core": FIXED})(build(sync, setup=setup_core))
    inference(models={"voice": PER_CALL})(build(with_voice))
    inference(batch_window_ms=4, max_batch=4)(build(listed))
    conversion(build(flavors))
    dataset(build(dataset_flavors))
    batched_inference(build(async_streaming, shutdown=async_hook))


def test_every_code_is_documented() -> None:
    assert {row[3] for row in ROWS} <= set(DEFINITION_CODES)


def test_all_mistakes_of_a_class_come_in_one_report_with_their_places() -> None:
    broken = build(no_payload, compute, setup=setup_unbound, shutdown=async_hook)
    with pytest.raises(DefinitionError) as caught:
        inference(runtime=None, max_batch=0)(broken)
    found = [(problem.code, problem.message.split(":")[0]) for problem in caught.value.problems]
    assert found == [
        ("invalid_batching", "Built"),
        ("invalid_batching", "Built"),
        ("invalid_hook", "Built.setup"),
        ("invalid_hook", "Built.setup"),
        ("invalid_hook", "Built"),
        ("payload_missing", "Built.no_payload"),
        ("reserved_parameter", "Built.compute"),
    ]
    places = {problem.message.split(":")[0]: problem for problem in caught.value.problems}
    assert places["Built.compute"].line == compute.__code__.co_firstlineno
    assert places["Built.setup"].line == setup_unbound.__code__.co_firstlineno
    assert {problem.file for problem in caught.value.problems} == {__file__}


def test_options_of_a_mark_are_keywords() -> None:
    with pytest.raises(TypeError, match="pass options by keyword"):
        invocable("say")  # type: ignore[call-overload]


def test_the_exception_behind_a_mistake_is_kept() -> None:
    with pytest.raises(DefinitionError) as caught:
        inference(models={"voice": PER_CALL})(build(wrong_voice))
    assert "has no field 'quality'" in str(caught.value.__cause__)


def test_a_bound_method_cannot_be_marked() -> None:
    with pytest.raises(DefinitionError) as caught:
        invocable(FIXED.describe)
    assert caught.value.code == "not_a_function"


def wrong_list(self: Any, ctx: int, asks: list[In]) -> list[Out]:
    return []


def wrong_plain(self: Any, ctx: int, ask: In) -> Out:
    return Out("")


@pytest.mark.parametrize(
    ("decorate", "method", "sentence"),
    [
        (
            inference(**BATCH),
            wrong_list,
            "'ctx' receives the contexts of a batch of inference functions, not int: "
            "annotate it with list[RequestContext], or leave the annotation out",
        ),
        (
            inference,
            wrong_plain,
            "'ctx' receives the context of inference functions, not int: "
            "annotate it with a context class of gen_worker, or leave the annotation out",
        ),
    ],
)
def test_a_wrong_context_is_told_what_to_write(
    decorate: Callable[..., Any], method: FunctionType, sentence: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        decorate(build(method))
    assert str(caught.value) == f"Built.{method.__name__}: {sentence} [context_annotation]"


async def async_listed(self: Any, ctx: Any, asks: list[In]) -> list[Out]:
    return []


@pytest.mark.parametrize(
    ("options", "method", "sentence"),
    [
        (BATCH | {"max_batch": 1}, listed, "max_batch must be an int of at least 2, not 1"),
        (
            BATCH | {"batch_window_ms": 0},
            listed,
            "batch_window_ms must be a number above 0, not 0",
        ),
        ({"max_batch": 4}, listed, "max_batch is given without batch_window_ms: give both"),
        (
            BATCH,
            async_listed,
            "calls are collected for plain methods that return one struct per call: make the "
            "methods sync and single-output, or drop batch_window_ms and max_batch",
        ),
    ],
)
def test_one_batching_mistake_is_one_message(
    options: dict[str, Any], method: FunctionType, sentence: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        inference(**options)(build(method))
    assert str(caught.value) == f"Built: {sentence} [invalid_batching]"
