"""Recipes give the rows that torch computes, whatever the cut."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import (
    LazyTensor,
    cast,
    combine,
    computed,
    concat,
    low_rank,
    narrow,
    open_checkpoint,
    permute,
    reshape,
    scale,
    slabs,
    slerp,
    split,
)
from gen_worker.conversion.lazy.gguf_file import BlockTensor
from gen_worker.models.formats import DamagedFileError

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

if TYPE_CHECKING:
    from pathlib import Path

Pair = tuple[LazyTensor, Any]


def stored(directory: Path, tensor: Any) -> LazyTensor:
    number = len(list(directory.iterdir()))
    path = directory / f"{number}.safetensors"
    safetensors_torch.save_file({"x": tensor}, path)
    return open_checkpoint(path)["x"]


def random(*shape: int, dtype: Any = None, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype or torch.float32)


def check(lazy: LazyTensor, wanted: Any) -> None:
    """Compare the whole, every row, and slabs of one dimension."""
    assert lazy.shape == tuple(wanted.shape)
    torch.testing.assert_close(lazy.tensor(), wanted, rtol=0, atol=0)
    for row in range(lazy.row_count if lazy.shape else 0):
        torch.testing.assert_close(lazy.rows(row, row + 1), wanted[row : row + 1], rtol=0, atol=0)
    flat = lazy.flat()
    pieces = [flat.rows(start, stop) for start, stop in slabs(flat, 100)]
    made = torch.cat(pieces) if pieces else torch.empty(0, dtype=wanted.dtype)
    torch.testing.assert_close(made, wanted.reshape(-1), rtol=0, atol=0)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    tensor = random(6, 5, 4)
    return stored(tmp_path, tensor), tensor


def test_stored_tensors_are_read_as_they_are(tmp_path: Path) -> None:
    for tensor in (
        random(7, 3),
        random(5).half(),
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.zeros(3, 0),
        torch.arange(12).reshape(3, 4),
        random(4, 4).to(torch.bfloat16),
    ):
        check(stored(tmp_path, tensor), tensor)


def test_four_bits_are_read_as_torch_has_them(tmp_path: Path) -> None:
    packed = torch.arange(16, dtype=torch.uint8).reshape(4, 4)
    lazy = stored(tmp_path, packed.view(torch.float4_e2m1fn_x2))
    assert (lazy.dtype, lazy.shape, lazy.size_bytes) == ("F4", (4, 8), 16)
    assert torch.equal(lazy.rows(1, 3).view(torch.uint8), packed[1:3])
    assert torch.equal(lazy.flat().tensor(), packed.reshape(-1))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_casts_round_as_torch_does(pair: Pair, dtype: str) -> None:
    names = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    check(cast(pair[0], dtype), pair[1].to(names[dtype]))


def test_a_cast_to_the_same_dtype_is_the_tensor_itself(pair: Pair) -> None:
    assert cast(pair[0], "F32") is pair[0]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I8", "no"])
def test_a_cast_to_what_needs_scales_is_refused(pair: Pair, dtype: str) -> None:
    with pytest.raises(ConversionInputError, match="quantization"):
        cast(pair[0], dtype)


def test_moving_elements(pair: Pair) -> None:
    lazy, tensor = pair
    check(concat([lazy, lazy]), torch.cat([tensor, tensor]))
    check(concat([lazy, lazy], dim=-1), torch.cat([tensor, tensor], -1))
    check(concat([lazy]), tensor)
    for part, wanted in zip(split(lazy, [1, 3, 2]), tensor.split([1, 3, 2]), strict=True):
        check(part, wanted)
    for part, wanted in zip(split(lazy, [1, 4], 1), tensor.split([1, 4], 1), strict=True):
        check(part, wanted)
    check(narrow(lazy, 0, 2, 3), tensor[2:5])
    check(narrow(lazy, 2, 1, 2), tensor[..., 1:3])
    check(reshape(lazy, (30, 4)), tensor.reshape(30, 4))
    check(reshape(lazy, (6, -1)), tensor.reshape(6, -1))
    check(reshape(reshape(lazy, (-1,)), (4, 30)), tensor.reshape(4, 30))
    check(permute(lazy, (0, 2, 1)), tensor.permute(0, 2, 1).contiguous())
    check(permute(lazy, (2, 0, 1)), tensor.permute(2, 0, 1).contiguous())
    check(reshape(permute(lazy, (1, 0, 2)), (5, 24)), tensor.permute(1, 0, 2).reshape(5, 24))
    check(narrow(reshape(lazy, (2, 60)), 0, 1, 1), tensor.reshape(2, 60)[1:])


@given(cuts=st.lists(st.integers(0, 6), max_size=4), width=st.integers(1, 50))
def test_any_cut_of_a_join_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], width: int
) -> None:
    bounds = [0, *sorted(cuts), 6]
    tensor = random(6, 5)
    lazy = stored(tmp_path_factory.mktemp("cuts"), tensor)
    sizes = [last - first for first, last in itertools.pairwise(bounds)]
    joined = concat(split(lazy, sizes)).flat()
    pieces = [joined.rows(at, min(at + width, 30)) for at in range(0, 30, width)]
    assert torch.equal(torch.cat(pieces), tensor.reshape(-1))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: split(x, [1, 2]),
        lambda x: narrow(x, 0, 5, 2),
        lambda x: reshape(x, (7, -1)),
        lambda x: permute(x, (0, 0, 1)),
        lambda x: concat([x, cast(x, "BF16")]),
        lambda x: concat([x, narrow(x, 1, 0, 2)]),
        lambda x: combine([(1, x), (1, narrow(x, 0, 0, 2))], "F32"),
        lambda x: low_rank(x, x, x),
        lambda x: slerp(x, narrow(x, 0, 0, 2), 0.5),
        lambda x: narrow(x, 3, 0, 1),
    ],
)
def test_what_does_not_fit_is_refused_before_a_read(pair: Pair, wrong: Any) -> None:
    with pytest.raises(ConversionInputError):
        wrong(pair[0])


def test_sums_are_computed_in_float32(tmp_path: Path) -> None:
    halves = [random(5, 3, dtype=torch.bfloat16, seed=seed) for seed in range(3)]
    lazy = [stored(tmp_path, half) for half in halves]
    weights = [0.25, -1.5, 3.0]
    exact = halves[0].float() * weights[0]
    for weight, half in zip(weights[1:], halves[1:], strict=True):
        exact = exact.add(half.float(), alpha=weight)
    check(combine(list(zip(weights, lazy, strict=True)), "BF16"), exact.to(torch.bfloat16))
    check(scale(lazy[0], 0.5), (halves[0].float() * 0.5).to(torch.bfloat16))


def test_a_lora_is_merged_by_rows(tmp_path: Path) -> None:
    base, up, down = random(6, 4, 3, 3), random(6, 2, 1, 1, seed=1), random(2, 4, 3, 3, seed=2)
    merged = low_rank(stored(tmp_path, base), stored(tmp_path, up), stored(tmp_path, down), 0.5)
    update = (up.reshape(6, 2) @ down.reshape(2, 36)).reshape(6, 4, 3, 3)
    torch.testing.assert_close(merged.tensor(), base + 0.5 * update)
    torch.testing.assert_close(merged.rows(2, 4), (base + 0.5 * update)[2:4])
    assert not merged.is_elementwise


def test_a_point_on_the_arc_keeps_its_distance(tmp_path: Path) -> None:
    one, other = random(40, 30), random(40, 30, seed=1)
    other *= one.norm() / other.norm()
    lazy = slerp(stored(tmp_path, one), stored(tmp_path, other), 0.3)
    made = lazy.tensor()
    assert float(made.norm()) == pytest.approx(float(one.norm()), rel=1e-4)
    angle = torch.acos((one * other).sum() / one.norm() ** 2)
    here = torch.acos((one * made).sum() / one.norm() ** 2)
    assert float(here / angle) == pytest.approx(0.3, rel=1e-3)
    check(lazy, made)


def test_nearly_parallel_tensors_are_joined_by_a_line(tmp_path: Path) -> None:
    one = random(5, 5)
    lazy = slerp(stored(tmp_path, one), stored(tmp_path, 2 * one), 0.5)
    torch.testing.assert_close(lazy.tensor(), 1.5 * one)
    zero = stored(tmp_path, torch.zeros(5, 5))
    torch.testing.assert_close(slerp(zero, zero, 0.5).tensor(), torch.zeros(5, 5))


def test_computed_tensors_are_what_their_function_makes(pair: Pair) -> None:
    lazy, tensor = pair
    row_max = computed(
        lambda start, stop: lazy.rows(start, stop).amax((1, 2)), shape=(6,), dtype="F32", of=[lazy]
    )
    check(row_max, tensor.amax((1, 2)))
    assert row_max.sources == lazy.sources
    assert row_max.row_cost_bytes == 4 + lazy.row_bytes


def test_plans_know_the_bytes_of_the_files(pair: Pair) -> None:
    lazy, tensor = pair
    (extent,) = lazy.sources
    assert extent.end - extent.start == tensor.numel() * 4
    assert len(combine([(1, lazy), (2, lazy)], "F32").sources) == 2


def test_slabs_are_bounded_by_what_they_hold(pair: Pair) -> None:
    lazy, _ = pair
    assert list(slabs(lazy, 160)) == [(0, 2), (2, 4), (4, 6)]
    assert list(slabs(lazy, 1)) == [(row, row + 1) for row in range(6)]
    assert list(slabs(cast(lazy, "BF16"), 240)) == [(0, 2), (2, 4), (4, 6)]
    assert list(slabs(permute(lazy, (1, 0, 2)), 1)) == [(0, 5)]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors_torch.save_file({"x": random(10)}, path)
    lazy = open_checkpoint(path)["x"]
    safetensors_torch.save_file({"x": random(11)}, path)
    with pytest.raises(DamagedFileError, match="it changed"):
        lazy.tensor()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K", "BF16", "F16", "F32"])
def test_gguf_is_unpacked_as_the_library_does(tmp_path: Path, kind: str) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    type_id = gguf.GGMLQuantizationType[kind]
    numbers = random(6, 512).numpy()
    if kind == "Q4_K":  # which the library unpacks and does not write
        packed = torch.arange(6 * 2 * 144).to(torch.uint8).reshape(6, 288).numpy() & 0x3B
    else:
        packed = gguf.quants.quantize(numbers, type_id)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", packed, raw_dtype=type_id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lazy = open_checkpoint(path)["w"]
    wanted = torch.from_numpy(gguf.quants.dequantize(packed, type_id)).reshape(6, 512)
    assert isinstance(lazy, BlockTensor) == kind.startswith("Q")
    torch.testing.assert_close(lazy.tensor().float(), wanted, rtol=0, atol=0)
    torch.testing.assert_close(lazy.rows(2, 4).float(), wanted[2:4], rtol=0, atol=0)
    flat = lazy.flat()
    torch.testing.assert_close(flat.rows(500, 1100).float(), wanted.reshape(-1)[500:1100])
