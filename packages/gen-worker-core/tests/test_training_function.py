"""`training_function`: jobs whose parameters are filled by name."""

import inspect
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gen_worker import (
    ConversionContext,
    DatasetContext,
    DefinitionError,
    RequestContext,
    Resources,
    TrainingContext,
    training_function,
)
from gen_worker.endpoint.job_record import TrainingFunctionSpec
from gen_worker.endpoint.jobs import DEFAULT_KIND, RECOMMENDED_KINDS
from gen_worker.spec import (
    ContextParameter,
    FunctionSpec,
    PayloadFieldParameter,
    ProvidedParameter,
    specs_of,
)
from gen_worker.types import DestinationRepo, ProducedFlavor

GPU = Resources(min_vram_gb=8)


class Source:
    """Stands for the class of the same name in the package above."""


class Dataset:
    """Likewise."""


class Spec(msgspec.Struct):
    scheme: str


def spec_of(function: Any) -> FunctionSpec:
    (spec,) = specs_of(function)
    return spec


def test_reserved_names_are_provided_and_the_rest_comes_from_the_payload() -> None:
    @training_function(kind="quantization:gptq-w4", calibration={"fp8": "beneficial"})
    def quant(
        ctx: ConversionContext,
        source: Source,
        specs: list[Spec],
        datasets: list[Dataset],
        destination: DestinationRepo | None,
        group_size: int,
        bits: int = 4,
    ) -> list[ProducedFlavor]:
        return []

    spec = spec_of(quant)
    assert spec.parameters == (
        ContextParameter("ctx", ConversionContext),
        ProvidedParameter("source", Source),
        ProvidedParameter("specs", list[Spec]),
        ProvidedParameter("datasets", list[Dataset]),
        ProvidedParameter("destination", DestinationRepo | None),
        PayloadFieldParameter("group_size", int, msgspec.NODEFAULT),
        PayloadFieldParameter("bits", int, 4),
    )
    assert (spec.kind, spec.job_kind) == ("conversion", "quantization:gptq-w4")
    assert (spec.decorator, spec.payload_type) == ("training_function", None)
    assert (spec.output_mode, spec.result_type) == ("single", list[ProducedFlavor])
    assert spec.calibration == {"fp8": "beneficial"}


def test_a_job_carries_its_record() -> None:
    @training_function(
        kind="quantization", calibration="required", label="Q", description="D", resources=GPU
    )
    def quant(ctx: ConversionContext, source: Source, bits: int = 4) -> list[ProducedFlavor]:
        return []

    marks = vars(quant)
    assert marks["_is_training_function"] is True
    assert marks["_worker_resources"] == GPU
    assert marks["_concurrency_mode"] == "sequential"
    assert (marks["_function_label"], marks["_function_description"]) == ("Q", "D")
    assert marks["_calibration_policy"] == {"*": "required"}
    record = marks["__training_spec__"]
    assert type(record) is TrainingFunctionSpec
    assert record.fn is quant
    assert list(record.signature.parameters) == ["ctx", "source", "bits"]
    assert record.ref_registry == {"source": "source"}
    assert record.other_params == (PayloadFieldParameter("bits", int, 4),)
    assert (record.kind, record.calibration) == ("quantization", {"*": "required"})
    assert sorted(record.input_schema["required"]) == ["destination", "source"]
    assert inspect.unwrap(quant) is quant  # the function itself, wrapped by nothing


def test_other_models_and_defaults_are_provided() -> None:
    @training_function
    def distill(
        ctx: Any,
        source: Source,
        teacher: Source,
        judge: Source | None = None,
        specs: list[Spec] = [Spec("x")],  # noqa: B006, B008  # as authors write it
    ) -> list[ProducedFlavor]:
        return []

    assert spec_of(distill).parameters[2:] == (
        ProvidedParameter("teacher", Source),
        ProvidedParameter("judge", Source | None, None),
        ProvidedParameter("specs", list[Spec], [Spec("x")]),
    )


def test_bare_and_unannotated_context() -> None:
    @training_function
    def tune(ctx, source: Source) -> Iterator[ProducedFlavor]:  # type: ignore[no-untyped-def]
        yield ProducedFlavor("x")

    spec = spec_of(tune)
    assert (spec.job_kind, spec.delta_type) == (DEFAULT_KIND, ProducedFlavor)
    assert spec.calibration is None


@pytest.mark.parametrize(
    "context", [ConversionContext, DatasetContext, TrainingContext, RequestContext]
)
def test_every_context_is_accepted_and_remembered(context: Any) -> None:
    def tune(ctx: Any, source: Source) -> list[ProducedFlavor]:
        return []

    tune.__annotations__["ctx"] = context
    spec = spec_of(training_function(tune))
    assert spec.kind == "conversion"
    wanted = None if context is RequestContext else context
    assert spec.parameters[0] == ContextParameter("ctx", wanted)


