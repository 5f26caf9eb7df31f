"""What a load will do is decided from JSON and headers alone; no library is needed for it."""

import json
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from gen_worker.errors import (
    FatalError,
    ModelResolutionError,
    RefCompatibilitySurprise,
    ValidationError,
)
from gen_worker.models import ModelChoice
from gen_worker.models.formats import DamagedFileError, UnsafeFileFormat
from gen_worker.models.loading import (
    AnnotationNeededError,
    MissingComponentsError,
    ModelNotFoundError,
    NoProviderError,
    UnknownClassError,
    UnsupportedFormatError,
    libraries,
    load,
    plan,
)


def class_of(name: str, library: str, *bases: type, **members: Any) -> Any:
    """Make a class that looks as if a library had it."""
    return type(name, bases or (object,), {"__module__": library, **members})


@classmethod  # type: ignore[misc]
def from_pretrained(cls: Any, path: str, **options: Any) -> Any:
    return (cls.__name__, path, options)


DiffusionPipeline = class_of("DiffusionPipeline", "diffusers.pipelines")
ModelMixin = class_of("ModelMixin", "diffusers.models", from_pretrained=from_pretrained)
PreTrainedModel = class_of("PreTrainedModel", "transformers", from_pretrained=from_pretrained)
Unet = class_of("Unet", "diffusers.models", ModelMixin)
Vae = class_of("Vae", "diffusers.models", ModelMixin)
TextModel = class_of("TextModel", "transformers", PreTrainedModel)
Tokenizer = class_of("Tokenizer", "transformers", from_pretrained=from_pretrained)
SchedulerMixin = class_of("SchedulerMixin", "diffusers", from_pretrained=from_pretrained)
Scheduler = class_of("Scheduler", "diffusers", SchedulerMixin)


def _init(
    self: Any,
    unet: Any,
    vae: Any,
    tokenizer: Any,
    scheduler: Any,
    safety_checker: Any,
    eta: int = 0,
) -> None: ...


Pipeline = class_of(
    "Pipeline",
    "diffusers",
    DiffusionPipeline,
    __init__=_init,
    _optional_components=["safety_checker"],
)
CLASSES = {
    ("diffusers", "Pipeline"): Pipeline,
    ("diffusers", "Unet"): Unet,
    ("diffusers", "Vae"): Vae,
    ("diffusers", "Scheduler"): Scheduler,
    ("transformers", "TextModel"): TextModel,
    ("transformers", "Tokenizer"): Tokenizer,
    ("diffusers", "StableDiffusionXLPipeline"): class_of(
        "StableDiffusionXLPipeline", "diffusers", Pipeline, from_single_file=from_pretrained
    ),
}


def find_class(library: str, name: str, packages: tuple[str, ...] = ()) -> Any:
    try:
        return CLASSES[library, name]
    except KeyError:
        raise UnknownClassError("no such class", library=library, class_name=name) from None


def plan_of(path: Path, annotation: Any = None, **options: Any) -> Any:
    return plan(path, annotation, find_class=find_class, **options)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_weights(path: Path, dtype: str = "F32", names: tuple[str, ...] = ("w",)) -> None:
    size = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}[dtype] * 4
    header = {
        name: {"dtype": dtype, "shape": [4], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size * len(names)))


INDEX = {
    "_class_name": "Pipeline",
    "unet": ["diffusers", "Unet"],
    "vae": ["diffusers", "Vae"],
    "tokenizer": ["transformers", "Tokenizer"],
    "scheduler": ["diffusers", "Scheduler"],
    "safety_checker": [None, None],
}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    write_json(root / "model_index.json", INDEX)
    for name in ("unet", "vae"):
        write_json(root / name / "config.json", {"_class_name": name.title()})
        write_weights(root / name / "diffusion_pytorch_model.safetensors")
    write_json(root / "tokenizer" / "tokenizer_config.json", {})
    write_json(root / "scheduler" / "scheduler_config.json", {})
    return root


def test_a_pipeline_is_loaded_component_by_component(pipeline: Path) -> None:
    made = plan_of(pipeline, Pipeline)
    assert made.method == "pipeline"
    assert made.cls is Pipeline
    assert {part.name: (part.cls, part.method) for part in made.components} == {
        "unet": (Unet, "model"),
        "vae": (Vae, "model"),
        "tokenizer": (Tokenizer, "part"),
        "scheduler": (Scheduler, "part"),
    }
    assert not made.needs_view


