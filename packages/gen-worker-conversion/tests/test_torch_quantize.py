"""Quantized weights are those of their formats, whatever slabs they are made in."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]
from safetensors.torch import save_file

from gen_worker.conversion import open_checkpoint, write_safetensors
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import LazyTensor, computed
from gen_worker.conversion.quantize import (
    METHODS,
    QuantizedCheckpoint,
    QuantizeOptions,
    quantize_checkpoint,
)
from gen_worker.conversion.quantize.four_bits import CODES, dynamic_map
from gen_worker.conversion.quantize.microscaled import pack_e2m1, unpack_e2m1
from gen_worker.conversion.quantize.packed import pack_columns, unpack_columns
from gen_worker.conversion.verify.comparing import compare

SCRIPT = str(Path(__file__).with_name("quantizing_process.py"))
MIB = 1 << 20
NAME = "blocks.0.proj.weight"
CASES: list[tuple[str, dict[str, Any], float]] = [
    ("fp8:e4m3", {}, 31.0),
    ("fp8:e4m3", {"granularity": "tensor"}, 31.0),
    ("fp8:e4m3", {"granularity": "block"}, 31.0),
    ("fp8:e5m2", {}, 25.0),
    ("fp8:e5m2", {"granularity": "tensor"}, 25.0),
    ("fp8:e4m3:storage", {}, 31.0),
    ("fp8:e5m2:storage", {}, 25.0),
    ("int8", {}, 41.0),
    ("int8", {"activations": "dynamic"}, 41.0),
    ("int8", {"layout": "torchao"}, 41.0),
    ("int8", {"layout": "bitsandbytes"}, 41.0),
    ("int4:wo", {}, 18.0),
    ("int4:wo", {"symmetric": False, "group_size": 32}, 19.0),
    ("nf4", {}, 20.0),
    ("nf4", {"double_quant": False, "group_size": 32}, 20.0),
    ("fp4", {}, 17.0),
    ("mxfp8", {}, 30.0),
    ("mxfp4", {}, 17.0),
    ("nvfp4", {}, 19.0),
]
"""Method, options, and the SNR in dB that the format gives normally distributed weights."""


def weights(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lazy(tensor: Any) -> LazyTensor:
    return computed(lambda start, stop: tensor[start:stop], shape=tensor.shape, dtype="F32", of=())


def quantized(tensor: Any, method: str, **options: Any) -> QuantizedCheckpoint:
    return quantize_checkpoint({NAME: lazy(tensor)}, method, None, QuantizeOptions(**options))


def test_every_method_has_a_case() -> None:
    """Those that need data are in `test_torch_calibration.py`."""
    plain = {name: one for name, one in METHODS.items() if one.calibration != "required"}
    assert {method for method, _, _ in CASES} == plain.keys()
    written = {(name, METHODS[name].layouts[0]) for name, _, _ in CASES}
    written |= {(name, options["layout"]) for name, options, _ in CASES if "layout" in options}
    wanted = {(name, layout) for name, method in plain.items() for layout in method.layouts}
    assert wanted - written == {("fp8:e4m3", "torchao")}  # the same bytes under other names


@pytest.mark.parametrize(("method", "options", "snr_db"), CASES)
def test_values_come_back_as_near_as_the_format_allows(
    method: str, options: dict[str, Any], snr_db: float
) -> None:
    made = quantized(weights(304, 256), method, **options)
    ((name, weight),) = made.weights.items()
    assert name == NAME
    (error,) = compare("", {name: made.dequantized(name)}, {name: weight.source}, None)
    assert error.snr_db is not None
    assert snr_db < error.snr_db < snr_db + 6


@pytest.mark.parametrize(("method", "options", "snr_db"), CASES)
def test_rows_are_the_same_however_many_are_made_at_once(
    method: str, options: dict[str, Any], snr_db: float
) -> None:
    made = quantized(weights(264, 128), method, **options)
    for name, tensor in made.tensors.items():
        whole = tensor.tensor()
        step = max(tensor.row_count // 5, 1)
        if tensor.shape:
            starts = range(0, tensor.row_count, step)
            parts = [tensor.rows(n, min(n + step, tensor.row_count)) for n in starts]
            assert torch.equal(_bits(torch.cat(parts)), _bits(whole)), name
    values = made.dequantized(NAME)
    assert torch.equal(values.rows(77, 131), values.tensor()[77:131])


@pytest.mark.parametrize(("method", "options", "snr_db"), CASES)
def test_a_written_file_means_what_was_planned(
    method: str, options: dict[str, Any], snr_db: float, tmp_path: Path
) -> None:
    made = quantized(weights(64, 256), method, **options)
    write_safetensors(made.tensors, tmp_path, metadata=made.metadata)
    written = open_checkpoint(tmp_path)
    assert sum(tensor.size_bytes for tensor in written.values()) == made.report.result_bytes
    assert torch.equal(made.dequantized(NAME, written).tensor(), made.dequantized(NAME).tensor())


@pytest.mark.parametrize(("method", "options", "snr_db"), CASES)
def test_zeros_stay_zeros(method: str, options: dict[str, Any], snr_db: float) -> None:
    values = quantized(torch.zeros(32, 128), method, **options).dequantized(NAME).tensor()
    assert torch.equal(values, torch.zeros(32, 128))


@pytest.mark.parametrize(("method", "options", "snr_db"), CASES)
def test_numbers_that_are_none_spoil_no_others_and_are_counted(
    method: str, options: dict[str, Any], snr_db: float, tmp_path: Path
) -> None:
    plain = weights(64, 128)
    broken = plain.clone()
    broken[3, 5], broken[9, 0], broken[9, 1] = torch.nan, torch.inf, -torch.inf
    clean = plain.clone()
    clean[3, 5] = clean[9, 0] = clean[9, 1] = 0.0
    made = quantized(broken, method, **options)
    values = made.dequantized(NAME).tensor()
    assert torch.equal(values, quantized(clean, method, **options).dequantized(NAME).tensor())
    found = write_safetensors(made.tensors, tmp_path, metadata=made.metadata).nonfinite
    assert [tuple(count) for count in found.values()] == [(1, 2)]


def test_scales_are_shared_by_what_was_asked_for() -> None:
    tensor = weights(200, 300)
    tensor[150:, 256:] *= 100
    by = {
        name: quantized(tensor, "fp8", granularity=name).tensors["blocks.0.proj.weight_scale"]
        for name in ("row", "tensor", "block")
    }
    assert [by[name].shape for name in by] == [(200, 1), (1,), (2, 3)]
    assert torch.equal(by["row"].tensor(), tensor.abs().amax(1, keepdim=True) / 448)
    assert torch.equal(by["tensor"].tensor(), tensor.abs().max()[None] / 448)
    assert torch.equal(by["block"].tensor()[1, 2], tensor[128:, 256:].abs().max() / 448)


def test_storage_clamps_what_the_format_cannot_hold() -> None:
    tensor = torch.tensor([[1e6, -1e6, 0.5, 3.0]]).repeat(128, 1)
    made = {
        name: quantized(tensor, f"fp8:{name}:storage").dequantized(NAME).rows(0, 1)[0].tolist()
        for name in ("e4m3", "e5m2")
    }
    assert made == {"e4m3": [448.0, -448.0, 0.5, 3.0], "e5m2": [57344.0, -57344.0, 0.5, 3.0]}


def test_e2m1_rounds_ties_to_even() -> None:
    """The vectors of OCP MX 1.0, 5.3.3: eight magnitudes, a tie goes to the even code."""
    ties = torch.tensor([[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0]])
    assert unpack_e2m1(pack_e2m1(ties)).tolist() == [[0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]]
    assert pack_e2m1(torch.tensor([[0.5, -6.0]])).tolist() == [[0xF1]]


def test_integers_are_packed_from_the_lowest_bits_on() -> None:
    integers = torch.tensor([[-8, -7, -6, -5, -4, -3, -2, 7]])
    assert pack_columns(integers, 4).tolist() == [[0xF6543210 - (1 << 32)]]
    for bits in (4, 8):
        assert unpack_columns(pack_columns(integers, bits), bits).tolist() == integers.tolist()


def test_the_maps_of_four_and_eight_bits_are_those_of_bitsandbytes() -> None:
    """First, middle and last values of `create_dynamic_map`, bitsandbytes 0.50."""
    made = dynamic_map()
    assert len(made) == 256
    assert made[[0, 1, 127, 254, 255]].tolist() == pytest.approx(
        [-0.9929687, -0.9789062, 0.0, 0.9929687, 1.0], abs=1e-7
    )
    assert sorted(CODES["nf4"]) == list(CODES["nf4"])


def test_groups_that_do_not_divide_are_named() -> None:
    tensors = {"a.0.x.weight": lazy(weights(64, 96)), "a.0.y.weight": lazy(weights(64, 128))}
    made = quantize_checkpoint(tensors, "int4:wo")
    assert made.report.kept == {"a.0.x.weight": "rows of 96 do not divide by groups of 128"}
    assert made.config["ignore"] == ["a.0.x"]


def test_the_rest_is_cast_where_a_precision_is_asked_for() -> None:
    tensors = {NAME: lazy(weights(64, 64)), "norm.weight": lazy(weights(64))}
    made = quantize_checkpoint(tensors, "int8", None, QuantizeOptions(dtype="bf16"))
    assert made.tensors["norm.weight"].dtype == "BF16"
    assert made.tensors["blocks.0.proj.weight_scale"].dtype == "BF16"


def test_a_name_that_is_taken_is_refused() -> None:
    tensors = {NAME: lazy(weights(64, 64)), f"{NAME}_scale": lazy(weights(64, 1))}
    with pytest.raises(ConversionInputError, match="has already"):
        quantize_checkpoint(tensors, "fp8")


def test_what_was_written_without_a_part_is_named(tmp_path: Path) -> None:
    made = quantized(weights(64, 64), "fp8")
    save_file({NAME: made.tensors[NAME].tensor()}, tmp_path / "model.safetensors")
    with pytest.raises(ConversionInputError, match="weight_scale"):
        made.dequantized(NAME, open_checkpoint(tmp_path))


@pytest.mark.parametrize("method", ["int8", "nf4", "fp8-block"])
def test_memory_does_not_grow_with_the_model(method: str, big_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, str(big_model), str(tmp_path), method]
    grown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert grown < 200 * MIB


@pytest.fixture(scope="module")
def big_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("big")
    runpy.run_path(SCRIPT)["make"](str(folder / "model.safetensors"))
    return folder


def _bits(tensor: Any) -> Any:
    return tensor.contiguous().view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor
