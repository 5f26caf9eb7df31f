"""Functions of other kinds: what they yield is no stream, and their kind finishes the call."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from gen_worker import kinds
from gen_worker.context.jobs import JobKind
from gen_worker.context.producers import ConversionContext
from gen_worker.spec import (
    Call,
    ContextParameter,
    FunctionSpec,
    PayloadFieldParameter,
    ProvidedParameter,
)
from gen_worker.testing import EndpointTester

WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


class Recording(JobKind):
    """A conversion kind that reports what it saw instead of publishing it."""

    def __init__(self) -> None:
        super().__init__("conversion", ConversionContext)
        self.payload: Mapping[str, Any] = {}

    async def before(self, call: Call, ctx: Any) -> None:
        self.payload = call.raw_payload
        ctx._extra["payload"] = call.raw_payload

    def provide(self, parameter: ProvidedParameter, ctx: Any) -> Any:
        return self.payload[parameter.name]

    async def finish(self, call: Call, ctx: Any, result: Any) -> Any:
        return {"function": call.spec.name, "result": list(result)}


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setitem(kinds._kinds, "conversion", recording)
    return recording


def job(function: Any, shape: Any) -> FunctionSpec:
    return FunctionSpec(
        name="job",
        registered_name="job",
        python_name="job",
        kind="conversion",
        decorator="training_function",
        module=__name__,
        qualname="job",
        function=function,
        shape=shape,
        parameters=(
            ContextParameter("ctx"),
            ProvidedParameter("source"),
            PayloadFieldParameter("bits", int, 8),
            PayloadFieldParameter("layers", list[str], ["all"]),
        ),
        payload_type=None,
        output_mode="incremental" if shape == "generator" else "single",
    )


def whole(ctx: Any, *, source: Any, bits: int, layers: list[str]) -> list[Any]:
    layers.append("seen")
    return [source, bits, layers, type(ctx).__name__]


def parts(ctx: Any, *, source: Any, bits: int, layers: list[str]) -> Iterator[Any]:
    yield from whole(ctx, source=source, bits=bits, layers=layers)


@WAYS
@pytest.mark.parametrize(("function", "shape"), [(whole, "sync"), (parts, "generator")])
def test_a_job_receives_its_fields_and_its_kind_finishes_it(
    function: Any, shape: str, is_inline: bool, kind: Recording
) -> None:
    with EndpointTester(job(function, shape), is_inline=is_inline) as tester:
        result = tester.run("job", {"source": {"ref": "a/b"}, "bits": 4})
        assert result.deltas == []
        assert result.value == {
            "function": "job",
            "result": [{"ref": "a/b"}, 4, ["all", "seen"], "ConversionContext"],
        }
        again = tester.run("job", {"source": 1})
        assert again.value["result"] == [1, 8, ["all", "seen"], "ConversionContext"]
        assert kind.payload == {"source": 1}


def test_a_field_of_another_type_is_refused() -> None:
    with EndpointTester(job(whole, "sync")) as tester:
        failure = tester.run("job", {"source": 1, "bits": "four"}).failure
        assert failure is not None
        assert (failure.error_type, failure.path) == ("validation", "$.bits")


@pytest.mark.parametrize("stage", ["before", "finish"])
def test_a_kind_that_fails_fails_the_call(
    stage: str, kind: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: Any) -> Any:
        raise OSError("no destination")

    monkeypatch.setattr(kind, stage, fail)
    with EndpointTester(job(whole, "sync")) as tester:
        failure = tester.run("job", {"source": 1}).failure
        assert failure is not None
        assert failure.origin == ("input" if stage == "before" else "handler")


def test_a_kind_that_is_not_installed_names_its_package() -> None:
    spec = msgspec.structs.replace(job(whole, "sync"), kind="nonsense")
    with EndpointTester(spec) as tester:
        failure = tester.run("job").failure
        assert failure is not None
        assert failure.error_type == "function_unavailable"
        assert "nonsense" in failure.message