@pytest.mark.parametrize("annotation", [None, Any, DiffusionPipeline, Pipeline | None])
def test_the_model_names_the_class_where_the_annotation_does_not(
    pipeline: Path, annotation: Any
) -> None:
    assert plan_of(pipeline, annotation).cls is Pipeline
    assert plan_of(pipeline, Annotated[annotation, "note"]).cls is Pipeline


def test_sizes_are_those_of_the_precision_that_is_loaded(pipeline: Path) -> None:
    write_weights(pipeline / "vae" / "diffusion_pytorch_model.safetensors", "I64")
    sizes = {
        dtype: plan_of(pipeline, choice=ModelChoice(ref="a/b", dtype=dtype)).sizes
        for dtype in ("", "fp16")
    }
    assert sizes == {"": {"unet": 16, "vae": 32}, "fp16": {"unet": 8, "vae": 32}}


@pytest.mark.parametrize(
    ("device", "has_bf16", "choice", "dtype"),
    [
        ("cpu", True, {}, "float32"),
        ("cuda:0", True, {}, "bfloat16"),
        ("cuda:0", False, {}, "float16"),
        ("cpu", True, {"flavor": "bf16"}, "bfloat16"),
        ("cuda:0", True, {"flavor": "fp16"}, "float16"),
        ("cuda:0", True, {"flavor": "fp16", "dtype": "float32"}, "float32"),
        ("cuda:0", True, {"attributes": {"dtype": ("fp16", "bf16")}}, "float16"),
        ("cpu", True, {"flavor": "turbo"}, "float32"),
    ],
)
def test_precision(
    pipeline: Path, device: str, has_bf16: bool, choice: dict[str, Any], dtype: str
) -> None:
    chosen = ModelChoice(ref="a/b", **choice)
    made = plan_of(pipeline, device=device, has_bf16=has_bf16, choice=chosen)
    assert {part.dtype for part in made.components if part.weights} == {dtype}


def test_files_in_a_variant_are_found_and_set_the_precision(pipeline: Path) -> None:
    for name in ("unet", "vae"):
        weights = pipeline / name / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    parts = [part for part in plan_of(pipeline).components if part.weights]
    assert [(part.variant, part.dtype) for part in parts] == [("fp16", "float16")] * 2


def test_of_two_variants_the_one_that_the_flavor_names_is_taken(pipeline: Path) -> None:
    write_weights(pipeline / "unet" / "diffusion_pytorch_model.fp16.safetensors", "F16")
    plain = next(part for part in plan_of(pipeline).components if part.name == "unet")
    half = plan_of(pipeline, choice=ModelChoice(ref="a/b", flavor="fp16")).components
    assert plain.variant == ""
    assert next(part.variant for part in half if part.name == "unet") == "fp16"


def test_sharded_weights_are_all_counted(pipeline: Path) -> None:
    unet = pipeline / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate(names):
        write_weights(unet / name, names=(f"w{i}",))
    write_json(
        unet / "diffusion_pytorch_model.safetensors.index.json",
        {"weight_map": {f"w{i}": name for i, name in enumerate(names)}},
    )
    part = next(part for part in plan_of(pipeline).components if part.name == "unet")
    assert part.size_bytes == 32
    assert [Path(file).name for file in part.weights] == names
    (unet / names[1]).unlink()
    with pytest.raises(DamagedFileError, match="00002-of-00002"):
        plan_of(pipeline)


def test_all_missing_components_are_named_at_once(pipeline: Path) -> None:
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (pipeline / "scheduler" / "scheduler_config.json").unlink()
    (pipeline / "scheduler").rmdir()
    with pytest.raises(MissingComponentsError, match=r"'scheduler', 'unet'") as caught:
        plan_of(pipeline, choice=ModelChoice(ref="acme/model"))
    assert caught.value.missing == ("scheduler", "unet")
    assert caught.value.ref == "acme/model"
    assert isinstance(caught.value, FatalError)


