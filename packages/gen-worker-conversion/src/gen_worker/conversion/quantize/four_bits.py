"""NF4 and FP4 as bitsandbytes has them: blocks of a flattened weight, absolute maxima in bytes.

Legend: N elements of a weight, B elements of a block, K blocks.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.lazy.shaping import reshape
from gen_worker.conversion.lazy.tensor import slabs
from gen_worker.conversion.quantize.parts import Encoded, Once, Scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor

__all__ = ["BLOCK_SIZES", "CODES", "FourBits", "dynamic_map"]

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Those that bitsandbytes takes."""
CODES = {
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    "fp4": (
        *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0),
        *(0.3333333432674408, 0.5, 0.1666666716337204, 0.25),
        *(0.0, -0.0052083334885537624, -0.6666666865348816, -1.0),
        *(-0.3333333432674408, -0.5, -0.1666666716337204, -0.25),
    ),
}
"""Values of the 16 codes, from bitsandbytes 0.50: `functional.get_4bit_type`."""
_NESTED_BLOCK = 256
_SMALLEST = 1e-38
_STATE_ROOM_BYTES = 26
"""What the offset's digits take in JSON at most; blanks fill the rest, so the size is known."""


class _Nested(NamedTuple):
    """What absolute maxima are quantized by."""

    offset: float
    absmax: Any
    """Of blocks of maxima, float32."""


