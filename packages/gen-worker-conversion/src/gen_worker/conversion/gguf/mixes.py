"""Which tensor of a language model gets which type: the mixes of llama.cpp's quantizer.

The rules are those of llama-quant.cpp of llama.cpp.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.models.formats.gguf_types import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.types import FileType

__all__ = ["Choice", "Fallback", "Heads", "by_layer", "choose_types", "fallback_of", "layer_of"]

_ELEMENTS = {block.name: block.elements for block in BLOCKS.values()}
_NARROWER = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
"""What a row gets that is no multiple of 256."""
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_KINDS = ("attn_qkv.weight", "attn_v.weight", "attn_k.weight", "attn_output.weight", "ffn_down")
"""Parts of names; what is done with the weights of experts counts as `ffn_down`, too."""
_NEVER = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
_RAISED_OUTPUTS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
_LAYER = re.compile(r"blk\.(\d+)\.")


class Heads(NamedTuple):
    """What the rules ask about a model."""

    queries_per_key: int = 1
    is_70b: bool = False
    """80 layers that share keys and values: these are then small enough for more bits."""
    experts: int = 0
    """Of a layer; 0 for a dense model."""


class Fallback(NamedTuple):
    """A tensor that could not have the type that was meant for it."""

    tensor: str
    wanted: str
    used: str
    columns: int


class Choice(NamedTuple):
    """The types of a model's tensors."""

    types: Mapping[str, str]
    """By name of the tensor."""
    fallbacks: tuple[Fallback, ...]


def choose_types(
    shapes: Mapping[str, tuple[int, ...]],
    wanted: FileType,
    heads: Heads,
    *,
    has_importance: bool = False,
) -> Choice:
    """Choose for every tensor.

    Args:
        shapes: As torch has them, by the names of llama.cpp.
        wanted: Type of the file.
        heads: Of the model.
        has_importance: Whether fits are weighted by an importance matrix.
    """
    layers = max(map(layer_of, shapes), default=0) + 1
    types: dict[str, str] = {}
    fallbacks: list[Fallback] = []
    for name, shape in shapes.items():
        if not _may_pack(name, shape):
            types[name] = "F32"
            continue
        type_name = wanted.base
        if not wanted.is_plain:
            is_tied = _OUTPUT not in shapes
            type_name = _mixed(name, wanted, heads, layers, is_tied, has_importance)
        used = fallback_of(type_name, shape[-1])
        if used != type_name:
            fallbacks.append(Fallback(name, type_name, used, shape[-1]))
        types[name] = used
    return Choice(types, tuple(fallbacks))


def fallback_of(type_name: str, columns: int) -> str:
    """Return the type of rows of this length, where this one would do if it could."""
    if columns % _ELEMENTS[type_name] == 0:
        return type_name
    narrower = _NARROWER.get(type_name, type_name)
    return narrower if columns % _ELEMENTS[narrower] == 0 else "F16"


def _may_pack(name: str, shape: tuple[int, ...]) -> bool:
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows > 1 and name.endswith("weight") and not name.endswith(_NEVER)


class _Turn(NamedTuple):
    """Of what kind a tensor is, and in which of how many layers."""

    kind: str
    place: int
    among: int

    @property
    def is_early(self) -> bool:
        return self.place < self.among // 8

    @property
    def has_more(self) -> bool:
        """Whether it is one of the layers that get more bits in mixes called M."""
        first = self.among // 8
        return self.is_early or self.place >= 7 * self.among // 8 or (self.place - first) % 3 == 2


def _turn(name: str, layers: int) -> _Turn | None:
    kind = next((kind for kind in _KINDS if kind in name), None)
    return None if kind is None else _Turn(kind.removesuffix(".weight"), layer_of(name), layers)


def layer_of(name: str) -> int:
    """Return the layer that a tensor is of; -1 for those of none."""
    layer = _LAYER.match(name)
    return int(layer[1]) if layer else -1


def by_layer(name: str) -> tuple[int, str]:
    """Return what tensors are sorted by."""
    return layer_of(name), name


def _mixed(
    name: str,
    wanted: FileType,
    heads: Heads,
    layers: int,
    is_tied: bool,
    has_importance: bool,
) -> str:
    if name in (_EMBEDDING, _OUTPUT):
        if wanted.keeps:
            return wanted.keeps
        if name == _EMBEDDING and not is_tied:
            return wanted.base
        return "Q8_0" if wanted.base == "Q8_0" else "Q6_K"
    turn = _turn(name, layers)
    if turn is None:
        return wanted.base
    if turn.kind in ("attn_v", "attn_qkv"):
        return "Q8_0" if heads.experts == 8 else _of_values(wanted, turn, heads)
    if turn.kind == "attn_k":
        return "Q8_0" if heads.experts == 8 else wanted.base
    if turn.kind == "ffn_down":
        return _of_down(wanted, turn, has_importance)
    if heads.experts == 8:  # of which attention is so small a part
        return "Q5_K" if wanted.mix in _RAISED_OUTPUTS else wanted.base
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(wanted.mix, wanted.base)


def _of_values(wanted: FileType, turn: _Turn, heads: Heads) -> str:
    is_shared = heads.queries_per_key >= 4
    chosen = wanted.base
    match wanted.mix:
        case "Q2_K":
            chosen = "Q4_K" if is_shared else "Q3_K"
        case "Q3_K_M":
            chosen = "Q5_K" if turn.place < 2 else "Q4_K"
        case "Q3_K_L":
            chosen = "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if is_shared:
            chosen = "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if turn.has_more:
            chosen = "Q6_K"
        case "Q4_K_S" if turn.place < 4:
            chosen = "Q5_K"
    return "Q5_K" if heads.is_70b and chosen in ("Q3_K", "Q4_K") else chosen


def _of_down(wanted: FileType, turn: _Turn, has_importance: bool) -> str:
    match wanted.mix:
        case "Q2_K":
            return "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if turn.place < turn.among // 16 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if turn.has_more:
            return "Q6_K"
        case "Q4_K_S" if turn.is_early:
            return "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if turn.is_early and not has_importance:
            return "Q5_K"
        case "Q4_0" | "Q5_0" if turn.is_early and has_importance:
            return f"{wanted.mix[:3]}1"
    return wanted.base