def test_a_component_that_is_given_need_not_be_there(pipeline: Path) -> None:
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    made = plan_of(pipeline, shared={"unet"})
    assert "unet" not in {part.name for part in made.components}


def test_an_optional_component_that_is_not_there_is_left_out(pipeline: Path) -> None:
    write_json(
        pipeline / "model_index.json",
        INDEX | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
    )
    made = plan_of(pipeline)
    absent = [part.name for part in made.components if part.method == "absent"]
    assert absent == ["safety_checker"]
    assert made.index["safety_checker"] == [None, None]


@pytest.mark.parametrize(
    "entry", [["os", "system"], ["diffusers", "__import__"], ["subprocess", "Popen"]]
)
def test_a_model_cannot_make_us_import_what_it_likes(pipeline: Path, entry: list[str]) -> None:
    write_json(pipeline / "model_index.json", INDEX | {"scheduler": entry})
    with pytest.raises(UnknownClassError, match=entry[1]) as caught:
        plan(pipeline, Pipeline, find_class=_only_real_rules)
    assert (caught.value.library, caught.value.class_name) == tuple(entry)


def _only_real_rules(library: str, name: str, packages: tuple[str, ...] = ()) -> Any:
    """Answer as the real one, with a diffusers that has no pipelines."""
    if (library, name) in CLASSES:
        return CLASSES[library, name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libraries, "library", lambda _: SimpleNamespace(pipelines=object()))
        return libraries.find_class(library, name, packages)


def test_one_component_of_a_pipeline(pipeline: Path) -> None:
    made = plan_of(pipeline, Vae)
    assert (made.method, made.components[0].path) == ("model", str(pipeline / "vae"))
    assert plan_of(pipeline, Tokenizer).components[0].path == str(pipeline / "tokenizer")


def test_a_subfolder_of_the_binding_is_the_model(pipeline: Path) -> None:
    made = plan_of(pipeline, Vae, choice=ModelChoice(ref="a/b", subfolder="vae"))
    assert made.path == str(pipeline / "vae")
    with pytest.raises(ModelNotFoundError):
        plan_of(pipeline, Vae, choice=ModelChoice(ref="a/b", subfolder="no"))
    with pytest.raises(ValidationError):
        plan_of(pipeline, Vae, choice=ModelChoice(ref="a/b", subfolder="../.."))


def test_a_transformers_model_says_its_class_and_keeps_its_precision(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"architectures": ["TextModel"]})
    write_weights(tmp_path / "model.safetensors", "BF16")
    made = plan_of(tmp_path)
    (part,) = made.components
    assert (made.cls, made.method, part.dtype, part.size_bytes) == (TextModel, "model", "", 8)


def test_nothing_that_names_a_class_asks_for_an_annotation(tmp_path: Path) -> None:
    write_weights(tmp_path / "strange.safetensors")
    with pytest.raises(AnnotationNeededError, match="annotate the parameter"):
        plan_of(tmp_path)


def test_a_checkpoint_in_one_file_is_known_by_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_weights(file, names=("conditioner.embedders.1.model.x", "y"))
    for path in (tmp_path, file):
        (part,) = plan_of(path).components
        assert part.cls.__name__ == "StableDiffusionXLPipeline"
        assert (part.method, part.weights) == ("file", (str(file),))
        assert part.config_repo == "stabilityai/stable-diffusion-xl-base-1.0"
    write_json(tmp_path / "model_index.json", {})
    assert plan_of(file).components[0].config_path == str(tmp_path)


@pytest.mark.parametrize("annotation", [str, Path])
def test_a_path_is_handed_over_as_it_is(pipeline: Path, annotation: Any) -> None:
    made = load(plan_of(pipeline, annotation))
    assert made.object == annotation(str(pipeline))
    assert type(made.object) is type(annotation(""))


def test_setup_without_annotation_gets_the_path(pipeline: Path) -> None:
    assert load(plan_of(pipeline, None, is_setup=True)).object == str(pipeline)
    assert plan_of(pipeline, Pipeline, is_setup=True).method == "pipeline"


def test_any_class_with_from_pretrained_gets_the_path(pipeline: Path) -> None:
    class Mine:
        def __init__(self, path: str) -> None:
            self.path = path

        @classmethod
        def from_pretrained(cls, path: str) -> "Mine":
            return cls(path)

    loaded = load(plan_of(pipeline, Mine))
    assert isinstance(loaded.object, Mine)
    assert loaded.object.path == str(pipeline)


