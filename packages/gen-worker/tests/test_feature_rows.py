"""Every name that authors may import from `gen_worker` is there and does what its row says.

The rows are those of the product's feature table. A name that a later version brings, or that was
left out on purpose, answers with a sentence instead.
"""

import enum
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import pytest

import gen_worker as gw
from gen_worker.constraints import compile_clamps
from gen_worker.conversion import ProducedFlavor
from gen_worker.errors import classify
from gen_worker.spec import DEFINITION_ATTRIBUTE, class_spec_of, specs_of

F = TypeVar("F", bound=Callable[..., Any])

FUNCTION_DECORATORS = ("inference_function", "worker_function")
CLASS_DECORATORS = ("inference", "training", "dataset", "conversion")
CONTEXTS = ("RequestContext", "ConversionContext", "DatasetContext", "TrainingContext")
ASSETS = ("Asset", "ImageAsset", "VideoAsset", "AudioAsset", "MediaAsset")
ERRORS = {
    "ValidationError": "validation",
    "RetryableError": "retryable",
    "FatalError": "fatal",
    "ResourceError": "resource",
    "AuthError": "auth",
    "CanceledError": "canceled",
}

TABLE = (
    *FUNCTION_DECORATORS,
    *CLASS_DECORATORS,
    *("batched_inference", "invocable", "Case", "Resources", "Repo", "HFRepo", "CivitaiRepo"),
    *("ModelScopeRepo", "Dispatch", "dispatch", "Binding", "SharedBase", "Variant"),
    *CONTEXTS,
    *ASSETS,
    *("Tensors", "Compute", "Clamp", "ExpectedOutput", "PromptRole", "PositivePrompt"),
    *("NegativePrompt", "StringEnum"),
    *ERRORS,
    *("OutputTooLargeError", "InputTooLargeError", "WorkerError", "RefCompatibilitySurprise"),
    *("IncrementalTokenDelta", "Done", "Error", "TokenStreamSignal"),
    *("iter_transformers_text_deltas", "emit_diagnostic_log", "io"),
    *("ModelRef", "ModelRefSource", "ResourceRequirements"),
    *("validate_endpoint", "EndpointValidationResult"),
    *("SourceRepo", "DestinationRepo", "DatasetRef", "OutputSpec", "LoraSpec"),
    *("load_loras", "apply_low_vram_config", "with_oom_retry"),
    *("ModelCache", "ModelCacheStats", "ModelLocation"),
    *("StepContext", "StepResult", "StepControlHints", "TrainingJobSpec"),
    "clone",
)
"""What works. Its order is the table's."""

CUT = ("accel", "cache", "compile", "quant", "parallelism", "api")
MOVED = ("ScalingHints", "Src")

CHECKED: set[str] = set()


def row(*names: str) -> Callable[[F], F]:
    """Say which rows a test checks."""
    CHECKED.update(names)
    return lambda test: test


class Ask(msgspec.Struct):
    text: str = ""
    quality: Literal["draft", "final"] = "draft"
    steps: int = 1


class Reply(msgspec.Struct):
    text: str


def test_every_row_is_checked() -> None:
    assert set(TABLE) == CHECKED


@pytest.mark.parametrize("name", TABLE)
def test_every_name_can_be_imported(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"from gen_worker import {name}", scope)
    assert scope[name] is getattr(gw, name)
    assert name in dir(gw)


@pytest.mark.parametrize("name", [*CUT, *MOVED])
def test_a_name_that_is_gone_says_what_to_do_instead(name: str) -> None:
    with pytest.raises(ImportError, match=f"gen_worker.{name} is gone: "):
        getattr(gw, name)


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'inference_functoin'"):
        _ = gw.inference_functoin  # type: ignore[attr-defined]


@row(*FUNCTION_DECORATORS)
@pytest.mark.parametrize("name", FUNCTION_DECORATORS)
@pytest.mark.parametrize("form", ["bare", "called", "labelled"])
def test_function_decorators_work_bare_and_called_and_return_the_function(
    name: str, form: str
) -> None:
    decorator = getattr(gw, name)

    def answer(ctx: gw.RequestContext, payload: Ask) -> Reply:
        return Reply(text=payload.text)

    wrap = {"bare": decorator, "called": decorator(), "labelled": decorator(label=" Echo ")}[form]
    assert wrap(answer) is answer
    assert answer(gw.RequestContext("t"), Ask(text="a")) == Reply(text="a")
    (spec,) = specs_of(answer)
    assert (spec.name, spec.payload_type, spec.result_type) == ("answer", Ask, Reply)
    assert spec.label == ("Echo" if form == "labelled" else None)


