"""Models are fetched before a call has a slot, leased while it has one, and given back."""

from typing import Any, Literal

import msgspec
import pytest

from gen_worker import Repo, RequestContext, Resources, dispatch, inference_function
from gen_worker.errors import ModelResolutionError
from gen_worker.events import Emitted
from gen_worker.ports import NOBODY, ModelRequest
from gen_worker.testing import EndpointTester, PreparedModel

PAINTER = Repo("painter", "acme/painter")


class Ask(msgspec.Struct):
    text: str = "a"
    quality: Literal["draft", "final"] = "draft"


class Answer(msgspec.Struct):
    text: str


@inference_function(models={"brush": PAINTER})
def paint(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
    return Answer(brush(ask.text))


@inference_function(models={"brush": PAINTER})
async def paint_async(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
    return Answer(brush(ask.text))


@inference_function(models={"brush": PAINTER.allow_override("any.Pipeline")})
def paint_with(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
    return Answer(f"{brush}: {ctx.models['brush']['ref']}")


@inference_function(
    models={"brush": dispatch("quality", {"draft": PAINTER.flavor("int8"), "final": PAINTER})}
)
def paint_by_quality(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
    return Answer(f"{brush} {ctx.models['brush'].get('flavor', '')}")


WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


@WAYS
@pytest.mark.parametrize("function", [paint, paint_async])
def test_a_function_receives_its_models(function: Any, is_inline: bool) -> None:
    with EndpointTester(function, models={"brush": str.upper}, is_inline=is_inline) as tester:
        assert tester.run(function, {"text": "x"}).value == Answer("X")
        assert [p.parameter for p in tester.models.prepared] == ["brush"]
        assert tester.models.prepared[0].choice["ref"] == "acme/painter"
        assert tester.models.leased == []


@WAYS
def test_the_payload_selects_a_model(is_inline: bool) -> None:
    with EndpointTester(paint_by_quality, models={"brush": "b"}, is_inline=is_inline) as tester:
        assert tester.run(paint_by_quality, Ask()).value == Answer("b int8")
        assert tester.run(paint_by_quality, Ask(quality="final")).value == Answer("b ")


@pytest.mark.parametrize("where", ["payload", "invocation", "both"])
def test_a_caller_brings_a_model_of_their_own(where: str) -> None:
    models = {"brush": "ours", "bob/brush": "bob's", "eve/brush": "eve's"}
    payload: dict[str, Any] = {"text": "x"}
    fields: dict[str, Any] = {}
    if where != "invocation":
        payload["_models"] = {"brush": "bob/brush:prod#bf16"}
    if where != "payload":
        fields["overrides"] = {"brush": {"ref": "eve/brush"}}
    with EndpointTester(paint_with, models=models) as tester:
        value = tester.run(paint_with, payload, **fields).value
        expected = {"payload": "bob", "invocation": "eve", "both": "eve"}[where]
        assert value == Answer(f"{expected}'s: {expected}/brush")


def test_an_override_that_is_not_allowed_refuses_the_call() -> None:
    with EndpointTester(paint, models={"brush": str.upper}) as tester:
        result = tester.run(paint, {"_models": {"brush": "bob/brush"}})
        assert result.failure is not None
        assert result.failure.code == "model_override_not_allowed"
        assert result.failure.origin == "input"
        assert not result.events, "the handler was not called"
        assert tester.models.prepared == []


@WAYS
@pytest.mark.parametrize("method", ["models.prepare", "models.lease"])
def test_a_model_that_cannot_be_had_fails_the_call(method: str, is_inline: bool) -> None:
    with EndpointTester(paint, models={"brush": str.upper}, is_inline=is_inline) as tester:
        tester.fail(method, ModelResolutionError("no such repository"))
        failure = tester.run(paint).failure
        assert failure is not None
        assert (failure.error_type, failure.exit_code) == ("artifact_transfer", 3)
        assert tester.run(paint).failure is None


def test_a_model_the_test_forgot_is_named() -> None:
    with EndpointTester(paint) as tester:
        failure = tester.run(paint).failure
        assert failure is not None
        assert "models={'brush': …}" in failure.message


class OutOfMemoryError(RuntimeError):
    """Known by its name, as torch's is."""


class Hungry:
    """A model that runs out of memory a few times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self, text: str) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise OutOfMemoryError("CUDA out of memory: tried to allocate 2 GiB at 0x7f")
        return text


@WAYS
@pytest.mark.parametrize("function", [paint, paint_async])
@pytest.mark.parametrize("times", [1, 2])
def test_out_of_memory_is_tried_again_with_less(function: Any, times: int, is_inline: bool) -> None:
    brush = Hungry(times)
    with EndpointTester(function, models={"brush": brush}, is_inline=is_inline) as tester:
        result = tester.run(function, {"text": "x"})
        assert result.value == Answer("x")
        assert len(tester.models.escalations) == times
        retries = [e for e in result.events if isinstance(e, Emitted)]
        assert [(e.type, e.payload) for e in retries] == [
            ("inference.oom_retry", {"function_name": result_name(function), "attempt": attempt})
            for attempt in range(1, times + 1)
        ]


def result_name(function: Any) -> str:
    name: str = function.__name__
    return name.replace("_", "-")


def test_the_third_failure_is_final() -> None:
    brush = Hungry(3)
    with EndpointTester(paint, models={"brush": brush}) as tester:
        failure = tester.run(paint).failure
        assert failure is not None
        assert (failure.error_type, failure.message) == ("resource", "out of memory")
        assert brush.calls == 3


def test_nothing_left_to_give_up_ends_it_at_once() -> None:
    brush = Hungry(3)
    with EndpointTester(paint, models={"brush": brush}) as tester:
        tester.models.escalates = False
        assert tester.run(paint).failure is not None
        assert brush.calls == 1


def test_a_failed_attempt_keeps_nothing_alive() -> None:
    """Its traceback would hold the tensors that filled the memory."""
    import gc
    import weakref

    class Tensor:
        pass

    alive: list[Any] = []

    def brush(text: str) -> str:
        tensor = Tensor()
        if not alive:
            alive.append(weakref.ref(tensor))
            raise OutOfMemoryError
        gc.collect()
        alive.append(alive[0]() is None)
        return text

    with EndpointTester(paint, models={"brush": brush}) as tester:
        assert tester.run(paint).failure is None
    assert alive[1] is True


@inference_function(
    resources=Resources(requires_gpu=True, peak_vram_per_request_gb=6.5),
    models={"brush": PAINTER},
)
def paint_on_gpu(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
    return Answer(brush(ask.text))


def test_fetching_holds_no_slot_and_leasing_does() -> None:
    seen: list[tuple[str, int]] = []
    asked: list[ModelRequest] = []

    class Models:
        async def prepare(
            self, binding: Any, choice: Any, annotation: Any, request: ModelRequest = NOBODY
        ) -> Any:
            asked.append(request)
            seen.append(("prepare", slot.taken))
            return PreparedModel(parameter="brush", choice=dict(choice))

        def lease(self, prepared: Any, *, device: str, request: ModelRequest = NOBODY) -> Any:
            asked.append(request)
            return Lease(device)

        async def escalate(
            self, prepared: list[object], error: BaseException, *, device: str, attempt: int = 1
        ) -> bool:
            return False

    class Lease:
        def __init__(self, device: str) -> None:
            self.device = device

        async def __aenter__(self) -> Any:
            seen.append((f"lease on {self.device}", slot.taken))
            return str.upper

        async def __aexit__(self, *error: object) -> None:
            seen.append(("back", slot.taken))

    with EndpointTester(paint_on_gpu, models=Models(), devices=["cuda:0"]) as tester:
        slot = tester.engine._core.devices.by_name["cuda:0"].slot
        assert tester.run(paint_on_gpu).value == Answer("A")
        assert slot.taken == 0
    assert seen == [("prepare", 0), ("lease on cuda:0", 1), ("back", 1)]
    assert [(one.function, one.parameter) for one in asked] == [("paint-on-gpu", "brush")] * 2
    assert all(one.request_id and one.token is not None for one in asked)
    assert {one.peak_vram_gb for one in asked} == {6.5}


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyError("x")])
def test_leases_are_given_back_after_every_failure(error: BaseException) -> None:
    def brush(text: str) -> str:
        raise error

    with EndpointTester(paint_on_gpu, models={"brush": brush}) as tester:
        assert tester.run(paint_on_gpu).failure is not None
        assert tester.models.leased == []
        assert tester.engine._core.devices.by_name["cpu"].slot.taken == 0


@pytest.mark.parametrize(
    ("error", "is_surprise"),
    [
        (RuntimeError("Error(s) in loading state_dict for UNet"), True),
        (RuntimeError("size mismatch for conv.weight"), True),
        (KeyError("vae"), True),
        (KeyError("prompt"), False),
        (OSError("acme/mine has no model_index.json"), True),
        (OSError("no space left on device"), False),
        (ValueError("too many words"), False),
        (ModelResolutionError("cannot load"), False),
    ],
)
def test_a_callers_model_that_does_not_fit_is_the_callers_fault(
    error: Exception, is_surprise: bool
) -> None:
    def brush(text: str) -> str:
        raise error

    @inference_function(models={"brush": PAINTER.allow_override("any.Pipeline")})
    def use(ctx: RequestContext, brush: Any, ask: Ask) -> Answer:
        return Answer(brush(ask.text))

    models = {"brush": brush, "bob/brush": brush}
    with EndpointTester(use, models=models) as tester:
        theirs = tester.run(use, overrides={"brush": "bob/brush"}).failure
        ours = tester.run(use).failure
        assert theirs is not None
        assert ours is not None
        assert (theirs.error_type == "ref_compatibility_surprise") is is_surprise
        assert ours.error_type != "ref_compatibility_surprise", "only with a model of the caller's"