def test_a_class_that_nothing_can_be_made_of(pipeline: Path) -> None:
    with pytest.raises(NoProviderError, match=r"no injection provider for type .*Fraction"):
        plan_of(pipeline, Fraction, parameter="half")


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="fetch it again") as caught:
        plan_of(tmp_path / "gone", Vae, choice=ModelChoice(ref="acme/gone"))
    assert isinstance(caught.value, ModelResolutionError)
    assert caught.value.model_id == "acme/gone"


def _pickle_beside(root: Path) -> None:
    (root / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")


def _page_instead(root: Path) -> None:
    (root / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>no</html>" * 9)


def _flashpack(root: Path) -> None:
    (root / "unet.flashpack").write_bytes(b"x")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_pickle_beside, UnsafeFileFormat),
        (_page_instead, DamagedFileError),
        (_flashpack, UnsupportedFormatError),
    ],
)
@pytest.mark.parametrize("annotation", [Pipeline, None, Vae])
def test_what_must_not_be_opened_is_refused_before_anything_is(
    pipeline: Path, spoil: Callable[[Path], None], error: type[Exception], annotation: Any
) -> None:
    spoil(pipeline)
    if annotation is Vae and error is DamagedFileError:
        return  # of another component, which is not opened
    with pytest.raises(error):
        plan_of(pipeline, annotation)


def test_a_pickle_beside_safe_weights_is_out_of_the_libraries_sight(pipeline: Path) -> None:
    (pipeline / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert plan_of(pipeline).needs_view


def test_a_configuration_that_names_code_is_out_of_the_libraries_sight(pipeline: Path) -> None:
    write_json(pipeline / "unet" / "config.json", {"auto_map": {"AutoModel": "evil.Model"}})
    assert plan_of(pipeline).needs_view


class TestSpecFile:
    SPEC = """
apiVersion: v1
kind: DiffusersPipeline
pipe: {class: Pipeline}
components:
  unet: {path: unet, library: diffusers, class: Unet}
  vae: {path: my_vae, library: diffusers, class: Vae}
  tokenizer: {library: transformers, class: Tokenizer}
  scheduler: {library: diffusers, class: Scheduler}
"""

    @pytest.fixture
    def root(self, pipeline: Path) -> Path:
        pytest.importorskip("yaml")
        (pipeline / "model_index.json").unlink()
        (pipeline / "vae").rename(pipeline / "my_vae")
        (pipeline / "cozy.pipeline.yaml").write_text(self.SPEC)
        return pipeline

    def test_stands_for_the_index(self, root: Path) -> None:
        made = plan_of(root)
        places = {part.name: Path(part.path).name for part in made.components}
        assert places["vae"] == "my_vae"
        assert made.needs_view
        assert made.index["_class_name"] == "Pipeline"
        assert made.index["vae"] == ["diffusers", "Vae"]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (("path: my_vae", "path: ../other"), "no name at the root"),
            (("path: unet", "path: unet, ref: a/b"), "only 'cozy.pipeline.lock.yaml'"),
            (("apiVersion: v1", "apiVersion: v7"), "apiVersion"),
        ],
    )
    def test_breaking_its_rules(self, root: Path, change: tuple[str, str], words: str) -> None:
        (root / "cozy.pipeline.yaml").write_text(self.SPEC.replace(*change))
        with pytest.raises(FatalError, match=words):
            plan_of(root)

    def test_python_in_the_model_is_refused(self, root: Path) -> None:
        text = self.SPEC.replace("{class: Pipeline}", "{class: Pipeline, custom_pipeline_path: x}")
        (root / "cozy.pipeline.yaml").write_text(text)
        with pytest.raises(UnsafeFileFormat):
            plan_of(root)


def test_a_component_of_another_model(pipeline: Path) -> None:
    shared = pipeline.parent / "common"
    (pipeline / "vae").rename(shared)
    write_json(pipeline / "model_index.json", INDEX | {"vae": {"_cozy_ref": "common"}})
    made = plan_of(pipeline)
    part = next(part for part in made.components if part.name == "vae")
    assert (part.cls, part.path, part.method) == (Vae, str(shared), "model")
    assert made.index["vae"] == ["diffusers", "Vae"]
    write_json(pipeline / "model_index.json", INDEX | {"vae": {"_cozy_ref": "../../etc"}})
    with pytest.raises(ValidationError):
        plan_of(pipeline)


