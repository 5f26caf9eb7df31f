"""Libraries find their own format in what is written, and compute with it as its values say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
bnb: Any = pytest.importorskip("bitsandbytes.functional")
compressors: Any = pytest.importorskip("compressed_tensors.compressors")
ct: Any = pytest.importorskip("compressed_tensors.quantization")
ct_helpers: Any = pytest.importorskip("compressed_tensors.quantization.utils.helpers")
torchao: Any = pytest.importorskip("torchao.quantization")

from gen_worker.conversion import open_checkpoint, write_safetensors  # noqa: E402
from gen_worker.conversion.lazy import LazyTensor, computed  # noqa: E402
from gen_worker.conversion.quantize import (  # noqa: E402
    METHODS,
    Policy,
    QuantizedCheckpoint,
    QuantizeOptions,
    lookup_method,
    quantize_checkpoint,
    recipe_for,
)

NAME = "blocks.0.proj.weight"
LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    ("fp8", {}),
    ("fp8", {"granularity": "tensor"}),
    ("fp8", {"granularity": "block"}),
    ("fp8", {"layout": "torchao"}),
    ("fp8", {"layout": "torchao", "granularity": "tensor"}),
    ("fp8:e5m2", {}),
    ("fp8:e5m2", {"granularity": "tensor"}),
    ("int8", {}),
    ("int8", {"layout": "torchao"}),
    ("int4:wo", {"group_size": 32}),
    ("int4:wo", {"group_size": 32, "symmetric": False}),
    ("nf4", {}),
    ("nf4", {"double_quant": False, "group_size": 32}),
    ("fp4", {}),
    ("mxfp8", {}),
    ("mxfp4", {}),
    ("nvfp4", {}),
]
ROUNDED: list[tuple[str, dict[str, Any]]] = [
    ("int8", {"layout": "bitsandbytes"}),
    ("int8", {"activations": "dynamic"}),
    ("fp8", {"activations": "dynamic"}),
    ("fp8", {"activations": "dynamic", "granularity": "block"}),
]
"""These also round what goes into a layer."""


def test_every_layout_of_every_method_is_loaded_here() -> None:
    found = set()
    for name, options in (*LAYOUTS, *ROUNDED):
        method = lookup_method(name)
        found.add((method.name, options.get("layout", method.layouts[0])))
    assert found >= {
        (method.name, layout)
        for method in METHODS.values()
        for layout in method.layouts
        if layout != "plain" and method.calibration != "required"
    }


def weights(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def quantized(tensor: Any, method: str, **options: Any) -> QuantizedCheckpoint:
    source: LazyTensor = computed(
        lambda start, stop: tensor[start:stop], shape=tensor.shape, dtype="F32", of=()
    )
    return quantize_checkpoint({NAME: source}, method, None, QuantizeOptions(**options))


def parts(made: QuantizedCheckpoint) -> dict[str, Any]:
    start = NAME.removesuffix("weight")
    return {name.removeprefix(start): tensor.tensor() for name, tensor in made.tensors.items()}


@pytest.mark.parametrize(
    ("method", "options", "preset", "compressor"),
    [
        ("fp8", {}, "FP8_DYNAMIC", "FloatQuantizationCompressor"),
        ("fp8", {"granularity": "tensor"}, "FP8", "FloatQuantizationCompressor"),
        ("fp8", {"granularity": "block"}, "FP8_BLOCK", "FloatQuantizationCompressor"),
        ("int8", {"activations": "dynamic"}, "INT8", "IntQuantizationCompressor"),
        ("int4:wo", {}, "W4A16", "PackedQuantizationCompressor"),
        ("int4:wo", {"symmetric": False}, "W4A16_ASYM", "PackedQuantizationCompressor"),
        ("mxfp8", {}, "MXFP8A16", "MXFP8QuantizationCompressor"),
        ("mxfp4", {}, "MXFP4A16", "MXFP4PackedCompressor"),
        ("nvfp4", {}, "NVFP4A16", "NVFP4PackedCompressor"),
    ],
)
def test_bytes_are_those_of_compressed_tensors(
    method: str, options: dict[str, Any], preset: str, compressor: str
) -> None:
    tensor = weights(256, 384)
    scheme = ct.preset_name_to_scheme(preset, ["Linear"])
    state = {"weight": tensor.clone(), **_observed(tensor, scheme.weights)}
    wanted = getattr(compressors, compressor).compress(state, scheme)
    found = parts(quantized(tensor, method, **options))
    assert found.keys() == wanted.keys()
    for name, part in found.items():
        assert part.dtype == wanted[name].dtype, name
        assert torch.equal(part.float(), wanted[name].reshape(part.shape).float()), name


def _observed(tensor: Any, args: Any) -> dict[str, Any]:
    """Return what the library's own observers make of the smallest and the largest values."""
    strategy, whole = str(getattr(args.strategy, "value", args.strategy)), None
    if strategy == "tensor":
        low, high = tensor.min(), tensor.max()
    elif strategy == "block":
        tiles = tensor.unflatten(1, (-1, 128)).unflatten(0, (-1, 128))
        low, high = tiles.amin((1, 3)), tiles.amax((1, 3))
    elif strategy == "channel":
        low, high = tensor.amin(1, keepdim=True), tensor.amax(1, keepdim=True)
    else:
        groups = tensor.unflatten(1, (-1, args.group_size))
        low, high = groups.amin(2), groups.amax(2)
    if strategy == "tensor_group":
        whole = ct_helpers.generate_gparam(tensor.min(), tensor.max())
    scale, zero = ct_helpers.calculate_qparams(low, high, args, global_scale=whole)
    found = {"weight_scale": scale, "weight_zero_point": zero}
    return found if whole is None else {**found, "weight_global_scale": whole}


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(256, 192), (33, 7), (300, 200)])
def test_bytes_are_those_of_bitsandbytes(kind: str, double: bool, shape: tuple[int, int]) -> None:
    tensor = weights(*shape)
    packed, state = bnb.quantize_4bit(
        tensor, blocksize=64, quant_type=kind, compress_statistics=double
    )
    wanted = {f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}
    made = _of_any_size(tensor, kind, double)
    found = parts(made)
    assert torch.equal(found.pop("weight"), packed)
    name = f"weight.quant_state.bitsandbytes__{kind}"
    ours, theirs = (json.loads(bytes(part.pop(name).tolist())) for part in (found, wanted))
    offsets = [facts.pop("nested_offset", 0.0) for facts in (ours, theirs)]
    assert ours == theirs
    assert offsets[0] == pytest.approx(offsets[1], rel=2e-7)
    assert found.keys() == wanted.keys()
    for name, part in found.items():
        exact = offsets[0] == offsets[1] or not name.endswith("absmax")
        if exact:
            assert torch.equal(part, wanted[name]), name
        else:  # the mean differs by its last bit
            assert (part.double() - wanted[name].double()).abs().max() <= 1, name


