"""A source's components, tensors and sizes; the output has every file that its loader wants."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion import (
    ConversionContext,
    ConversionInputError,
    DestinationRepo,
    ProducedFlavor,
    Source,
    StreamingWriter,
    copy_unconverted_components,
    training_function,
)
from gen_worker.conversion.source import MissingShardError
from gen_worker.models.formats import DamagedIndexError, UnsafeFileFormat
from gen_worker.models.loading.errors import MissingPackageError
from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")


pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),  # of torchao, when compiled
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "model"))


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("llama") / "model"))


@pytest.fixture
def pipeline(pipeline_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline_dir, tmp_path / "source"))


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_components_are_those_of_the_index_and_folders_with_weights(pipeline: Path) -> None:
    shutil.copytree(pipeline / "unet", pipeline / "connectors")
    (pipeline / "images").mkdir()
    source = Source(pipeline, attributes={"a": 1}, ref="o/r")
    assert source.file_layout == "diffusers"
    assert (source.ref, source.attributes) == ("o/r", {"a": 1})
    assert list(source.components) == [
        *("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
        "connectors",
    ]
    assert [name for name, part in source.components.items() if part.holds_weights] == [
        *("text_encoder", "unet", "vae"),
        "connectors",
    ]
    assert source.components["unet"].config["_class_name"] == "UNet2DConditionModel"
    assert source.config()["_class_name"] == "StableDiffusionPipeline"


def test_a_folder_of_transformers_has_no_components(llama_dir: Path) -> None:
    source = Source(llama_dir)
    assert (source.file_layout, source.components) == ("singlefile", {})
    assert source.config()["model_type"] == "llama"
    assert source.hf_dir() == llama_dir
    weights = safetensors_torch.load_file(llama_dir / "model.safetensors")
    found = {name: tensor for component, name, tensor in source.iter_tensors() if not component}
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert source.state_dict().keys() == weights.keys()
    assert source.weights_size_bytes() == (llama_dir / "model.safetensors").stat().st_size
    assert source.largest_quant_component_size_bytes() == source.weights_size_bytes()


def test_one_file_is_a_source(llama_dir: Path) -> None:
    source = Source(llama_dir / "model.safetensors")
    assert source.state_dict().keys() == Source(llama_dir).state_dict().keys()
    assert source.hf_dir() == llama_dir
    assert source.config() == {}
    assert source.weights_size_bytes() == Source(llama_dir).weights_size_bytes()


def test_tensors_of_components_have_local_names(pipeline_dir: Path) -> None:
    source = Source(pipeline_dir)
    seen = {component for component, _, _ in source.iter_tensors()}
    assert seen == {"text_encoder", "unet", "vae"}
    only = {component for component, _, _ in source.iter_tensors(["vae", "scheduler"])}
    assert only == {"vae"}
    unet = safetensors_torch.load_file(
        pipeline_dir / "unet" / "diffusion_pytorch_model.safetensors"
    )
    state = source.state_dict(["unet"])
    assert state.keys() == {f"unet.{name}" for name in unet}
    parts = dict(source.components["unet"].iter_tensors())
    assert parts.keys() == unet.keys()
    with pytest.raises(ConversionInputError, match="no component 'nothing'"):
        source.state_dict(["nothing"])


def test_one_tensor_is_alive_in_a_plain_loop(pipeline_dir: Path) -> None:
    alive: weakref.ref[Any] | None = None
    for _, _, tensor in Source(pipeline_dir).iter_tensors(["vae"]):
        assert alive is None or alive() is None
        alive = weakref.ref(tensor)
        del tensor
        gc.collect(0)


def test_a_wanted_variant_is_read_where_there_is_one(pipeline: Path) -> None:
    vae = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    halves = {name: tensor.half() for name, tensor in safetensors_torch.load_file(vae).items()}
    safetensors_torch.save_file(halves, vae.with_suffix(".fp16.safetensors"))
    vae.with_suffix(".fp16.safetensors").rename(
        vae.parent / "diffusion_pytorch_model.fp16.safetensors"
    )
    dtypes = {
        component: tensor.dtype
        for component, _, tensor in Source(pipeline, variant="fp16").iter_tensors()
    }
    assert dtypes["vae"] == torch.float16
    assert dtypes["unet"] == torch.float32


def test_an_index_without_a_map_or_a_shard_has_its_name(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"^sharded_index_missing_weight_map:") as no_map:
        Source(tmp_path).state_dict()
    assert isinstance(no_map.value, ConversionInputError)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"^sharded_index_missing_shard:") as no_shard:
        Source(tmp_path).state_dict()
    assert isinstance(no_shard.value, MissingShardError)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(DamagedIndexError):
        Source(tmp_path).state_dict()


def test_modules_are_loaded_by_their_configurations(pipeline_dir: Path, llama_dir: Path) -> None:
    parts = Source(pipeline_dir).components
    assert type(parts["unet"].as_hf_module()).__name__ == "UNet2DConditionModel"
    assert type(parts["text_encoder"].as_hf_module()).__name__ == "CLIPTextModel"
    with pytest.raises(ValueError, match="names a class"):
        parts["tokenizer"].as_hf_module()
    source = Source(llama_dir)
    assert type(source.as_hf_model()).__name__ == "LlamaForCausalLM"
    assert source.tokenizer() is source.tokenizer()
    assert type(Source(pipeline_dir).as_hf_model()).__name__ == "StableDiffusionPipeline"


def test_components_for_quantisers(pipeline_dir: Path, tmp_path: Path) -> None:
    found = list(Source(pipeline_dir).iter_hf_components_streaming(passthrough_only=["unet"]))
    kinds = {item.name: item.kind for item in found}
    assert kinds["text_encoder"] == "bf16_cpu"
    assert {name for name, kind in kinds.items() if kind == "passthrough"} == {
        *("unet", "vae", "tokenizer", "scheduler")
    }
    assert found[-1].name == "_root"
    assert found[-1].kind == "root"
    for item in found:
        if item.kind == "bf16_cpu":
            assert next(item.module.parameters()).dtype == torch.bfloat16
        else:
            with pytest.raises(AttributeError, match="was not loaded"):
                item.module  # noqa: B018
        item.save_to(tmp_path / "out")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert pipe.text_encoder is not None


def test_a_folder_of_transformers_is_one_component(llama_dir: Path, tmp_path: Path) -> None:
    (item,) = Source(llama_dir).iter_hf_components(compute_dtype=torch.float16)
    assert (item.name, item.kind) == ("model", "quantized")
    item.save_to(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == torch.float16
    (file,) = Source(llama_dir / "model.safetensors").iter_hf_components()
    assert file.kind == "passthrough"


def convert(source: Source, out: Path, dtype: Any, only: str = "", **options: Any) -> Path:
    writer = StreamingWriter(source, out, **options)
    for component, name, tensor in source.iter_tensors([only] if only else None):
        writer.write(component, name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return writer.finalize()


def test_a_language_model_keeps_its_configuration_and_tokenizer(
    llama_dir: Path, tmp_path: Path
) -> None:
    made = convert(Source(llama_dir), tmp_path / "out", torch.bfloat16)
    assert made == tmp_path / "out"
    before, after = files_below(llama_dir), files_below(made)
    assert before.keys() == after.keys()
    same = before.keys() - {"model.safetensors", "config.json"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert json.loads(after["config.json"])["dtype"] == "bfloat16"
    model = transformers.AutoModelForCausalLM.from_pretrained(made)
    assert model.dtype == torch.bfloat16
    with safetensors_open(made / "model.safetensors") as file:
        assert file.metadata() == {"format": "pt"}


def safetensors_open(path: Path) -> Any:
    import safetensors

    return safetensors.safe_open(path, "pt")


def test_components_that_were_not_written_are_copied_as_they_are(
    pipeline_dir: Path, tmp_path: Path
) -> None:
    made = convert(Source(pipeline_dir), tmp_path / "out", torch.float16, only="unet")
    before, after = files_below(pipeline_dir), files_below(made)
    assert before.keys() == after.keys()
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert {name for name in before if before[name] != after[name]} == {unet}
    assert diffusers.StableDiffusionPipeline.from_pretrained(made).unet.dtype == torch.float32
    loaded = diffusers.UNet2DConditionModel.from_pretrained(made / "unet", dtype=torch.float16)
    wanted = safetensors_torch.load_file(pipeline_dir / unet)
    assert all(torch.equal(value, wanted[k].half()) for k, value in loaded.state_dict().items())


def test_shards_replace_one_file_and_stale_indexes_go(pipeline: Path, tmp_path: Path) -> None:
    (pipeline / "unet" / "diffusion_pytorch_model.bin.index.json").write_text("{}")
    (pipeline / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"old")
    (pipeline / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (pipeline / "unet" / "LICENSE.md").write_text("mine")
    source = Source(pipeline, variant="")
    made = convert(source, tmp_path / "out", torch.bfloat16, "unet", max_shard_bytes=50_000)
    names = {path.name for path in (made / "unet").iterdir()}
    assert {"config.json", "LICENSE.md", "diffusion_pytorch_model.safetensors.index.json"} < names
    assert all("-of-" in name for name in names if name.endswith(".safetensors"))
    assert not any(".bin" in name for name in names)
    assert diffusers.UNet2DConditionModel.from_pretrained(made / "unet") is not None


def test_text_encoders_get_the_name_their_library_wants(pipeline_dir: Path, tmp_path: Path) -> None:
    made = convert(Source(pipeline_dir), tmp_path / "out", torch.bfloat16)
    assert files_below(made).keys() == files_below(pipeline_dir).keys()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(made, dtype=torch.bfloat16)
    assert pipe.vae.dtype == torch.bfloat16


def test_a_component_that_is_passed_through_is_in_the_output(
    pipeline_dir: Path, tmp_path: Path
) -> None:
    writer = StreamingWriter(Source(pipeline_dir), tmp_path / "out")
    for name in ("unet", "vae"):
        writer.passthrough(name)
    assert files_below(writer.finalize()) == files_below(pipeline_dir)


def test_a_single_file_comes_back_as_a_file(llama_dir: Path, tmp_path: Path) -> None:
    source = Source(llama_dir / "model.safetensors")
    made = convert(source, tmp_path / "out", torch.float32)
    assert made == tmp_path / "out" / "model.safetensors"
    assert made.read_bytes() == source.path.read_bytes()
    writer = StreamingWriter(source, tmp_path / "passed")
    writer.passthrough("")
    assert files_below(writer.finalize()) == {"model.safetensors": source.path.read_bytes()}
    assert StreamingWriter(source, tmp_path / "none").finalize() == tmp_path / "none"


def test_misuse_of_the_writer_is_refused(
    pipeline_dir: Path, llama_dir: Path, tmp_path: Path
) -> None:
    writer = StreamingWriter(pipeline_dir, tmp_path / "out")
    one = torch.ones(1)
    writer.write("unet", "a", one)
    writer.passthrough("vae")
    wrong: list[Any] = [
        lambda: writer.write("unet", "a", one),
        lambda: writer.write("", "a", one),
        lambda: writer.write("vae", "a", one),
        lambda: writer.passthrough("unet"),
        lambda: StreamingWriter(llama_dir, tmp_path / "x").write("unet", "a", one),
    ]
    for call in wrong:
        with pytest.raises(RuntimeError):
            call()
    for name in ("../unet", "a/b", ".hidden", "/x"):
        with pytest.raises(ConversionInputError):
            writer.write(name, "a", one)
    with pytest.raises(ConversionInputError, match="no component"):
        writer.passthrough("nothing")
    with pytest.raises(ConversionInputError, match="is not empty"):
        StreamingWriter(pipeline_dir, tmp_path / "out")
    writer.finalize()
    for call in (writer.finalize, lambda: writer.write("unet", "b", one)):
        with pytest.raises(RuntimeError, match="is finalized"):
            call()


def test_a_component_that_is_only_there_as_a_pickle_is_refused(
    pipeline: Path, tmp_path: Path
) -> None:
    weights = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    before = files_below(pipeline)
    with pytest.raises(UnsafeFileFormat, match=r"diffusion_pytorch_model\.bin"):
        convert(Source(pipeline), tmp_path / "out", torch.float16, only="unet")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UnsafeFileFormat):
        Source(pipeline).state_dict(["vae"])
    assert files_below(pipeline) == before


def test_unconverted_components_are_copied_beside_the_converted(
    pipeline_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "unet").mkdir()
    copied = copy_unconverted_components(pipeline_dir, tmp_path, skip=["vae"])
    assert copied == ["scheduler", "text_encoder", "tokenizer"]
    assert {path.name for path in tmp_path.iterdir()} == {*copied, "unet", "model_index.json"}
    assert copy_unconverted_components(Source(pipeline_dir), tmp_path) == ["vae"]


@training_function(kind="format-conversion")
def halve(
    ctx: ConversionContext, source: Source, destination: DestinationRepo
) -> list[ProducedFlavor]:
    writer = ctx.open_output_writer()
    for component, name, tensor in source.iter_tensors(["unet"]):
        ctx.raise_if_canceled()
        writer.write(component, name, tensor.half())
    beside = ctx.mktemp()
    ctx.copy_unconverted_components(source, beside, skip=["unet"])
    return [
        ProducedFlavor(writer.finalize(), flavor="fp16"),
        ProducedFlavor(beside, flavor="rest"),
    ]


def test_a_function_converts_through_the_engine(pipeline_dir: Path, tmp_path: Path) -> None:
    import io

    (spec,) = specs_of(halve)
    events = JsonLineEvents(io.StringIO())
    engine = Engine([spec], local_ports(events=events, output_dir=str(tmp_path)))
    payload = {"source": {"ref": str(pipeline_dir)}, "destination": {"ref": "o/r"}}
    answer = engine.run(Invocation(function="halve", payload=payload, request_id="r1"))
    assert type(answer).__name__ == "Result", answer
    value: Any = answer.value  # type: ignore[union-attr]
    whole, rest = value["flavors"]
    paths = {item["path"] for item in whole["files"]}
    assert paths == files_below(pipeline_dir).keys()
    assert not any(item["path"].startswith("unet/") for item in rest["files"])
    outputs = {path.name for path in tmp_path.rglob("*.safetensors")}
    assert "diffusion_pytorch_model.safetensors" in outputs


def test_a_library_that_is_missing_while_a_model_is_loaded_is_named(llama_dir: Path) -> None:
    class Quantised:
        @staticmethod
        def from_pretrained(*_: object, **__: object) -> None:
            raise ImportError("pip install compressed-tensors", name="compressed_tensors")

    with pytest.raises(MissingPackageError, match="compressed-tensors") as caught:
        Source(llama_dir).as_hf_model(model_cls=Quantised)
    assert "gen-worker[torch,conversion]" in str(caught.value)
