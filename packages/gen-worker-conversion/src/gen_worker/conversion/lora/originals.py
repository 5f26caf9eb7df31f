"""Modules under their original names, and back: SDXL's, which kohya trains, FLUX.1's and SD3's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.layout.flux import flux_moves
from gen_worker.conversion.layout.moves import Fused, to_diffusers, to_original
from gen_worker.conversion.layout.sd3 import sd3_moves
from gen_worker.conversion.layout.shapes import count_of
from gen_worker.conversion.layout.unet import unet_moves
from gen_worker.conversion.lazy import computed, concat, reshape, scale
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.lora.adapter import LowRank

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gen_worker.conversion.layout.moves import Move
    from gen_worker.conversion.lazy import LazyTensor

__all__ = ["is_original", "with_diffusers_names", "with_original_names"]

_UNET = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
_FLUX = ("double_blocks.", "single_blocks.", "img_in", "txt_in", "vector_in", "guidance_in")
_SD3 = ("joint_blocks.", "context_block.", "t_embedder.", "y_embedder.", "x_embedder.proj")
_SHARED = ("final_layer.", "time_in.")
_SDXL_UNET = {
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
}
"""The one UNet that trainers know under its original names."""
_LINEAR1_PARTS = 7
"""q, k, v, and four times their width for the MLP, in `linear1` of a single block."""


def is_original(module: str) -> bool:
    """Tell whether a module of a denoiser has the name of the original code."""
    return module.startswith((*_UNET, *_FLUX, *_SD3, *_SHARED))


def with_diffusers_names(
    layers: Mapping[str, LowRank],
) -> tuple[str, dict[str, LowRank], list[str]]:
    """Return the component, its modules by their names in diffusers, and modules it has not.

    A module that is several in diffusers becomes several: they share `down`, and each has its rows
    of `up`.
    """
    component, moves = _moves(layers)
    made: dict[str, LowRank] = {}
    unknown: list[str] = []
    for module, layer in layers.items():
        ups = to_diffusers({f"{module}.weight": layer.up}, moves).tensors
        if not ups:
            unknown.append(module)
        magnitudes = _magnitudes(layer, f"{module}.weight", moves)
        for name, up in ups.items():
            one = layer._replace(up=up, magnitude=magnitudes.get(name))
            made[name.removesuffix(".weight")] = one
    return component, made, unknown


def _magnitudes(
    layer: LowRank, name: str, moves: Sequence[Move | Fused]
) -> Mapping[str, LazyTensor]:
    """Return the magnitudes as the rows of a weight are moved, in one dimension each."""
    if layer.magnitude is None:
        return {}
    column = reshape(layer.magnitude, (layer.magnitude.elements, 1))
    moved = to_diffusers({name: column}, moves).tensors
    return {other: reshape(one, (one.elements,)) for other, one in moved.items()}


def _moves(layers: Mapping[str, LowRank]) -> tuple[str, list[Move | Fused]]:
    if any(module.startswith(_UNET) for module in layers):
        return "unet", list(unet_moves(_SDXL_UNET))
    names: dict[str, Any] = dict.fromkeys(layers)
    if any(module.startswith(_SD3) for module in layers):
        return "transformer", _sd3(count_of(names, "joint_blocks."))
    return "transformer", list(_flux(layers, names))


def _sd3(blocks: int) -> list[Move | Fused]:
    """Return the moves of so many blocks, whichever of them is the model's last.

    The modulation of the last one's text is another; that of the last block here may be either, so
    it is left out: an adapter that changes it is not guessed at.
    """
    moves = sd3_moves({"num_layers": blocks + 1, "dual_attention_layers": range(blocks)})
    doubtful = f"joint_blocks.{blocks - 1}.context_block.adaLN_modulation.1"
    return [move for move in moves if move.original != doubtful]


def _flux(layers: Mapping[str, LowRank], names: Mapping[str, Any]) -> Iterable[Move | Fused]:
    rows = [one.up.shape[0] for name, one in layers.items() if name.endswith(".linear1")]
    config = {
        "num_layers": count_of(names, "double_blocks."),
        "num_single_layers": count_of(names, "single_blocks."),
        "num_attention_heads": 1,
        "attention_head_dim": rows[0] // _LINEAR1_PARTS if rows else 0,
        "guidance_embeds": True,
    }
    return flux_moves(config)


def with_original_names(layers: Mapping[str, LowRank], family: str) -> dict[str, LowRank]:
    """Return the modules of a transformer by their original names.

    Where several are one there, its rank is the sum of theirs, unless they share `down`.

    Args:
        layers: By their names in diffusers.
        family: `flux1` or `sd3`; FLUX.1 is told by its single blocks, too.

    Raises:
        ConversionInputError: The family is not known, or has no such module.
    """
    moves = _moves_of_transformer(layers, family)
    fused = {
        part.removesuffix(".weight"): move
        for move in moves
        if isinstance(move, Fused)
        for part in move.diffusers
        if part.endswith(".weight")
    }
    made: dict[str, LowRank] = {}
    for module, layer in layers.items():
        move = fused.get(module)
        if move is None:
            ups = to_original({f"{module}.weight": layer.up}, moves).tensors
            if not ups:
                raise ConversionInputError(
                    f"{module!r} is no module of the original transformer: check the family"
                )
            name, up = next(iter(ups.items()))
            if layer.magnitude is not None and up is not layer.up:
                raise _no_magnitudes(module)
            made[name.removesuffix(".weight")] = layer._replace(up=up)
        elif (name := move.original.removesuffix(".weight")) not in made:
            parts = [layers.get(part.removesuffix(".weight")) for part in move.diffusers]
            made[name] = _joined(name, parts, move.sizes)
    return made


def _moves_of_transformer(layers: Mapping[str, LowRank], family: str) -> list[Move | Fused]:
    names: dict[str, Any] = dict.fromkeys(layers)
    blocks = count_of(names, "transformer_blocks.")
    singles = count_of(names, "single_transformer_blocks.")
    if singles or family == "flux1":
        rows = [one.up.shape[0] for name, one in layers.items() if name.endswith("attn.to_q")]
        sizes = {"num_attention_heads": 1, "attention_head_dim": rows[0] if rows else 0}
        config = {"num_layers": blocks, "num_single_layers": singles, "guidance_embeds": True}
        return list(flux_moves({**config, **sizes}))
    if family != "sd3":
        raise ConversionInputError(
            "the modules do not tell which transformer they are of: give family='flux1' or 'sd3'"
        )
    return _sd3(blocks)


def _joined(name: str, parts: Sequence[LowRank | None], sizes: Sequence[int]) -> LowRank:
    there = [part for part in parts if part is not None]
    first = there[0]
    magnitudes = [part.magnitude for part in there if part.magnitude is not None]
    if magnitudes:
        if len(magnitudes) != len(parts):
            raise _no_magnitudes(name)
        joined = _joined(name, [part._replace(magnitude=None) for part in there], sizes)
        return joined._replace(magnitude=concat(magnitudes))
    rows = list(sizes) or [first.up.shape[0]] * len(parts)
    if len(there) == len(parts) and all(
        part.down is first.down and part.alpha == first.alpha for part in there
    ):
        return first._replace(up=concat([part.up for part in there]))
    factors = {part.scale for part in there}
    factor = factors.pop() if len(factors) == 1 else 1.0
    ups = [
        None if part is None else scale(part.up, part.scale / factor) if factors else part.up
        for part in parts
    ]
    rank = sum(part.rank for part in there)
    down = concat([part.down for part in there])
    return LowRank(down, _block_diagonal(ups, rows, rank), factor * rank)


def _no_magnitudes(module: str) -> ConversionInputError:
    return ConversionInputError(
        f"{module!r} would be of a DoRA with magnitudes for a part of its rows: choose diffusers "
        "or peft"
    )


def _block_diagonal(ups: Sequence[LazyTensor | None], rows: Sequence[int], rank: int) -> LazyTensor:
    """Return the matrices below and beside each other, zeros between them."""
    there = [up for up in ups if up is not None]
    dtype = there[0].dtype

    def make(start: int, stop: int) -> Any:
        import torch  # type: ignore[import-not-found,unused-ignore]

        made = torch.zeros((sum(rows), rank), dtype=torch_dtype(dtype))
        row = column = 0
        for up, size in zip(ups, rows, strict=True):
            if up is not None:
                made[row : row + size, column : column + up.shape[1]] = up.tensor()
                column += up.shape[1]
            row += size
        return made[start:stop]

    return computed(make, shape=(sum(rows), rank), dtype=dtype, of=there, is_whole=True)