class FourBits(Scheme):
    """Parts as in the files: `weight`, `absmax`, `quant_map`, the state, and the nested ones.

    What bitsandbytes' CPU kernels make, bit for bit, except that the mean of the absolute maxima
    is the nearest float to the exact one: theirs depends on the number of threads.
    """

    def __init__(self, kind: str, block_size: int, dtype: str, *, double: bool) -> None:
        """Take the format.

        Args:
            kind: A key of `CODES`.
            block_size: One of `BLOCK_SIZES`.
            dtype: torch's name of what weights become when they are computed with.
            double: Whether absolute maxima are bytes themselves.
        """
        self.kind = kind
        self.block_size = block_size
        self.dtype = dtype
        self.double = double
        self.state = f"quant_state.bitsandbytes__{kind}"

    def misfit(self, tensor: LazyTensor) -> str:
        return ""

    def encode(self, tensor: LazyTensor) -> dict[str, LazyTensor]:
        flat_N, size = tensor.flat(), self.block_size
        shape = (-(-flat_N.row_count // size),)
        weight = Encoded(
            flat_N,
            lambda values, _: self._packed(values),
            shape=(-(-flat_N.row_count // 2), 1),
            dtype="U8",
            unit=2,
            align=size // 2,
            counts=True,
        )
        maxima_K = Encoded(
            flat_N, lambda values, _: self._maxima(values), shape=shape, dtype="F32", unit=size
        )
        parts: dict[str, LazyTensor] = {"weight": weight, "absmax": maxima_K}
        parts["quant_map"] = _constant(lambda: _codes(self.kind), 16)
        if not self.double:
            parts[self.state] = self._state(tensor.shape, None, tensor)
            return parts
        nested = _Nesting(maxima_K)
        parts["absmax"] = Encoded(
            flat_N,
            lambda values, _: nested.quantized(self._maxima(values)),
            shape=shape,
            dtype="U8",
            unit=size,
            align=_NESTED_BLOCK,
        )
        parts["nested_absmax"] = nested.maxima
        parts["nested_quant_map"] = _constant(dynamic_map, 256)
        parts[self.state] = self._state(tensor.shape, nested, tensor)
        return parts

    def decode(self, parts: Checkpoint, shape: Sequence[int]) -> LazyTensor:
        weight, absmax, size = parts["weight"], parts["absmax"], self.block_size
        state = json.loads(bytes(parts[self.state].tensor().tolist()))

        def maxima(first: int, last: int) -> Any:
            made = absmax.rows(first, last)
            if "nested_offset" not in state:
                return made
            first_outer, last_outer = first // _NESTED_BLOCK, -(-last // _NESTED_BLOCK)
            outer = parts["nested_absmax"].rows(first_outer, last_outer)
            outer_K = outer.repeat_interleave(_NESTED_BLOCK)[first - first_outer * _NESTED_BLOCK :]
            values = parts["nested_quant_map"].tensor()[made.int()]
            return values * outer_K[: last - first] + state["nested_offset"]

        def values(start: int, stop: int) -> Any:
            packed = weight.rows(start // 2, -(-stop // 2)).flatten()
            codes = _unpacked(packed)[start % 2 : start % 2 + stop - start]
            first, last = start // size, -(-stop // size)
            spread = maxima(first, last).repeat_interleave(size)[start - first * size :]
            return parts["quant_map"].tensor()[codes.int()] * spread[: stop - start]

        flat = computed(
            values, shape=(math.prod(shape),), dtype="F32", of=(weight, absmax), row_cost_bytes=32
        )
        return reshape(flat, tuple(shape))

    def _maxima(self, values_N: Any) -> Any:
        whole, rest = self._blocks(values_N)
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        found = [whole.abs().amax(dim=1)] if len(whole) else []
        found += [rest.abs().amax().clamp(min=_SMALLEST)[None]] if len(rest) else []
        return torch.cat(found)

    def _packed(self, values_N: Any) -> Any:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        whole, rest = self._blocks(values_N)
        # Theirs multiplies blocks with the reciprocal and divides the last, incomplete one.
        inverse = 1.0 / whole.abs().amax(dim=1, keepdim=True).clamp(min=_SMALLEST)
        scaled = (whole * inverse).flatten()
        if len(rest):
            scaled = torch.cat((scaled, rest / rest.abs().amax().clamp(min=_SMALLEST)))
        if len(scaled) % 2:
            scaled = torch.nn.functional.pad(scaled, (0, 1))
        bounds, order = _bounds(self.kind)
        codes = order[torch.bucketize(scaled.clamp_(-1, 1), bounds, out_int32=True)]
        return ((codes[0::2] << 4) | codes[1::2])[:, None]

    def _blocks(self, values_N: Any) -> tuple[Any, Any]:
        whole = len(values_N) // self.block_size * self.block_size
        return values_N[:whole].reshape(-1, self.block_size), values_N[whole:]

    def _state(
        self, shape: Sequence[int], nested: _Nesting | None, tensor: LazyTensor
    ) -> LazyTensor:
        """Return what is no tensor as a JSON text in bytes."""
        facts: dict[str, Any] = {
            "quant_type": self.kind,
            "blocksize": self.block_size,
            "dtype": self.dtype,
            "shape": list(shape),
        }
        if nested is None:
            text = json.dumps(facts).encode()
            return _constant(lambda: _bytes(text), len(text), "U8")
        facts |= {"nested_blocksize": _NESTED_BLOCK, "nested_dtype": "float32"}
        size = len(json.dumps({**facts, "nested_offset": 0})) + _STATE_ROOM_BYTES

        def made() -> Any:
            known = json.dumps({**facts, "nested_offset": nested.facts().offset})
            return _bytes(known.encode().ljust(size))

        return Once(made, shape=(size,), dtype="U8", of=tensor)


class _Nesting:
    """The absolute maxima of one weight, quantized to bytes around their mean."""

    def __init__(self, maxima_K: LazyTensor) -> None:
        self.source = maxima_K
        count = -(-maxima_K.row_count // _NESTED_BLOCK)
        self.maxima = Once(self._measured, shape=(count,), dtype="F32", of=maxima_K)
        self._offset = 0.0

    def facts(self) -> _Nested:
        absmax = self.maxima.tensor()  # also the offset is known then
        return _Nested(self._offset, absmax)

    def quantized(self, maxima_K: Any) -> Any:
        """Return codes of whole blocks, or of the last ones."""
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        around, count = maxima_K - self.facts().offset, len(maxima_K)
        blocks = _nested_blocks(around)
        largest = blocks.abs().amax(dim=1, keepdim=True)
        scaled = blocks * (1.0 / largest)
        # Theirs looks codes up by 65536 steps from -1 to 1; where all is zero it takes the first.
        index = ((scaled + 1) * 0.5 * 65535 + 0.5).floor().nan_to_num(nan=0.0)
        codes = _lookup()[index.clamp_(0, 65535).long()]
        return torch.where(largest == 0, torch.zeros_like(codes), codes).flatten()[:count]

    def _measured(self) -> Any:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        # One piece of memory: small ones between large ones would keep those from being returned.
        made: Any = torch.empty(self.source.row_count)
        for start, stop in slabs(self.source):
            made[start:stop] = self.source.rows(start, stop)
        total = math.fsum(_numbers(made.split(65536)))
        offset = torch.tensor(total / self.source.row_count, dtype=torch.float32)
        self._offset = float(offset)
        return _nested_blocks(made - offset).abs().amax(dim=1)


def _numbers(tensors: Sequence[Any]) -> Iterator[float]:
    for tensor in tensors:
        yield from tensor.tolist()


def _nested_blocks(values_K: Any) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    padded = torch.nn.functional.pad(values_K, (0, -len(values_K) % _NESTED_BLOCK))
    return padded.reshape(-1, _NESTED_BLOCK)


@cache
def dynamic_map() -> Any:
    """Return the 256 values of bytes with a dynamic exponent (Dettmers, arXiv:1511.04561)."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = 10 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2.0)
        found += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(found), dtype=torch.float32)


@cache
def _lookup() -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    values = dynamic_map()
    steps = (torch.arange(65536, dtype=torch.float64) / 65535 * 2 - 1).float()
    return torch.bucketize(steps, (values[:-1] + values[1:]) / 2).to(torch.uint8)


@cache
def _codes(kind: str) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return torch.tensor(CODES[kind], dtype=torch.float32)


@cache
def _bounds(kind: str) -> tuple[Any, Any]:
    """Return what lies between the values, in order, and the code of each place."""
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    values = _codes(kind)
    order = torch.argsort(values)
    return (values[order[:-1]] + values[order[1:]]) / 2, order.to(torch.uint8)


def _unpacked(packed: Any) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return torch.stack((packed >> 4, packed & 15), dim=1).flatten()


def _bytes(text: bytes) -> Any:
    import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return torch.tensor(list(text), dtype=torch.uint8)


def _constant(make: Any, count: int, dtype: str = "F32") -> LazyTensor:
    return computed(
        lambda start, stop: make()[start:stop], shape=(count,), dtype=dtype, of=(), row_cost_bytes=8
    )
