"""The checks by which conversion is accepted, from the ninth on: what comes in, and what may not.

Sites, hub and worker are real servers and the real engine; models those that the libraries made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker import clone
from gen_worker.conversion import (
    ConversionContext,
    Dataset,
    DatasetContext,
    ProducedFlavor,
    Source,
    training_function,
)
from gen_worker.conversion.classify import RepoRefusal
from gen_worker.conversion.convert import plan_conversion, run_conversion
from gen_worker.conversion.layout.single_file import (
    diffusers_to_singlefile,
    singlefile_to_diffusers,
)
from gen_worker.errors import ValidationError
from gen_worker.models.hub import publish_folder, pull_folder
from gen_worker.models.refs import TensorhubRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provider_sites import World
    from publishing_hub import Hub, Worker

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def tensors(folder: Path) -> dict[str, Any]:
    """Return all tensors of a folder; some text encoders have one more word in their names."""
    every = Source(folder).state_dict()
    return {name.replace(".text_model.", "."): tensor for name, tensor in every.items()}


def ask(**fields: Any) -> dict[str, Any]:
    return {"huggingface_repo": "some/model", "destination_repo": "acme/model", **fields}


def test_09_a_source_in_the_precision_asked_for_is_not_cast(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_worker.models.tiny import tiny_stable_diffusion

    def never(*args: object, **options: object) -> None:
        raise AssertionError("nothing is to be converted")

    monkeypatch.setattr("gen_worker.conversion.convert.run_conversion", never)
    source = Path(tiny_stable_diffusion(tmp_path / "sd", dtype="bfloat16"))
    here.sites.repos["some/model"] = contents(source)
    output = clone.from_huggingface(here.context(), ask(outputs=["bf16"]), providers=here.providers)
    assert output.metadata["flavors"] == ["bf16"]
    assert here.published("acme/model:latest#bf16", tmp_path / "out") == contents(source)


def test_10_a_version_of_civitai_is_imported_end_to_end(here: World, tmp_path: Path) -> None:
    from gen_worker.models.tiny import tiny_stable_diffusion

    source = tiny_stable_diffusion(tmp_path / "sd")
    file = Path(diffusers_to_singlefile(source, tmp_path / "one.safetensors", dtype="").file.path)
    here.sites.add_version(5, {"one.safetensors": file.read_bytes()}, baseModel="SD 1.5")
    here.sites.token = "civitai_secret"
    output = clone.from_civitai(
        here.context(),
        {"civitai_model_version_id": 5, "destination_repo": "acme/model"},
        civitai_api_key="civitai_secret",
        providers=here.providers,
    )
    assert (output.metadata["flavors"], output.metadata["failed_flavors"]) == (["bf16"], [])
    made = here.published("acme/model:latest#bf16", tmp_path / "out")
    assert [path for path in made if path.endswith(".safetensors")] == ["model.safetensors"]
    pipe = diffusers.StableDiffusionPipeline.from_single_file(
        str(tmp_path / "out" / "model.safetensors"),
        config=source,
        local_files_only=True,
        dtype=torch.bfloat16,
    )
    before = diffusers.UNet2DConditionModel.from_pretrained(source, subfolder="unet").state_dict()
    assert all(
        torch.equal(x, before[name].bfloat16()) for name, x in pipe.unet.state_dict().items()
    )


def test_11_bits_and_types_of_gguf_are_precisions_and_nothing_else_is(
    here: World, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    from gen_worker.models.formats import read_gguf_header
    from gen_worker.models.tiny import tiny_llama

    here.sites.repos["some/model"] = contents(Path(tiny_llama(tmp_path / "llama")))
    for token in ("wild8", "5bits", "gguf:q9_z"):
        with pytest.raises(ValidationError, match=token):
            clone.from_huggingface(
                here.context(), ask(outputs=["bf16", token]), providers=here.providers
            )
    assert here.sites.asked == []
    outputs = ["q4_k_m", {"dtype": "4bit", "file_type": "gguf"}, "4bit"]
    output = clone.from_huggingface(here.context(), ask(outputs=outputs), providers=here.providers)
    assert output.metadata["flavors"] == ["fp32", "q4_k_m", "q4_k_l", "nvfp4"]
    assert output.metadata["failed_flavors"] == []
    here.published("acme/model:latest#q4_k_m", tmp_path / "out")
    [file] = (tmp_path / "out").glob("*.gguf")
    header = read_gguf_header(str(file))
    assert header.metadata["general.architecture"] == "llama"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert loaded(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


PROMPTS: list[list[str]] = []


@training_function(kind="dataset-generation")
def make_prompts(ctx: DatasetContext, text: str) -> list[ProducedFlavor]:
    with ctx.dataset_writer({"prompt": "string"}, kind="prompt_corpus") as out:
        out.write({"prompt": text})
    return [ProducedFlavor(out.directory)]


@training_function(kind="dataset-generation:read")
def read_prompts(ctx: DatasetContext, datasets: list[Dataset]) -> list[ProducedFlavor]:
    PROMPTS.extend([row["prompt"] for row in one.iter_prompts()] for one in datasets)
    return []


@training_function(kind="format-conversion")
def to_bf16(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    plan = plan_conversion(source.path, ["bf16"], out=ctx.mktemp() / "out")
    return list(run_conversion(plan).flavors)


@training_function(kind="format-conversion")
def pack(ctx: ConversionContext, source: Source) -> list[ProducedFlavor]:
    made = diffusers_to_singlefile(source.path, ctx.mktemp() / "model.safetensors", dtype="")
    return [ProducedFlavor(made.file.path, flavor="singlefile")]


@training_function(kind="format-conversion")
def unpack(ctx: ConversionContext, source: Source, config: str) -> list[ProducedFlavor]:
    out = ctx.mktemp() / "out"
    singlefile_to_diffusers(source.path / "model.safetensors", out, config_dir=config, dtype="")
    return [ProducedFlavor(out, flavor="diffusers")]


@pytest.fixture(scope="module")
def hub(publishing: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with publishing.running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def worker(publishing: Any, hub: Hub, tmp_path: Path) -> Iterator[Worker]:
    functions = (make_prompts, read_prompts, to_bf16, pack, unpack)
    worker = publishing.Worker(tmp_path / "worker", hub, *functions)
    yield worker
    worker.close()
    PROMPTS.clear()


def run(worker: Worker, function: str, **payload: Any) -> Any:
    answer = worker.run(function, payload)
    assert not hasattr(answer, "error_type"), answer
    return answer


def test_12_a_dataset_published_twice_is_read_as_it_is_now(worker: Worker) -> None:
    for text in ("a cat", "a dog"):
        run(worker, "make-prompts", destination={"ref": "acme/prompts"}, text=text)
        run(worker, "read-prompts", datasets=[{"ref": "acme/prompts"}])
    assert PROMPTS == [["a cat"], ["a dog"]]


class Claimed(bytes):
    """A file that is said to be large."""

    def __len__(self) -> int:
        return 30 << 30


PICKLE = b"\x80\x04" + b"x" * 9000
INDEX = b'{"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}'
REFUSED: dict[str, dict[str, bytes]] = {
    "pickle_only": {"config.json": b"{}", "pytorch_model.bin": PICKLE},
    "tf_keras_only": {"config.json": b"{}", "tf_model.h5": PICKLE},
    "onnx_only": {"config.json": b"{}", "onnx/model.onnx": PICKLE},
    "openvino_only": {"openvino_model.xml": b"<a/>", "openvino_model.bin": PICKLE},
    "tflite_only": {"model.tflite": PICKLE},
    "tensorrt_only": {"unet.plan": PICKLE},
    "coreml_only": {"a.mlpackage/Data/weights/weight.bin": PICKLE, "a.mlmodel": PICKLE},
    "flax_only": {"config.json": b"{}", "flax_model.msgpack": PICKLE},
    "nemo_only": {"model.nemo": PICKLE},
    "unknown_shape": {"README.md": b"# No model", "data.csv": PICKLE},
    "too_large": {"config.json": b"{}", "model.safetensors": Claimed(PICKLE)},
    "missing_safetensors": {
        "model_index.json": INDEX,
        "unet/diffusion_pytorch_model.safetensors": safetensors_torch.save(
            {"a": torch.zeros(64, 64)}
        ),
    },
}


def kinds_below(cls: type[RepoRefusal]) -> Iterator[str]:
    for one in cls.__subclasses__():
        yield one.refusal_kind
        yield from kinds_below(one)


def test_13_every_kind_of_refusal_is_told_before_weights_move(here: World) -> None:
    assert sorted(kinds_below(RepoRefusal)) == sorted(REFUSED)
    for kind, files in REFUSED.items():
        here.sites.repos["some/model"] = files
        with pytest.raises(RepoRefusal) as refused:
            clone.from_huggingface(here.context(), ask(), providers=here.providers)
        assert refused.value.refusal_kind == kind
        assert "some/model" in str(refused.value)
    whole = [one.path for one in here.sites.asked_for("/resolve/") if not one.range]
    assert all(path.endswith((".json", ".md")) for path in whole), whole


_UNOPENED = """
import sys