@row(*CLASS_DECORATORS, "batched_inference", "invocable")
@pytest.mark.parametrize("name", CLASS_DECORATORS)
@pytest.mark.parametrize("form", ["bare", "called"])
def test_class_decorators_work_bare_and_called_and_are_namespaces(name: str, form: str) -> None:
    decorator = getattr(gw, name)
    Output: Any = Reply if name == "inference" else list[ProducedFlavor]

    class Endpoint:
        def setup(self) -> None: ...

        @decorator.function(name="first-one")  # type: ignore[untyped-decorator]
        def one(self, ctx, payload: Ask) -> Output: ...  # type: ignore[no-untyped-def]

        @gw.invocable
        def two(self, ctx, payload: Ask) -> Output: ...  # type: ignore[no-untyped-def]

        @decorator.stage(gpu_class="small")  # type: ignore[untyped-decorator]
        def encode(self) -> None: ...

    assert (decorator if form == "bare" else decorator(label="L"))(Endpoint) is Endpoint
    definition = class_spec_of(Endpoint)
    assert definition is not None
    assert definition.kind == name
    assert [spec.name for spec in definition.functions] == ["first-one", "two"]
    assert [stage.gpu_class for stage in definition.stages] == ["small"]


@row("batched_inference")
def test_a_batched_class_takes_async_generators() -> None:
    @gw.batched_inference
    class Chat:
        async def setup(self) -> None: ...

        @gw.batched_inference.function
        async def say(
            self, ctx: gw.RequestContext, payload: Ask
        ) -> AsyncIterator[gw.IncrementalTokenDelta]:
            yield gw.IncrementalTokenDelta(text="a")

    definition = class_spec_of(Chat)
    assert definition is not None
    assert definition.archetype == "BatchedWorker"
    assert specs_of(Chat)[0].shape == "async_generator"


@row("Case")
def test_a_case_is_a_function_of_its_own() -> None:
    small = gw.Case("small")
    assert (small.name, small.resources, small.model, small.input) == ("small", None, None, None)

    @gw.inference(parametrize=[small, gw.Case("big", resources=gw.Resources(min_vram_gb=40))])
    class Painter:
        def setup(self) -> None: ...

        @gw.invocable
        def paint(self, ctx: gw.RequestContext, payload: Ask) -> Reply:
            return Reply(text="")

    rows = {spec.name: spec for spec in specs_of(Painter)}
    assert list(rows) == ["small", "big"]
    assert rows["big"].resources.min_vram_gb == 40


@row("Resources", "ResourceRequirements")
def test_resources_keep_and_serialise_only_what_was_said() -> None:
    resources = gw.Resources(accelerator="CUDA", min_compute_capability="8.0")
    assert (resources.accelerator, resources.requires_gpu) == ("cuda", True)
    assert resources.compute_capability == {"min": "8.0"}
    assert resources.to_dict()["min_compute_capability"] == 8.0
    assert gw.Resources().to_dict() == {}
    older = gw.ResourceRequirements(compute_capability_min=8.0, max_wait_ms=5)
    assert older.to_dict() == {"compute_capability": {"min": "8.0"}, "max_wait_ms": 5}
    with pytest.raises(ValueError, match="accelerator"):
        gw.Resources(accelerator="tpu")


@row("Repo")
@pytest.mark.parametrize(
    ("repo", "slot"),
    [
        (lambda: gw.Repo("base_model", "acme/flux"), "base_model"),
        (lambda: gw.Repo("acme/flux"), ""),
        (lambda: gw.Repo("acme/flux", name="q"), "q"),
        (lambda: gw.Repo(name="s", ref="acme/flux"), "s"),
    ],
)
def test_repos_are_values_in_every_documented_form(
    repo: Callable[[], gw.Repo[Any]], slot: str
) -> None:
    declared = repo()
    assert (declared.slot_name, declared.ref, declared.provider) == (slot, "acme/flux", "tensorhub")
    assert declared == repo()
    assert hash(declared) == hash(repo())
    modified = declared.flavor("bf16").tag("dev").allow_override("acme.Flux").allow_lora()
    assert modified == declared.allow_lora().allow_override("acme.Flux").tag("dev").flavor("bf16")
    assert declared == repo(), "a modifier changed the value itself"


