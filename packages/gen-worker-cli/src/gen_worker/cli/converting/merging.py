"""`gen-worker merge`: models as they are asked for, then what `convert` does with a plan."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from gen_worker.cancel import CancelToken
from gen_worker.cli.converting.places import held_source
from gen_worker.cli.converting.running import Conversion
from gen_worker.cli.failures import UsageError
from gen_worker.cli.hub_progress import TransferBar
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.signals import interruptible
from gen_worker.conversion.merge.methods import BASED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from gen_worker.cli.converting.places import HeldSource
    from gen_worker.conversion.convert import ConversionPlan, MergedLora

__all__ = ["run"]

_CASTS = ("bf16", "fp16", "fp32")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    out, cancel = divert_stdout(), CancelToken()
    return interruptible(lambda: _Merge(args, out, cancel).run(), cancel)


class _Merge(Conversion):
    """One run of the command."""

    command = "merge"

    def __init__(self, args: argparse.Namespace, out: BinaryIO, cancel: CancelToken) -> None:
        self._models, self._weights = _checked(args)
        self._held: list[HeldSource] = []
        args.source, args.lora, args.gate = self._models[0], [], None
        super().__init__(args, out, cancel)

    def run(self) -> int:
        with ExitStack() as stack:
            for model in self._models[1:]:
                bar = TransferBar("fetch")
                held = held_source(model, is_offline=self.args.offline, bar=bar, token=self.cancel)
                self._held.append(stack.enter_context(held))
            return super().run()

    def plan(self, source: str, loras: tuple[MergedLora, ...]) -> ConversionPlan:
        from gen_worker.conversion.convert import ModelMerge, plan_conversion

        args = self.args
        is_linear = args.method == "linear"
        merge = ModelMerge(
            method=args.method,
            models=tuple(held.path for held in self._held),
            weights=self._weights[1:] if is_linear else self._weights,
            source_weight=self._weights[0] if is_linear else 1.0,
            density=args.density,
            seed=args.seed,
        )
        return plan_conversion(
            source,
            [args.to or _precision_of(source)],
            components=args.components.split(",") if args.components else None,
            merge=merge,
            loras=loras,
            **self.place(),
        )

    def parents(self, source: HeldSource) -> Sequence[HeldSource]:
        return (source, *self._held)


def _checked(args: argparse.Namespace) -> tuple[list[str], tuple[float, ...]]:
    """Return the models, a base first, and the numbers that `--weight` gives.

    Raises:
        UsageError: The options do not belong to the method, or are too few.
    """
    is_based = args.method in BASED
    if is_based and args.base is None:
        raise UsageError(f"{args.method} sums differences to a base: give it with --base")
    if args.base is not None and not is_based:
        raise UsageError(f"--base: {args.method} needs none; {', '.join(BASED)} do")
    models = [*([args.base] if is_based else []), *args.models]
    if len(models) < 2 or (args.method == "slerp" and len(models) != 2):
        count = "two models" if args.method == "slerp" else "at least two models"
        raise UsageError(f"{args.method} takes {count}, and {len(args.models)} are given")
    wanted = 1 if args.method == "slerp" else len(args.models)
    if args.weight is None:
        return models, ((0.5,) if args.method == "slerp" else (1.0,) * wanted)
    try:
        weights = tuple(float(word) for word in args.weight.split(","))
    except ValueError:
        raise UsageError(f"--weight {args.weight!r}: give numbers separated by commas") from None
    if len(weights) != wanted:
        raise UsageError(f"--weight {args.weight!r}: give {_numbers(wanted)}, separated by commas")
    return models, weights


def _numbers(count: int) -> str:
    return "1 number" if count == 1 else f"{count} numbers"


def _precision_of(source: str) -> str:
    """Return the precision that most of a model has.

    Raises:
        UsageError: It is none that a merge can be written in.
    """
    from gen_worker.conversion.convert import inspect_model

    parts = inspect_model(source).components
    dtype = max(parts, key=lambda part: part.size_bytes).dtype if parts else ""
    if parts and dtype not in _CASTS:
        raise UsageError(f"{source!r} is {dtype}: merge models before they are quantised")
    return dtype or _CASTS[0]