def guard(event, args):
    if event == "open" and str(args[0]).endswith("pytorch_model.bin"):
        raise AssertionError("the pickle was opened")

sys.addaudithook(guard)
from gen_worker.conversion import Source
from gen_worker.conversion.convert import plan_conversion
from gen_worker.models.formats import UnsafeFileFormat

refusals = plan_conversion(sys.argv[1], ["bf16"], out=sys.argv[2]).refusals
assert all("pytorch_model.bin" in one.reason for one in refusals) and refusals, refusals
try:
    next(Source(sys.argv[1]).iter_tensors())
except UnsafeFileFormat as error:
    assert "pytorch_model.bin" in str(error), error
    print("refused")
"""


def test_14_a_pickle_is_refused_by_name_and_not_opened(
    worker: Worker, hub: Hub, tmp_path: Path
) -> None:
    """Architecture decision 6: pickles are nowhere opened, those with tied weights neither."""
    folder = tmp_path / "tied"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    weight = torch.randn(64, 16)
    torch.save({"wte.weight": weight, "lm_head.weight": weight}, folder / "pytorch_model.bin")
    before = contents(folder)
    command = [sys.executable, "-c", _UNOPENED, str(folder), str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "refused\n"), found.stderr
    assert contents(folder) == before
    assert not (tmp_path / "out").exists()

    with hub.client() as client:
        publish_folder(client, folder, "acme/tied")
    payload = {"source": {"ref": "acme/tied"}, "destination": {"ref": "acme/untied"}}
    failure = worker.run("to-bf16", payload)
    assert "pytorch_model.bin" in failure.message, failure
    assert hub.tree("acme/untied") == {}


def stable_diffusion_2(place: Path) -> None:
    from gen_worker.models.tiny import tiny_stable_diffusion

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_stable_diffusion(place))
    config = {**pipe.unet.config, "use_linear_projection": True}
    pipe.unet = diffusers.UNet2DConditionModel.from_config(config)
    clip = {**pipe.text_encoder.config.to_dict(), "hidden_act": "gelu"}
    pipe.text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(clip))
    pipe.save_pretrained(place)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_15_a_pipeline_comes_back_from_a_single_file(
    worker: Worker, hub: Hub, tmp_path: Path, family: str
) -> None:
    from gen_worker.models.tiny import tiny_stable_diffusion, tiny_stable_diffusion_xl

    folder = tmp_path / family
    makers: dict[str, Any] = {
        "sd15": tiny_stable_diffusion,
        "sd2": stable_diffusion_2,
        "sdxl": tiny_stable_diffusion_xl,
    }
    makers[family](folder)
    with hub.client() as client:
        publish_folder(client, folder, f"acme/{family}")
    steps = {"pack": (family, "one", {}), "unpack": ("one", "back", {"config": str(folder)})}
    for function, (source, name, more) in steps.items():
        destination = {"ref": f"acme/{name}", "tags": ["prod"]}
        payload = {"source": {"ref": f"acme/{source}"}, "destination": destination}
        assert run(worker, function, **payload, **more)["published"]["ok"]
    with hub.client() as client:
        pull_folder(client, TensorhubRef(owner="acme", repo="back"), tmp_path / "b")
    before, after = tensors(folder), tensors(tmp_path / "b")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
