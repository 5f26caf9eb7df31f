"""Libraries load calibrated weights, and compute with the values and scales that were written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
ct: Any = pytest.importorskip("compressed_tensors.quantization")

from gen_worker.conversion import open_checkpoint, write_safetensors  # noqa: E402
from gen_worker.conversion.quantize import (  # noqa: E402
    QuantizedCheckpoint,
    QuantizeOptions,
    calibrate_checkpoint,
    calibration_data,
    quantize_checkpoint,
)
from gen_worker.conversion.quantize.calibration_text import token_windows  # noqa: E402
from gen_worker.models.tiny import tiny_llama  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

GPTQ: list[tuple[str, dict[str, Any]]] = [
    ("int4:gptq", {}),
    ("int4:gptq:g32", {"symmetric": False}),
    ("int8:gptq", {"dtype": "fp32"}),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every weight divides by the groups of every method."""
    folder: Path = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    rows = (f"the fox number {n} jumps over {n * n} lazy dogs" for n in range(100))
    (folder / "rows.txt").write_text("\n".join(rows))
    return folder


def written(source: Path, folder: Path, method: str, options: dict[str, Any]) -> Any:
    """Quantize, calibrate and write a model; return the plan."""
    plain = open_checkpoint(source)
    made = quantize_checkpoint(plain, method, None, QuantizeOptions(**options))
    data = calibration_data(source / "rows.txt", samples=16, length=64)
    calibrate_checkpoint(made, plain, source, data, folder / "work")
    write_safetensors(made.tensors, folder, metadata=made.metadata)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": made.config}))
    return made


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model: Any, windows: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=windows).logits


def windows_of(source: Path) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    return token_windows(calibration_data(source / "rows.txt", samples=8, length=64), tokenizer)


def twin(source: Path, made: QuantizedCheckpoint, folder: Path) -> Any:
    """Return the source with what the quantized weights stand for."""
    model, read = loaded(source), open_checkpoint(folder)
    values = {name: made.dequantized(name, read).tensor() for name in made.report.quantized}
    model.load_state_dict({**model.state_dict(), **values})
    return model


def round_inputs(model: Any, made: QuantizedCheckpoint, method: str) -> None:
    """Let a model round what goes into its layers by the scales of a quantized one."""
    for name in made.report.quantized:
        module = name.removesuffix(".weight")
        scale = float(made.tensors[f"{module}.input_scale"].tensor())

        def rounded(_: Any, args: Any, scale: float = scale) -> Any:
            steps = args[0] / scale
            if method == "fp8":
                return (steps.clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale,)
            return (steps.clamp(-128, 127).round() * scale,)

        model.get_submodule(module).register_forward_pre_hook(rounded)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "options"), GPTQ)
def test_transformers_computes_with_the_integers_that_were_fitted(
    method: str, options: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    made = written(llama, tmp_path, method, options)
    windows = windows_of(llama)
    found = logits(loaded(tmp_path), windows)
    same = logits(twin(llama, made, tmp_path), windows)
    source = logits(loaded(llama), windows)
    assert len(made.report.quantized) == 14
    assert (found - same).abs().max() < 1e-4 * source.abs().max()
    assert 0 < (found - source).norm() < 0.25 * source.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "options", "limit"),
    [("fp8", {}, 0.2), ("fp8", {"granularity": "tensor"}, 0.2), ("int8", {}, 0.1)],
)
def test_transformers_rounds_activations_by_the_scales_that_were_found(
    method: str, options: dict[str, Any], limit: float, llama: Path, tmp_path: Path
) -> None:
    made = written(llama, tmp_path, method, {**options, "activations": "static"})
    windows = windows_of(llama)
    model = loaded(tmp_path)
    module = "model.layers.1.mlp.down_proj"
    scheme = model.get_submodule(module).quantization_scheme
    assert scheme.input_activations.dynamic is False
    scale = made.tensors[f"{module}.input_scale"].tensor()
    assert torch.equal(model.get_submodule(module).input_scale.detach().reshape(1), scale)
    found, source = logits(model, windows), logits(loaded(llama), windows)
    rounding = twin(llama, made, tmp_path)
    weights_only = logits(rounding, windows)
    round_inputs(rounding, made, method)
    same = logits(rounding, windows)
    assert (found - same).norm() < 0.1 * (weights_only - same).norm()
    assert 0 < (found - source).norm() < limit * source.norm()


@pytest.mark.filterwarnings("ignore")
def test_scales_of_activations_are_those_that_the_library_would_compute(
    llama: Path, tmp_path: Path
) -> None:
    from compressed_tensors.quantization.utils.helpers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        calculate_qparams,
    )

    for method in ("fp8", "int8"):
        made = written(llama, tmp_path / method, method, {"activations": "static"})
        args = ct.QuantizationArgs(**made.config["config_groups"]["group_0"]["input_activations"])
        scale = made.tensors["model.layers.0.mlp.up_proj.input_scale"].tensor()
        largest = scale * (448.0 if method == "fp8" else 127.5)
        wanted, _ = calculate_qparams(-largest, largest, args)
        assert torch.allclose(scale, wanted, rtol=1e-6)