def test_a_dataset_job_needs_no_source() -> None:
    @training_function(kind="dataset-generation")
    def scrape(ctx: DatasetContext, urls: list[str]) -> list[ProducedFlavor]:
        return []

    assert spec_of(scrape).kind == "dataset"


def test_cost_hints_are_fields_of_resources() -> None:
    @training_function(
        resources=Resources(min_vram_gb=8),
        scaling_hints={"vram_base": 10},
        runtime_scales_with=["steps", "specs[0].scheme"],
    )
    def tune(ctx: Any, source: Source, specs: list[Spec], steps: int) -> list[ProducedFlavor]:
        return []

    assert spec_of(tune).resources == Resources(
        min_vram_gb=8, vram_base=10, runtime_scales_with=("steps", "specs[0].scheme")
    )


def test_one_policy_stands_for_every_scheme() -> None:
    @training_function(calibration="required")
    def tune(ctx: Any, source: Source) -> list[ProducedFlavor]:
        return []

    assert spec_of(tune).calibration == {"*": "required"}


@pytest.mark.parametrize("kind", RECOMMENDED_KINDS)
def test_known_kinds_are_silent(kind: str) -> None:
    @training_function(kind=kind)
    def tune(ctx: Any, source: Source) -> list[ProducedFlavor]:
        return []

    assert spec_of(tune).job_kind == kind


def test_an_unknown_kind_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="'polishing' is not one the platform knows") as caught:

        @training_function(kind="polishing")
        def tune(ctx: Any, source: Source) -> list[ProducedFlavor]:
            return []

    assert caught[0].filename == __file__
    assert spec_of(tune).job_kind == "polishing"


def good(ctx: Any, source: Source) -> list[ProducedFlavor]:
    return []


def no_context() -> list[ProducedFlavor]:
    return []


def wrong_context(ctx: int, source: Source) -> list[ProducedFlavor]:
    return []


def no_source(ctx: Any, bits: int) -> list[ProducedFlavor]:
    return []


def bare_source(ctx: Any, source) -> list[ProducedFlavor]:  # type: ignore[no-untyped-def]
    return []


def text_source(ctx: Any, source: str) -> list[ProducedFlavor]:
    return []


def one_dataset(ctx: Any, source: Source, datasets: Dataset) -> list[ProducedFlavor]:
    return []


def number_destination(ctx: Any, source: Source, destination: int) -> list[ProducedFlavor]:
    return []


def number_outputs(ctx: Any, source: Source, outputs: list[int]) -> list[ProducedFlavor]:
    return []


def overrides(ctx: Any, source: Source, _models: dict[str, str]) -> list[ProducedFlavor]:
    return []


def compute(ctx: Any, source: Source, compute: Any) -> list[ProducedFlavor]:
    return []


def variadic(ctx: Any, source: Source, *rest: int) -> list[ProducedFlavor]:
    return []


def returns_struct(ctx: Any, source: Source) -> Spec:
    return Spec("x")


async def coroutine(ctx: Any, source: Source) -> list[ProducedFlavor]:
    return []


@pytest.mark.parametrize(
    ("function", "options", "code", "error"),
    [
        (no_context, {}, "context_missing", ValueError),
        (wrong_context, {}, "context_annotation", TypeError),
        (no_source, {}, "source_missing", ValueError),
        (bare_source, {}, "parameter_annotation", TypeError),
        (text_source, {}, "parameter_annotation", TypeError),
        (one_dataset, {}, "parameter_annotation", TypeError),
        (number_destination, {}, "parameter_annotation", TypeError),
        (number_outputs, {}, "parameter_annotation", TypeError),
        (overrides, {}, "reserved_field", ValueError),
        (compute, {}, "reserved_parameter", ValueError),
        (variadic, {}, "variadic_parameter", ValueError),
        (returns_struct, {}, "return_type", ValueError),
        (coroutine, {}, "async_not_allowed", ValueError),
        (good, {"kind": " "}, "invalid_job_kind", TypeError),
        (good, {"kind": None}, "invalid_job_kind", TypeError),
        (good, {"concurrency": "often"}, "invalid_concurrency", ValueError),
        (good, {"calibration": {"fp8": "maybe"}}, "invalid_calibration", TypeError),
        (good, {"calibration": 3}, "invalid_calibration", TypeError),
        (good, {"resources": 3}, "invalid_resources", TypeError),
        (good, {"vram_base": -1}, "invalid_resources", ValueError),
        (good, {"runtime_scales_with": ["steps"]}, "unknown_payload_field", ValueError),
        (good, {"min_vram_gb": 3}, "invalid_option", TypeError),
        (good, {"colour": "red"}, "invalid_option", TypeError),
        (Source, {}, "not_a_function", TypeError),
    ],
)
def test_mistakes(
    function: Any, options: dict[str, Any], code: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        training_function(**options)(function)
    assert isinstance(caught.value, DefinitionError)
    assert caught.value.code == code
