"""A checkpoint quantized as a recipe: nothing is read until it is written or measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.conversion.cast import cast_checkpoint, cast_code
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.quantize.fitted import FittedScheme
from gen_worker.conversion.quantize.layouts import config_of, header_metadata, tensor_name
from gen_worker.conversion.quantize.methods import Layout, lookup_method
from gen_worker.conversion.quantize.options import QuantizeOptions, completed
from gen_worker.conversion.quantize.policy import Choice, Policy, choose, stack_of
from gen_worker.conversion.quantize.schemes import TORCH_NAMES, scheme_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.quantize.parts import Scheme

__all__ = ["QuantizationReport", "QuantizedCheckpoint", "quantize_checkpoint"]


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, for plans, model cards and lineage."""

    method: str
    layout: Layout
    options: QuantizeOptions
    """Complete: what the defaults came to is in it."""
    recipe: str
    quantized: tuple[str, ...]
    """Names of tensors of the source."""
    kept: Mapping[str, str]
    """Why each of the others stays as it is, by name."""
    source_bytes: int
    result_bytes: int


class _Weight(NamedTuple):
    scheme: Scheme
    names: Mapping[str, str]
    """Of the tensors in the file, by part."""
    source: LazyTensor


class QuantizedCheckpoint(NamedTuple):
    """What is written: tensors, the block for `config.json`, and what every header says."""

    tensors: Checkpoint
    config: Mapping[str, Any]
    """`quantization_config`; empty where loaders need none."""
    metadata: Mapping[str, str]
    """For the headers of all files."""
    report: QuantizationReport
    weights: Mapping[str, _Weight]

    def dequantized(self, name: str, written: Checkpoint | None = None) -> LazyTensor:
        """Return what a loader makes of a quantized weight, in float32.

        Args:
            name: Of the tensor in the source, one of `report.quantized`.
            written: What was written, opened again; without it, what would be written.

        Raises:
            ConversionInputError: There is no such weight, or `written` lacks a part of it.
        """
        weight = self.weights.get(name)
        if weight is None:
            raise ConversionInputError(f"tensor {name!r} is not quantized", tensor=name)
        read = self.tensors if written is None else written
        for part in weight.names.values():
            if part not in read:
                raise ConversionInputError(
                    f"{part!r} of the quantized tensor {name!r} is missing: write it again",
                    tensor=part,
                )
        parts = {part: read[place] for part, place in weight.names.items()}
        return weight.scheme.decode(parts, weight.source.shape)


def quantize_checkpoint(
    checkpoint: Checkpoint,
    method: str,
    policy: Policy | None = None,
    options: QuantizeOptions | None = None,
) -> QuantizedCheckpoint:
    """Plan the quantization of one component's weights; nothing is read.

    Args:
        checkpoint: Its weights.
        method: Name of one of `METHODS`.
        policy: What stays in high precision; by default what language models do not bear to lose.
        options: Of the method.

    Raises:
        ConversionInputError: There is no such method here, it cannot do what the options say, a
            pattern names nothing, no tensor is left to quantize, or a name in the result is taken.
    """
    how = lookup_method(method)
    full = completed(how, options or QuantizeOptions())
    code = cast_code(full.dtype) if full.dtype else ""
    rules = policy or Policy()

    def scheme_of(tensor: LazyTensor) -> Scheme:
        return scheme_for(how.name, full, code or tensor.dtype)

    stack = stack_of(checkpoint)

    def misfit(name: str, tensor: LazyTensor) -> str:
        scheme = scheme_of(tensor)
        if isinstance(scheme, FittedScheme) and not (stack and name.startswith(stack)):
            return "outside of the blocks that calibration goes through"
        return scheme.misfit(tensor)

    choice = choose(checkpoint, how, rules, misfit)
    rest = cast_checkpoint(checkpoint, full.dtype) if full.dtype else checkpoint
    tensors, weights = _encoded(checkpoint, rest, choice, full, scheme_of)
    compute_dtype = TORCH_NAMES[rest[choice.quantized[0]].dtype]
    return QuantizedCheckpoint(
        tensors,
        config_of(how.name, full, _kept_modules(checkpoint, choice), compute_dtype),
        header_metadata(how.name, full, rest, weights),
        QuantizationReport(
            method=how.name,
            layout=full.layout or "plain",
            options=full,
            recipe=rules.recipe.name,
            quantized=choice.quantized,
            kept=choice.kept,
            source_bytes=sum(tensor.size_bytes for tensor in checkpoint.values()),
            result_bytes=sum(tensor.size_bytes for tensor in tensors.values()),
        ),
        weights,
    )


def _encoded(
    checkpoint: Checkpoint,
    rest: Checkpoint,
    choice: Choice,
    options: QuantizeOptions,
    scheme_of: Callable[[LazyTensor], Scheme],
) -> tuple[dict[str, LazyTensor], dict[str, _Weight]]:
    """Return all tensors of the result in the order of the source, and how each weight lies."""
    tensors: dict[str, LazyTensor] = {}
    weights: dict[str, _Weight] = {}
    quantized = frozenset(choice.quantized)
    for name, source in checkpoint.items():
        if name not in quantized:
            _add(tensors, name, rest[name])
            continue
        scheme = scheme_of(source)
        parts = scheme.encode(source)
        names = {part: tensor_name(options, name, part) for part in parts}
        weights[name] = _Weight(scheme, names, source)
        for part, tensor in parts.items():
            _add(tensors, names[part], tensor)
    return tensors, weights


def _add(tensors: dict[str, LazyTensor], name: str, tensor: LazyTensor) -> None:
    if name in tensors:
        raise ConversionInputError(
            f"the quantized weights need a tensor {name!r}, which the source has already: it is "
            "quantized itself",
            tensor=name,
        )
    tensors[name] = tensor


def _kept_modules(checkpoint: Checkpoint, choice: Choice) -> list[str]:
    """Return names of what may be linear layers, so that loaders leave them alone."""
    return [
        name.removesuffix(".weight")
        for name in choice.kept
        if name.endswith(".weight") and len(checkpoint[name].shape) == 2
    ]
