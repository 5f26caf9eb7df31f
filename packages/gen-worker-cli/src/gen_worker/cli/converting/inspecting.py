"""`gen-worker inspect`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gen_worker.cancel import CancelToken
from gen_worker.cli.converting.describing import model_lines
from gen_worker.cli.converting.places import held_source
from gen_worker.cli.hub_progress import TransferBar
from gen_worker.cli.output import divert_stdout
from gen_worker.cli.results import ResultPrinter
from gen_worker.cli.signals import interruptible
from gen_worker.conversion.convert import inspect_model

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Print what a model is; 1 when it cannot be converted."""
    out, cancel = divert_stdout(), CancelToken()

    def act() -> int:
        held = held_source(args.model, is_offline=True, bar=TransferBar("inspect"), token=cancel)
        with held as model:
            facts = inspect_model(model.path)
        if args.json or not os.isatty(out.fileno()):
            ResultPrinter(out, envelope=False).print("result", msgspec.to_builtins(facts))
        else:
            out.write("".join(f"{line}\n" for line in model_lines(facts)).encode())
        return 1 if facts.refusals else 0

    return interruptible(act, cancel)