@row("HFRepo", "CivitaiRepo", "ModelScopeRepo")
def test_other_providers_have_their_own_modifiers() -> None:
    hf = gw.HFRepo("Org/Model").revision("abc").dtype("bf16").subfolder("vae").files("*.json")
    scope = gw.ModelScopeRepo("Org/Model").revision("abc").files("*.json")
    civitai = gw.CivitaiRepo("4384").version("128713")
    assert [r.provider for r in (hf, civitai, scope)] == ["hf", "civitai", "modelscope"]
    assert (
        hf.to_dict()
        == gw.HFRepo("Org/Model", subfolder="vae")
        .files("*.json")
        .dtype("bf16")
        .revision("abc")
        .to_dict()
    )
    assert all(isinstance(repo, gw.Repo) for repo in (hf, civitai, scope))


@row("Dispatch", "dispatch", "Binding")
def test_dispatch_picks_by_a_field_of_the_payload() -> None:
    base = gw.Repo("acme/painter")
    table = {"draft": base.flavor("int8"), "final": base.flavor("bf16")}
    picked = gw.dispatch("quality", table)
    assert isinstance(picked, gw.Dispatch)
    assert picked == gw.Dispatch(field="quality", table=table)
    assert isinstance(picked, gw.Binding)
    assert isinstance(base, gw.Binding)
    assert picked.choose("engine", Ask(quality="final"), None)["flavor"] == "bf16"


@row("SharedBase", "Variant")
def test_variants_share_their_bases_components() -> None:
    base = gw.SharedBase("acme.Pipeline", vae=gw.HFRepo("acme/vae"))
    variant = base.variant(unet=gw.HFRepo("acme/unet").dtype("bf16"))
    assert isinstance(variant, gw.Variant)
    assert isinstance(variant, gw.Repo)
    assert (variant.ref, variant.provider) == ("acme/unet", "hf")
    assert base.pipeline_class_fqn == "acme.Pipeline"
    assert dict(base.shared_components) == {"vae": gw.HFRepo("acme/vae")}
    assert variant.primary_slot_name == "unet"


@row("ModelRef", "ModelRefSource")
def test_model_refs_are_read_from_annotations() -> None:
    source = gw.ModelRefSource
    assert [s.value for s in source] == ["fixed", "payload", "payload_ref"]
    assert source("release") is source.FIXED

    @gw.worker_function()
    def answer(
        ctx: gw.RequestContext,
        model: Annotated[str, gw.ModelRef(source.FIXED, "main")],
        payload: Ask,
    ) -> Reply:
        return Reply(text="")

    (spec,) = specs_of(answer)
    assert list(spec.models) == ["model"]
    assert spec.models["model"].binding.dialect == "injection"


@row(*CONTEXTS)
@pytest.mark.parametrize("name", CONTEXTS)
def test_every_context_can_be_made_in_a_unit_test(name: str) -> None:
    ctx = getattr(gw, name)("req-1", job_id="job-1", timeout_ms=60_000)
    assert (ctx.request_id, ctx.workspace_scope_id) == ("req-1", "job-1")
    assert 0 < ctx.time_remaining_s() <= 60
    ctx.progress(0.5, stage="half")
    ctx.log("hello")
    ctx.emit("my.event", {"a": 1})
    ctx.raise_if_canceled()
    ctx.cancel()
    assert (ctx.is_canceled(), ctx.done().is_set()) == (True, True)
    with pytest.raises(gw.CanceledError, match="enough"):
        ctx.raise_if_canceled("enough")


@row(*ASSETS)
@pytest.mark.parametrize("name", ASSETS)
def test_assets_are_files_by_ref(name: str, tmp_path: Path) -> None:
    asset = getattr(gw, name)(ref="a/b.bin")
    with pytest.raises(ValueError, match=r"a/b\.bin"):
        os.fspath(asset)
    asset.local_path = str(tmp_path)
    assert os.fspath(asset) == str(tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(asset), type=type(asset)) == asset
    assert isinstance(asset, gw.Asset)
    assert isinstance(asset, gw.MediaAsset) == (name != "Asset")


@row("Tensors", "Compute")
def test_tensors_are_read_as_bytes_and_compute_is_zero_when_unknown(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"12345")
    tensors = gw.Tensors(ref="w", local_path=str(path))
    assert tensors.exists()
    assert tensors.read_bytes() == b"12345"
    with tensors.open() as file:
        assert file.read(2) == b"12"
    with pytest.raises(ValueError, match="more than 3 bytes"):
        tensors.read_bytes(max_bytes=3)
    compute = gw.RequestContext("t").compute
    assert isinstance(compute, gw.Compute)
    assert (compute.accelerator, compute.vram_gb, compute.gpu_tier) == ("", 0, None)


