"""`gen-worker convert`: plan, ask, convert, verify, publish."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.cli.converting.gguf_options import file_options
from gen_worker.cli.converting.loras import held_loras
from gen_worker.cli.converting.places import destination_of, held_source
from gen_worker.cli.converting.progress import ConversionBar, SendingLines
from gen_worker.cli.converting.telling import plan_lines, verified_text
from gen_worker.cli.failures import UsageError
from gen_worker.cli.hub_progress import TransferBar
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.cli.signals import interruptible
from gen_worker.cli.sizes import size_text
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from gen_worker.cli.converting.places import HeldSource
    from gen_worker.conversion.convert import (
        ConversionPlan,
        ConversionResult,
        FlavorPlan,
        MergedLora,
        ProvenFlavor,
    )
    from gen_worker.conversion.quantize import CalibrationData
    from gen_worker.conversion.verify import QualityGate
    from gen_worker.models.hub import Flavor, Publication
    from gen_worker.models.refs import TensorhubRef

__all__ = ["Conversion", "run"]

_WORK = ".gen-worker-convert"
"""Folder of outputs on their way to a hub, in the current one."""


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    out, cancel = divert_stdout(), CancelToken()
    return interruptible(lambda: Conversion(args, out, cancel).run(), cancel)


class Conversion:
    """One run of the command."""

    command = "convert"

    def __init__(self, args: argparse.Namespace, out: BinaryIO, cancel: CancelToken) -> None:
        self.args = args
        self.cancel = cancel
        self.ref = destination_of(args.out)
        self._out = out
        self._is_for_people = not args.json and os.isatty(out.fileno())
        self._printer = ResultPrinter(out, envelope=False)
        self._sending = TransferBar("publish")
        self._lines = SendingLines(self._sending, self._tell)
        self._result: ConversionResult | None = None

    def run(self) -> int:
        bar = TransferBar("fetch")
        held = held_source(
            self.args.source, is_offline=self.args.offline, bar=bar, token=self.cancel
        )
        loras = held_loras(self.args.lora, is_offline=self.args.offline, bar=bar, token=self.cancel)
        with held as source, loras as merged:
            plan = self.plan(source.path, merged)
            self._show(plan)
            if self.args.plan:
                return 2 if plan.refusals else 0
            gate = self._gate(plan)
            if self.ref is not None:
                self._make_for(self.ref, plan, source, gate)
                return 0
            self._result = self._convert(plan)
            if self.args.verify or gate is not None:
                self._prove(plan, source, gate)
        return 0

    def _make_for(
        self, ref: TensorhubRef, plan: ConversionPlan, source: HeldSource, gate: QualityGate | None
    ) -> None:
        """Make outputs and publish them; the files go up as they are finished."""
        with self._publication(ref, plan) as publication:
            if not plan.is_finished:
                self._result = self._convert(plan, publication)
            proven = self._prove(plan, source, gate)
            self._publish(plan, ref, source, proven, publication)

    def plan(self, source: str, loras: tuple[MergedLora, ...]) -> ConversionPlan:
        """Plan what the command asks for."""
        from gen_worker.conversion.convert import plan_conversion

        args = self.args
        options: dict[str, Any] = {
            "layout": args.layout,
            "components": args.components.split(",") if args.components else None,
            "keep": args.keep,
            "loras": loras,
            "configs": os.path.expanduser(args.configs) if args.configs else None,
            "calibration": self._calibration(),
            "skip_calibration": args.skip_calibration,
            **file_options(args),
        }
        tokens = [word for word in args.to.split(",") if word.strip()]
        return plan_conversion(source, tokens, **self.place(), **options)

    def place(self) -> dict[str, Any]:
        """Return where outputs are made, as `plan_conversion` is told of it."""
        if self.ref is not None:
            return {"keep_in": _WORK}
        return {"out": os.path.expanduser(self.args.out)}

    def parents(self, source: HeldSource) -> Sequence[HeldSource]:
        """Return the models that outputs are made from."""
        return (source,)

    def _calibration(self) -> CalibrationData | None:
        from gen_worker.conversion.quantize import calibration_data

        args = self.args
        if args.calibrate is None:
            return None
        return calibration_data(args.calibrate, samples=args.calibration_samples)

    def _show(self, plan: ConversionPlan) -> None:
        if self._is_for_people:
            self._write(*plan_lines(plan))
        else:
            self._tell("convert.plan", msgspec.to_builtins(plan))
        if not plan.refusals:
            return
        problems = [
            f"{one.target}: {one.reason}" if one.target else one.reason for one in plan.refusals
        ]
        if not self.args.plan:
            raise UsageError("; ".join(problems), problems=tuple(problems))
        for problem in problems:
            print(f"gen-worker {self.command}: {problem}", file=sys.stderr)

    def _convert(
        self, plan: ConversionPlan, publication: Publication | None = None
    ) -> ConversionResult:
        from gen_worker.conversion.convert import run_conversion

        self._ask()
        bar = ConversionBar(
            None if self._is_for_people else self._tell,
            sending=None if publication is None else self._sending,
        )
        with self._telling_of_rest(plan), bar.showing():
            result = run_conversion(
                plan,
                progress=bar.follow,
                on_file=None if publication is None else publication.send,
                token=self.cancel,
            )
        for name, (nan, inf) in result.nonfinite.items():
            text = f"{name} has {nan} NaN and {inf} infinite values"
            print(f"gen-worker {self.command}: {text}", file=sys.stderr)
        if self._is_for_people:
            self._write(
                *(f"{one.flavor}: {one.path}" for one in plan.flavors if self.ref is None),
                f"{size_text(plan.size_bytes)} in {result.seconds:.0f} s",
            )
        else:
            self._tell("convert.done", msgspec.to_builtins(result))
        return result

    @contextmanager
    def _telling_of_rest(self, plan: ConversionPlan) -> Iterator[None]:
        """Say on Ctrl-C what is left, and what it is good for."""
        try:
            yield
        except (KeyboardInterrupt, CanceledError):
            parent, name = os.path.split(plan.request.out)
            place = os.path.join(parent, f".{name}.converting")
            if os.path.isdir(place):
                text = f"stopped: the same command goes on from what is in {place!r}"
                print(f"gen-worker {self.command}: {text}", file=sys.stderr)
            raise

    def _ask(self) -> None:
        if self.args.yes or not self._is_for_people or not sys.stdin.isatty():
            return
        print("Go on? [Y/n] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("", "y", "yes"):
            raise UsageError("nothing was done")

    def _gate(self, plan: ConversionPlan) -> QualityGate | None:
        from gen_worker.conversion.convert import gate_of

        return None if self.args.gate is None else gate_of(plan, min_snr_db=self.args.gate)

    @contextmanager
    def _publication(self, ref: TensorhubRef, plan: ConversionPlan) -> Iterator[Publication]:
        """Yield a publication, which is given up unless all goes well."""
        from gen_worker.cli.hub import users_hub
        from gen_worker.models.hub import HubClient, Publication

        parent, name = os.path.split(plan.request.out)
        with HubClient(*users_hub()) as client:
            # Before anything is made for it: it may not be there, or refuse the token.
            client.repo_exists(ref.owner, ref.repo)
            with Publication(
                client,
                f"{ref.owner}/{ref.repo}",
                names=os.path.join(parent, f".{name}.sending"),
                tell=self._lines.follow,
                cancel=self.cancel,
            ) as publication:
                yield publication

    def _prove(
        self, plan: ConversionPlan, source: HeldSource, gate: QualityGate | None
    ) -> list[ProvenFlavor]:
        """Verify the outputs; those that are not right do not stay."""
        from gen_worker.conversion.convert import discard_outputs
        from gen_worker.conversion.verify import VerificationError

        try:
            return self._proven(plan, source, gate)
        except VerificationError:
            discard_outputs(plan.request.out)
            raise

    def _proven(
        self, plan: ConversionPlan, source: HeldSource, gate: QualityGate | None
    ) -> list[ProvenFlavor]:
        from gen_worker.conversion.convert import prove_outputs

        proven = []
        for one in prove_outputs(
            plan,
            self._result,
            source_ref=source.ref,
            source_revision=source.revision,
            gate=gate,
            token=self.cancel,
        ):
            proven.append(one)
            flavor = one.produced.flavor
            if self._is_for_people:
                self._write(f"{flavor} is verified: {verified_text(one.report)}")
            else:
                self._tell("convert.verified", {"flavor": flavor, **one.report.summary()})
        return proven

    def _publish(
        self,
        plan: ConversionPlan,
        ref: TensorhubRef,
        source: HeldSource,
        proven: Sequence[ProvenFlavor],
        publication: Publication,
    ) -> None:
        from gen_worker.conversion.convert import discard_outputs

        parents = self.parents(source)
        flavors = [_flavor(*pair, parents) for pair in zip(proven, plan.flavors, strict=True)]
        self._lines.is_on = not self._is_for_people
        with self._sending.showing():
            done = publication.publish(flavors, tags=() if ref.tag == "latest" else (ref.tag,))
        discard_outputs(plan.request.out)
        if self._is_for_people:
            sizes = f"{size_text(done.size_bytes)}, {size_text(done.sent_bytes)} sent"
            self._write(f"{ref}: {', '.join(done.flavors)}; {done.files} files, {sizes}")
        else:
            self._tell("convert.published", {"ref": str(ref), **msgspec.to_builtins(done)})

    def _tell(self, kind: str, facts: dict[str, Any]) -> None:
        self._printer.print("result", {"kind": kind, **facts})

    def _write(self, *lines: str) -> None:
        self._out.write("".join(f"{line}\n" for line in lines).encode())


def _flavor(proven: ProvenFlavor, plan: FlavorPlan, parents: Sequence[HeldSource]) -> Flavor:
    """Return an output as the hub is told of it."""
    from gen_worker.context.lineage import quantization_facts
    from gen_worker.conversion.convert import relation_of
    from gen_worker.models.hub import Flavor, Lineage

    made, relation = proven.produced, relation_of(plan)
    facts = quantization_facts(made.flavor, made.attributes)
    lineage = tuple(
        Lineage(
            parent_repo=parent.repo,
            parent_checkpoint_id=parent.revision,
            relationship_kind=relation,
            metadata=facts if relation == "quantization" else {},
        )
        for parent in parents
        if parent.repo
    )
    return Flavor(
        folder=os.fspath(made.path), name=made.flavor, metadata=made.attributes, lineage=lineage
    )