def test_a_component_of_another_model_is_checked_like_its_own(pipeline: Path) -> None:
    shared = pipeline.parent / "model-common"  # its name begins like the model's
    (pipeline / "vae").rename(shared)
    weights = shared / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    write_json(pipeline / "model_index.json", INDEX | {"vae": {"_cozy_ref": "model-common"}})
    with pytest.raises(UnsafeFileFormat, match=r"\.bin"):
        plan_of(pipeline)


def test_the_configuration_beside_a_checkpoint_names_no_foreign_class(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_weights(file, names=("conditioner.embedders.1.model.x", "y"))
    write_json(tmp_path / "model_index.json", {"unet": ["subprocess", "Popen"]})
    with pytest.raises(UnknownClassError, match="no such class"):
        plan_of(file)


def _no_weights(root: Path) -> None:
    (root / "unet" / "diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.parametrize(("spoil", "axis"), [(_no_weights, "components"), (_flashpack, "format")])
def test_a_model_that_the_caller_chose_is_a_surprise(
    pipeline: Path, spoil: Callable[[Path], None], axis: str
) -> None:
    spoil(pipeline)
    chosen = ModelChoice(ref="acme/theirs", source="override")
    with pytest.raises(RefCompatibilitySurprise) as caught:
        plan_of(pipeline, Pipeline, choice=chosen)
    assert (caught.value.ref, caught.value.axis) == ("acme/theirs", axis)
    with pytest.raises(FatalError):
        plan_of(pipeline, Pipeline, choice=ModelChoice(ref="acme/ours"))


def test_an_annotation_that_cannot_be_loaded_is_not_the_callers_fault(pipeline: Path) -> None:
    with pytest.raises(NoProviderError):
        plan_of(pipeline, Fraction, choice=ModelChoice(ref="acme/theirs", source="override"))


def test_a_component_that_this_version_added_may_be_absent_from_older_models(
    pipeline: Path,
) -> None:
    index = {name: value for name, value in INDEX.items() if name != "safety_checker"}
    write_json(pipeline / "model_index.json", index)
    (absent,) = [part for part in plan_of(pipeline).components if part.method == "absent"]
    assert absent.name == "safety_checker"


def test_a_component_whose_files_are_gone_is_missing_even_if_it_may_be_none(
    pipeline: Path,
) -> None:
    optional = class_of("Loose", "diffusers", Pipeline, _optional_components=["vae"])
    for file in (pipeline / "vae").iterdir():
        file.unlink()
    with pytest.raises(MissingComponentsError) as caught:
        plan_of(pipeline, optional)
    assert caught.value.missing == ("safety_checker", "vae")


class TestQuantized:
    def test_bitsandbytes_by_attributes(self, pipeline: Path) -> None:
        attributes = {"quant_library": ("bitsandbytes",), "quant_recipe": ("bnb:nf4",)}
        made = plan_of(pipeline, choice=ModelChoice(ref="a/b", attributes=attributes))
        found = {part.name: part.quantization for part in made.components if part.quantization}
        assert set(found) == {"unet"}
        assert (found["unet"].library, found["unet"].recipe) == ("bitsandbytes", "nf4")

    def test_files_in_the_fp8_variant_need_torchao(self, pipeline: Path) -> None:
        weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_name("diffusion_pytorch_model.fp8.safetensors"))
        part = next(part for part in plan_of(pipeline).components if part.name == "unet")
        assert part.quantization is not None
        assert (part.quantization.library, part.quantization.recipe) == ("torchao", "fp8")

    def test_weights_that_say_so_themselves_are_left_as_they_are(self, pipeline: Path) -> None:
        config = {"quantization_config": {"quant_method": "bitsandbytes"}}
        write_json(pipeline / "unet" / "config.json", config)
        part = next(part for part in plan_of(pipeline).components if part.name == "unet")
        assert part.packages == ("bitsandbytes",)
        assert part.quantization is None
        assert part.size_bytes == 16