@row("Clamp")
def test_clamp_moves_numbers_into_their_range() -> None:
    class Options(msgspec.Struct):
        steps: Annotated[int, gw.Clamp(1, 50)] = 20

    class Nested(msgspec.Struct):
        inner: Options
        many: list[Options]

    apply = compile_clamps(Nested)
    assert apply is not None
    clamped = apply(Nested(inner=Options(steps=99), many=[Options(steps=-1), Options(steps=3)]))
    assert (clamped.inner.steps, [one.steps for one in clamped.many]) == (50, [1, 3])


@row("ExpectedOutput", "PromptRole", "PositivePrompt", "NegativePrompt", "StringEnum")
def test_markers_are_readable_metadata() -> None:
    assert get_args(gw.PositivePrompt) == (str, gw.PromptRole("positive"))
    assert get_args(gw.NegativePrompt) == (str, gw.PromptRole("negative"))
    with pytest.raises(ValueError, match="neutral"):
        gw.PromptRole("neutral")  # type: ignore[arg-type]
    assert gw.ExpectedOutput(count=2, width="input.width").width == "input.width"

    class Size(gw.StringEnum):
        SMALL = "small"

    assert issubclass(Size, enum.Enum)
    assert msgspec.json.decode(b'"small"', type=Size) is Size.SMALL


@row(*ERRORS, "WorkerError")
@pytest.mark.parametrize(("name", "error_type"), ERRORS.items())
def test_every_error_tells_callers_its_own_type(name: str, error_type: str) -> None:
    error = getattr(gw, name)("told")
    assert isinstance(error, gw.WorkerError)
    failure = classify(error)
    assert (failure.error_type, failure.message) == (error_type, "told")
    assert failure.retryable == (name == "RetryableError")


@row("OutputTooLargeError", "InputTooLargeError", "RefCompatibilitySurprise")
def test_errors_with_data_keep_it_and_are_faults_of_the_input() -> None:
    output = gw.OutputTooLargeError(size_bytes=9, max_bytes=5)
    given = gw.InputTooLargeError(size_bytes=9, max_bytes=5, source="file")
    surprise = gw.RefCompatibilitySurprise(ref="acme/x", axis="architecture")
    assert (output.size_bytes, given.max_bytes, given.source) == (9, 5, "file")
    assert (surprise.ref, surprise.axis) == ("acme/x", "architecture")
    assert all(isinstance(e, gw.ValidationError) for e in (output, given, surprise))
    assert classify(surprise).error_type == "ref_compatibility_surprise"


@row("IncrementalTokenDelta", "Done", "Error", "TokenStreamSignal")
def test_stream_signals_are_frozen_values() -> None:
    delta = gw.IncrementalTokenDelta(text=" a ", item_id="b")
    assert (delta.text, gw.Error(message="m").message, gw.Done()) == (" a ", "m", gw.Done())
    assert set(get_args(gw.TokenStreamSignal)) == {gw.IncrementalTokenDelta, gw.Done, gw.Error}
    with pytest.raises(AttributeError):
        delta.text = "c"  # type: ignore[misc]


class Streamer:
    """A streamer like that of transformers, filled by the model below."""

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        self.pieces: list[str] = []

    def __iter__(self) -> Iterator[str]:
        yield from self.pieces


class Model:
    def generate(self, *, streamer: Streamer, **options: Any) -> None:
        streamer.pieces += ["one", "", " two"]


@row("iter_transformers_text_deltas")
def test_text_deltas_come_from_any_streamer_and_name_the_extra_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ready(Streamer):
        def __init__(self, tokenizer: Any, **options: Any) -> None:
            super().__init__(tokenizer)
            Model().generate(streamer=self)

    deltas = gw.iter_transformers_text_deltas(
        model=Model(), tokenizer=object(), generation_kwargs={}, streamer_cls=Ready
    )
    assert next(deltas) == "one"
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeError, match=r"gen-worker\[torch\]"):
        gw.iter_transformers_text_deltas(model=Model(), tokenizer=object(), generation_kwargs={})


@row("emit_diagnostic_log")
def test_reports_to_the_operator_are_dropped_outside_a_worker() -> None:
    assert gw.emit_diagnostic_log("weights", "loaded", {"n": object()}) is False


@row("io")
def test_io_reads_files_and_names_its_extras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    asset, absent = gw.Asset(ref="in/a", local_path=str(path)), gw.ImageAsset(ref="in/b")
    assert (gw.io.exists(asset), gw.io.exists(absent)) == (True, False)
    assert gw.io.read_bytes(asset) == b"abc"
    with gw.io.open(asset, "r") as file:
        assert file.read() == "abc"
    with pytest.raises(gw.ValidationError, match="in/b"):
        gw.io.read_bytes(absent)
    for library in ("PIL", "soundfile"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=r"\[images\]"):
        gw.io.read_image(asset)
    with pytest.raises(ImportError, match=r"\[audio\]"):
        gw.io.read_audio(asset)


