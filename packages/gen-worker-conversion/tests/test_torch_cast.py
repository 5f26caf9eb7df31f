"""Casts change plain weights and nothing else; the streaming functions say what they did."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.context import ConversionContext
from gen_worker.conversion import (
    ConversionImplementationError,
    ConversionInputError,
    cast_checkpoint,
    list_shard_files_from_index,
    materialize_safetensors_input,
    open_checkpoint,
    persist_safetensors_output,
    shard_safetensors_by_offset,
    streaming_dtype_cast,
    streaming_gpu_quantize,
    tensors_with,
)
from gen_worker.conversion.lazy.dtypes import FILE_ORDER
from gen_worker.errors import HardwareUnmetError
from gen_worker.models.formats import DTYPE_BITS
from gen_worker.runtime.local import JsonLineEvents, local_ports

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

if TYPE_CHECKING:
    from pathlib import Path


def saved(path: Path, tensors: dict[str, Any], **metadata: str) -> Path:
    safetensors_torch.save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "up.weight": torch.randn(40, 30, generator=generator),
        "down.weight": torch.randn(30, 40, generator=generator),
        "norm.weight": torch.ones(30),
        "ids": torch.arange(7),
    }
    return saved(tmp_path / "model.safetensors", tensors, made_by="us")


def dtypes(path: Any) -> dict[str, str]:
    return {name: tensor.dtype for name, tensor in open_checkpoint(path).items()}


@pytest.mark.parametrize(
    ("token", "code"),
    [("bf16", "BF16"), ("fp16", "F16"), ("fp32", "F32"), ("f16", "F16"), ("bfloat16", "BF16")],
)
def test_floats_are_cast_and_the_rest_stays(
    model: Path, tmp_path: Path, token: str, code: str
) -> None:
    seen: list[tuple[int, int]] = []
    done = streaming_dtype_cast(
        model, tmp_path / "out", target_dtype=token, progress=lambda *step: seen.append(step)
    )
    (path,) = done.pop("output_paths")
    assert done == {
        "tensor_count": 4,
        "converted_count": 0 if code == "F32" else 3,
        "incremental": True,
        "index_path": None,
        "shard_sizes": [56 + (4 if code == "F32" else 2) * 2430],
        "nonfinite": {},
    }
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size
    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    found = safetensors_torch.load_file(path)
    for name, tensor in safetensors_torch.load_file(model).items():
        wanted = tensor.to(names[code]) if tensor.is_floating_point() else tensor
        assert torch.equal(found[name], wanted)
    assert open_checkpoint(path).metadata == {"format": "pt", "made_by": "us"}


@pytest.mark.parametrize("token", ["fp8", "fp8:e4m3", "fp8:e5m2", "int8", "nf4", "fp7"])
def test_a_precision_that_needs_scales_is_refused_by_name(
    model: Path, tmp_path: Path, token: str
) -> None:
    with pytest.raises(ConversionInputError, match=f"'{token}' is not reached by a cast"):
        streaming_dtype_cast(model, tmp_path / "out", target_dtype=token)
    assert not (tmp_path / "out").exists()


def test_patterns_keep_tensors(model: Path, tmp_path: Path) -> None:
    done = streaming_dtype_cast(
        model, tmp_path / "out", target_dtype="fp16", skip=["up.*"], keep_fp32=["*norm*"]
    )
    assert done["converted_count"] == 1
    assert dtypes(tmp_path / "out") == {
        "up.weight": "F32",
        "norm.weight": "F32",
        "down.weight": "F16",
        "ids": "I64",
    }
    half = cast_checkpoint(open_checkpoint(tmp_path / "out"), "bf16", keep_fp32=["down.*"])
    assert half["down.weight"].dtype == "F32"


def test_quantised_weights_and_their_scales_stay(tmp_path: Path) -> None:
    eight = torch.ones(4, 4).to(torch.float8_e4m3fn)
    packed = torch.ones(4, 4, dtype=torch.uint8)
    tensors = {
        "a.weight": eight,
        "a.weight_scale": torch.ones(1),
        "a.input_scale": torch.ones(1),
        "a.bias": torch.ones(4),
        "b.weight": packed,
        "b.weight.absmax": torch.ones(4),
        "b.weight.quant_map": torch.ones(16),
        "c.qweight": torch.ones(4, 4, dtype=torch.int32),
        "c.scales": torch.ones(4, dtype=torch.float16),
        "scale": torch.ones(2),  # of no quantised module
        "d.weight": torch.ones(4, 4),
        "d.weight_scale": torch.ones(4),
        "position_ids": torch.arange(3),
    }
    path = saved(tmp_path / "model.safetensors", tensors)
    before = dtypes(path)
    after = {n: t.dtype for n, t in cast_checkpoint(open_checkpoint(path), "bf16").items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"a.bias", "scale", "d.weight", "d.weight_scale"}


def test_a_sharded_model_is_split_joined_and_split_again(model: Path, tmp_path: Path) -> None:
    paths, index, sizes = shard_safetensors_by_offset(
        model, tmp_path / "split", max_shard_bytes=5000, shard_prefix="part"
    )
    assert index == tmp_path / "split" / "part.safetensors.index.json"
    assert [path.name for path in paths] == [f"part-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert sizes == [4800 + 56 + 120, 4800]
    assert list_shard_files_from_index(index) == paths
    whole = materialize_safetensors_input(index, tmp_path / "joined")
    assert whole[1:] == (True, 2)
    assert whole.path.read_bytes()[-9776:] == model.read_bytes()[-9776:]
    assert dtypes(whole.path) == dtypes(model)
    assert materialize_safetensors_input(model, tmp_path / "x") == (model, False, 1)
    assert not (tmp_path / "x").exists()
    one, no_index, _ = shard_safetensors_by_offset(model, tmp_path / "one")
    assert (len(one), no_index) == (1, None)


def test_a_function_on_a_device_keeps_shapes(model: Path, tmp_path: Path) -> None:
    done = streaming_gpu_quantize(
        model, tmp_path / "out", quantize_fn=lambda t: (t * 8).round() / 8, device="cpu"
    )
    assert (done["quantized_count"], done["tensor_count"], done["device"]) == (2, 4, "cpu")
    found, given = (safetensors_torch.load_file(p) for p in (done["output_paths"][0], model))
    assert torch.equal(found["up.weight"], (given["up.weight"] * 8).round() / 8)
    assert torch.equal(found["norm.weight"], given["norm.weight"])


@pytest.mark.parametrize("change", [lambda t: t[:1], lambda t: t.half()])
def test_a_function_that_changes_shape_or_dtype_is_refused(
    model: Path, tmp_path: Path, change: Any
) -> None:
    with pytest.raises(ConversionImplementationError, match="keep shape and dtype"):
        streaming_gpu_quantize(model, tmp_path / "out", quantize_fn=change, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_missing_device_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(HardwareUnmetError, match="'cuda'"):
        streaming_gpu_quantize(model, tmp_path / "out", quantize_fn=lambda t: t)


def test_outputs_are_stored_as_the_calls_own(model: Path, tmp_path: Path) -> None:
    ports = local_ports(events=JsonLineEvents(io.StringIO()), output_dir=str(tmp_path / "kept"))
    ctx = ConversionContext("r1", ports=ports)
    done = streaming_dtype_cast(model, tmp_path / "out", target_dtype="bf16", shard_threshold=2500)
    primary, others, facts = persist_safetensors_output(
        ctx,
        shard_paths=done["output_paths"],
        index_path=done["index_path"],
        output_ref="converted",
    )
    sizes = sum(path.stat().st_size for path in done["output_paths"])
    assert facts == {"sharded": True, "shard_count": 2, "size_bytes": sizes}
    assert primary.ref.endswith("converted/model.safetensors.index.json")
    assert [item.path for item in others] == [path.name for path in done["output_paths"]]
    stored = {path.name for path in (tmp_path / "kept").rglob("model*")}
    assert stored == {path.name for path in (tmp_path / "out").iterdir()}
    single, none, facts = persist_safetensors_output(
        ctx, shard_paths=[model], index_path=None, output_ref="single"
    )
    assert (none, facts["sharded"], single.format) == ([], False, "safetensors")
    assert tensors_with(single, blob_digest="blake3:ab").blob_digest == "blake3:ab"
    assert msgspec.structs.asdict(tensors_with(single)) == msgspec.structs.asdict(single)


def test_every_dtype_of_the_format_has_its_place_in_a_file() -> None:
    assert sorted(FILE_ORDER) == sorted(DTYPE_BITS)
    widths = [DTYPE_BITS[code] for code in FILE_ORDER if code not in ("F4", "BOOL")]
    assert widths == sorted(widths, reverse=True)