def _of_any_size(tensor: Any, kind: str, double: bool) -> QuantizedCheckpoint:
    source: LazyTensor = computed(
        lambda start, stop: tensor[start:stop], shape=tensor.shape, dtype="F32", of=()
    )
    options = QuantizeOptions(double_quant=double)
    return quantize_checkpoint({NAME: source}, kind, Policy(include=(NAME,)), options)


def test_rows_of_bytes_are_those_of_bitsandbytes() -> None:
    tensor = weights(64, 96).half().float()
    codes, maxima, _ = bnb.int8_vectorwise_quant(tensor.half())
    found = parts(quantized(tensor, "int8", layout="bitsandbytes"))
    assert torch.equal(found["SCB"], maxima)
    assert torch.equal(found["weight"], codes)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("int8", torchao.Int8WeightOnlyConfig(version=2)),
        ("fp8", torchao.Float8WeightOnlyConfig(version=2)),
        ("fp8:e5m2", torchao.Float8WeightOnlyConfig(weight_dtype=torch.float8_e5m2, version=2)),
    ],
)
def test_bytes_and_configuration_are_those_of_torchao(method: str, config: Any) -> None:
    from torchao.core.config import config_to_dict  # type: ignore[import-not-found,unused-ignore]

    tensor = weights(64, 256)
    module = torch.nn.Sequential(torch.nn.Linear(256, 64, bias=False))
    module[0].weight.data = tensor.clone()
    torchao.quantize_(module, config)
    made = quantized(tensor, method, layout="torchao")
    found, wanted = parts(made), module[0].weight
    differs = (found["_weight_qdata"].float() - wanted.qdata.float()).abs()
    if method == "int8":  # torchao multiplies with the reciprocal: what lies between two steps
        assert differs.max() <= 1
        assert (differs > 0).float().mean() < 1e-3
    else:
        assert differs.max() == 0
    assert torch.equal(found["_weight_scale"], wanted.scale)
    assert made.config["quant_type"]["default"] == config_to_dict(config)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every weight divides by the blocks of every format."""
    folder: Path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def written(source: Path, folder: Path, method: str, options: QuantizeOptions) -> Any:
    """Quantize a model except for one layer; return the plan."""
    policy = Policy(exclude=("*layers.1.mlp.down_proj*",))
    made = quantize_checkpoint(open_checkpoint(source), method, policy, options)
    write_safetensors(made.tensors, folder, metadata=made.metadata, max_shard_bytes=200_000)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": made.config}))
    return made


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(5, 37)[None]).logits.float()


def twin(source: Path, made: QuantizedCheckpoint, folder: Path, dtype: Any) -> Any:
    """Return the source with what the quantized weights stand for."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    read = open_checkpoint(folder)
    values = {name: made.dequantized(name, read).tensor() for name in made.report.quantized}
    model.load_state_dict({**model.state_dict(), **values})
    return model.to(dtype)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "options"), LAYOUTS)