@row("validate_endpoint", "EndpointValidationResult")
def test_a_project_is_judged_without_importing_it(tmp_path: Path) -> None:
    result = gw.validate_endpoint(tmp_path)
    assert isinstance(result, gw.EndpointValidationResult)
    ok, errors, warnings = result
    assert not ok
    assert any("endpoint.toml" in error for error in errors)
    assert any("uv.lock" in warning for warning in warnings)


@row("SourceRepo", "DestinationRepo", "DatasetRef", "OutputSpec", "LoraSpec")
def test_reserved_payload_types_have_their_fields() -> None:
    class Job(msgspec.Struct):
        source: gw.SourceRepo
        destination: gw.DestinationRepo
        outputs: list[gw.OutputSpec] = []
        datasets: list[gw.DatasetRef] = []
        loras: list[gw.LoraSpec] = []

    text = b"""{"source": {"ref": "a/b"}, "destination": {"ref": "c/d", "tags": ["prod"]},
        "outputs": [{"attributes": {"dtype": "fp8"}}], "datasets": [{"ref": "e/f"}],
        "loras": [{"file": {"ref": "g"}}]}"""
    job = msgspec.json.decode(text, type=Job)
    assert (job.source.checkpoint_id, job.destination.tags) == (None, ["prod"])
    assert (job.outputs[0].attributes, job.datasets[0].split) == ({"dtype": "fp8"}, "train")
    assert (job.loras[0].weight, job.loras[0].adapter_name) == (1.0, None)


@row("StepContext", "StepResult", "StepControlHints", "TrainingJobSpec")
def test_trainers_get_the_values_of_their_contract() -> None:
    job = gw.TrainingJobSpec("req-1", 100)
    assert (job.trainer_api_version, job.metric_every, job.checkpoint_every) == ("v1", 10, 0)
    ctx = gw.StepContext(job)
    assert (ctx.device, ctx.dtype, ctx.job.max_steps) == ("cuda:0", "bf16", 100)
    result = gw.StepResult({"loss": 0.5}, control=gw.StepControlHints(skip_cadence_emit=True))
    assert result.control is not None
    assert result.control.backoff_seconds is None


@row("load_loras")
def test_loras_are_attached_for_a_block_and_need_local_files() -> None:
    with (
        pytest.raises(RuntimeError),
        gw.load_loras(object(), [gw.LoraSpec(file=gw.Asset("a/b"))]),
    ):
        pass


@row("apply_low_vram_config", "with_oom_retry")
def test_the_ladder_is_at_hand_for_an_authors_own_pipeline() -> None:
    class Vae:
        tiled = False

        def enable_tiling(self) -> None:
            self.tiled = True

    class Pipeline:
        vae = Vae()

    pipeline = Pipeline()
    assert gw.apply_low_vram_config(pipeline, mode="vae_only")["vae_tiling"] is True
    assert pipeline.vae.tiled
    assert gw.with_oom_retry(lambda text: text.upper(), "a", pipelines=[pipeline]) == "A"
    with pytest.raises(ValueError, match="mode"):
        gw.apply_low_vram_config(pipeline, mode="tiny")


@row("ModelCache", "ModelCacheStats", "ModelLocation")
def test_the_model_cache_keeps_books(tmp_path: Path) -> None:
    cache = gw.ModelCache(max_vram_gb=20.0, model_cache_dir=str(tmp_path))
    cache.mark_loaded_to_vram("model-a", object(), size_gb=8.0)
    assert (cache.is_in_vram("model-a"), cache.get_vram_models()) == (True, ["model-a"])
    stats = cache.get_stats()
    assert isinstance(stats, gw.ModelCacheStats)
    assert stats.to_dict()["vram_used_gb"] == 8.0
    assert gw.ModelLocation("vram").value == "vram"


def test_a_decorator_leaves_one_attribute_and_no_more() -> None:
    def answer(ctx: gw.RequestContext, payload: Ask) -> Reply:
        return Reply(text="")

    before = dict(vars(answer))
    gw.inference_function(answer)
    assert set(vars(answer)) - set(before) == {DEFINITION_ATTRIBUTE}


@row("clone")
def test_models_of_others_are_cloned_by_name() -> None:
    assert callable(gw.clone.from_huggingface)
    assert callable(gw.clone.from_civitai)
