"""An output is proven before it is published, and what is wrong with one is named."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.conversion import Source, StreamingWriter, cast_checkpoint, write_safetensors
from gen_worker.conversion.lazy import cast, open_checkpoint
from gen_worker.conversion.quantize import quantize_checkpoint
from gen_worker.conversion.verify import (
    Limits,
    QualityGate,
    VerificationError,
    read_quantized,
    usual_gate,
    verify_output,
)
from gen_worker.errors import CanceledError
from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion

if TYPE_CHECKING:
    from gen_worker.conversion.lazy import Checkpoint

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),  # of torchao, when compiled
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "model"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_llama(tmp_path_factory.mktemp("llama") / "model"))


@pytest.fixture
def cast_llama(llama: Path, tmp_path: Path) -> Path:
    """The same model in bf16."""
    target = tmp_path / "bf16"
    checkpoint = cast_checkpoint(open_checkpoint(llama), "BF16")
    write_safetensors(checkpoint, target)
    shutil.copy(llama / "config.json", target)
    return target


def rewrite(path: Path, change: Any) -> None:
    """Change the tensors of a file."""
    tensors = safetensors_torch.load_file(path)
    change(tensors)
    safetensors_torch.save_file(tensors, path, {"format": "pt"})


def test_a_pipeline_in_half_precision_loads_and_its_errors_are_measured(
    pipeline: Path, tmp_path: Path
) -> None:
    writer = StreamingWriter(pipeline, tmp_path / "out")
    source = Source(pipeline)
    for component, name, tensor in source.iter_tensors():
        writer.write(component, name, tensor.to(torch.bfloat16))
    report = verify_output(writer.finalize(), source)

    assert report.loaded == {
        "text_encoder": "CLIPTextModel",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
    assert len(report.tensors) == sum(len(one) for one in source.checkpoints().values())
    worst = report.worst
    assert worst is not None
    assert worst.snr_db is not None
    assert 45 < worst.snr_db < 62  # seven bits and the hidden one: about 6 dB each
    assert (worst.dtype, worst.source_dtype) == ("BF16", "F32")
    assert report.nonfinite == 0
    exact = [one for one in report.tensors if one.max_abs == 0]
    assert all(one.snr_db is None and one.mean_abs == 0 for one in exact)
    assert json.loads(json.dumps(report.summary()))["max_abs"] > 0


def test_an_error_is_that_of_a_direct_computation(cast_llama: Path, llama: Path) -> None:
    report = verify_output(cast_llama, llama)
    (found,) = [one for one in report.tensors if one.name == "model.embed_tokens.weight"]
    weight = open_checkpoint(llama)[found.name].tensor().double()
    error = (weight.bfloat16().double() - weight).abs()
    assert found.max_abs == pytest.approx(float(error.max()))
    assert found.mean_abs == pytest.approx(float(error.mean()))
    expected = 10 * torch.log10(weight.square().sum() / error.square().sum())
    assert found.snr_db == pytest.approx(float(expected), abs=1e-4)


def test_missing_extra_and_reshaped_tensors_are_all_named(cast_llama: Path, llama: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        del tensors["model.norm.weight"]
        tensors["stray"] = torch.zeros(2)
        name = "model.embed_tokens.weight"
        tensors[name] = tensors[name][:-1].contiguous()

    rewrite(cast_llama / "model.safetensors", change)
    with pytest.raises(VerificationError) as caught:
        verify_output(cast_llama, llama)
    text = str(caught.value)
    assert "tensor model.norm.weight is missing" in text
    assert "tensor stray is not one of the source" in text
    assert "tensor model.embed_tokens.weight is [" in text
    assert (caught.value.file, caught.value.step) == (str(cast_llama), "verify")
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems


def test_a_component_that_is_missing_is_named(pipeline: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    shutil.rmtree(copy / "vae")
    with pytest.raises(VerificationError, match="component vae is missing"):
        verify_output(copy, pipeline)


def test_a_configuration_that_is_not_of_these_weights_is_found(
    cast_llama: Path, llama: Path
) -> None:
    """The names are right, and yet no loader could use it."""
    config = json.loads((cast_llama / "config.json").read_bytes())
    config["intermediate_size"] *= 2
    (cast_llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(VerificationError, match=r"LlamaForCausalLM\): tensor .*gate_proj.* wants"):
        verify_output(cast_llama, llama)
    config["architectures"] = ["NoSuchClass"]
    del config["model_type"]
    (cast_llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(VerificationError, match="names no class that can load it"):
        verify_output(cast_llama, llama)
    assert verify_output(cast_llama, llama, loads=False).loaded == {}


def test_what_is_no_number_is_counted_and_new_ones_block(cast_llama: Path, llama: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["model.norm.weight"][:2] = float("nan")
        tensors["model.norm.weight"][2] = float("inf")

    rewrite(cast_llama / "model.safetensors", change)
    with pytest.raises(VerificationError, match=r"model.norm.weight has 3 values that are no"):
        verify_output(cast_llama, llama)
    report = verify_output(cast_llama, llama, limits=Limits(allow_new_nonfinite=True))
    (found,) = [one for one in report.tensors if one.name == "model.norm.weight"]
    assert (found.nan, found.inf, report.nonfinite) == (2, 1, 3)
    # Those of the source are reported, and are not the conversion's.
    report = verify_output(cast_llama, cast_llama)
    assert report.nonfinite == 3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(min_snr_db=90), r"has \d+\.\d dB, 90 dB are needed"),
        (Limits(max_abs=1e-9), r"is off by .*, 1e-09 is allowed"),
    ],
)
def test_limits_block(cast_llama: Path, llama: Path, limits: Limits, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        verify_output(cast_llama, llama, limits=limits)


def test_a_single_file_is_compared_without_a_class(cast_llama: Path, llama: Path) -> None:
    report = verify_output(cast_llama / "model.safetensors", llama)
    assert report.loaded == {}
    assert report.tensors


def test_stored_tensors_are_read_back_under_the_names_of_the_source(
    llama: Path, tmp_path: Path
) -> None:
    """As quantised outputs are: here, halves of other names."""
    source = open_checkpoint(llama)
    stored = {f"packed.{name}": cast(one, "F16") for name, one in source.items()}
    write_safetensors(stored, tmp_path / "out")
    shutil.copy(llama / "config.json", tmp_path / "out")

    def read_back(component: str, checkpoint: Checkpoint) -> Checkpoint:
        assert component == ""
        return {name.removeprefix("packed."): one for name, one in checkpoint.items()}

    report = verify_output(tmp_path / "out", llama, read_back=read_back)
    assert report.loaded == {"": "LlamaForCausalLM"}
    with pytest.raises(VerificationError, match="is missing"):
        verify_output(tmp_path / "out", llama)


def test_quantized_weights_are_compared_as_loaders_read_them(llama: Path, tmp_path: Path) -> None:
    quantized = quantize_checkpoint(open_checkpoint(llama), "int8")
    write_safetensors(quantized.tensors, tmp_path / "out", metadata=quantized.metadata)
    config = json.loads((llama / "config.json").read_bytes())
    config["quantization_config"] = dict(quantized.config)
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))

    report = verify_output(tmp_path / "out", llama, read_back=read_quantized({"": quantized}))

    assert report.loaded == {"": "LlamaForCausalLM"}
    lossy = {one.name: one for one in report.tensors if one.max_abs}
    assert quantized.weights.keys() <= lossy.keys()
    assert all((lossy[name].snr_db or 0) > 30 for name in quantized.weights)


def test_recipes_may_say_what_is_expected(cast_llama: Path, llama: Path) -> None:
    expected = {"": cast_checkpoint(open_checkpoint(llama), "BF16")}
    report = verify_output(cast_llama, expected)
    assert report.worst is None


def test_a_quality_gate_compares_what_the_models_give(cast_llama: Path, llama: Path) -> None:
    report = verify_output(cast_llama, llama, gate=usual_gate(llama, min_snr_db=20))
    assert report.quality is not None
    assert report.quality.snr_db is not None
    assert report.quality.snr_db > 20
    with pytest.raises(VerificationError, match="90 dB are needed"):
        verify_output(cast_llama, llama, gate=usual_gate(llama, min_snr_db=90))


def test_models_of_a_gate_see_the_same_random_numbers(cast_llama: Path, llama: Path) -> None:
    seen = []

    def outputs(path: str) -> list[Any]:
        seen.append(torch.rand(4))
        return [seen[-1]]

    report = verify_output(
        cast_llama, llama, gate=QualityGate(outputs=outputs, min_snr_db=20, seed=5)
    )
    assert torch.equal(*seen)
    assert report.quality is not None
    assert report.quality.snr_db is None


def test_a_cancel_ends_it(cast_llama: Path, llama: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CanceledError):
        verify_output(cast_llama, llama, token=token)