def test_transformers_computes_with_the_values_that_were_written(
    method: str, options: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    made = written(llama, tmp_path, method, QuantizeOptions(**options, dtype="bf16"))
    dtype = torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    found = logits(model)
    same = logits(twin(llama, made, tmp_path, dtype))
    source = logits(transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32))
    assert (found - same).abs().max() < 0.02 * source.abs().max()
    assert 0 < (found - source).norm() < 0.35 * source.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "options"), ROUNDED)
def test_transformers_computes_near_the_source_with_rounded_activations(
    method: str, options: dict[str, Any], llama: Path, tmp_path: Path
) -> None:
    written(llama, tmp_path, method, QuantizeOptions(**options))
    found = logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))
    source = logits(transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32))
    assert 0 < (found - source).norm() < 0.1 * source.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["int8", "fp8"])
def test_diffusers_loads_a_transformer_with_the_values_that_were_written(
    method: str, tmp_path: Path
) -> None:
    """Those of bitsandbytes need a GPU there; transformers loads them above."""
    diffusers = pytest.importorskip("diffusers")
    from gen_worker.models.tiny import tiny_flux

    source = Path(tiny_flux(tmp_path / "flux")) / "transformer"
    made = quantize_checkpoint(
        open_checkpoint(source),
        method,
        Policy(recipe=recipe_for("transformer")),
        QuantizeOptions(layout="torchao", dtype="bf16"),
    )
    folder = tmp_path / "made"
    prefix = "diffusion_pytorch_model"
    write_safetensors(made.tensors, folder, prefix=prefix, metadata=made.metadata)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": made.config}))
    model = diffusers.FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    for name in made.report.quantized:
        module = model.get_submodule(name.removesuffix(".weight"))
        values = module.weight.dequantize().float()
        wanted = made.dequantized(name).tensor()
        assert (values - wanted).abs().max() < 0.01 * wanted.abs().max(), name
    for name in made.report.kept:
        assert model.get_parameter(name).dtype == torch.bfloat16
