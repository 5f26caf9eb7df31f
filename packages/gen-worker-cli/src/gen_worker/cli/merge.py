"""Merge models of one architecture: along a line or an arc, or what tunings of a base have learnt.

MODELS are folders, files of weights, or refs. The first one, or the base, gives everything that is
no weight, and the precision unless `--to` does. The plan comes first, as with `convert`, and a run
that was broken off is gone on with by the same command. `--out owner/repo:tag` publishes to the
hub, once the output is verified.

  gen-worker merge ./a ./b --method slerp --weight 0.3 --out ./between
  gen-worker merge ./a ./b --weight 2,1 --out ./mean
  gen-worker merge ./a ./b --method ties --base ./base --density 0.3 --out ./both

Exit codes: 0 done, 1 it failed, 2 it cannot be done as asked, 130 interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_plan_options, separated

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, file or ref")
    parser.add_argument(
        "--method",
        choices=("linear", "slerp", "task-arithmetic", "ties", "dare", "dare-ties"),
        default="linear",
        help="how weights are joined (default: linear)",
    )
    parser.add_argument(
        "--weight",
        metavar="NUMBERS",
        help="one for each model, separated by commas (default: 1); of slerp: where between both",
    )
    parser.add_argument("--base", metavar="MODEL", help="what the models were tuned from")
    parser.add_argument(
        "--density",
        type=float,
        metavar="SHARE",
        help="of each difference that is kept (default: 0.2 of ties, 0.5 of dare)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what dare drops (default: 0)"
    )
    parser.add_argument("--to", metavar="PRECISION", help="bf16, fp16, fp32, or fewer bits")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder, or owner/repo:tag to publish to"
    )
    parser.add_argument(
        "--components",
        type=separated,
        metavar="NAMES",
        help="merge only these, separated by commas; the others are the first model's",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the output again and compare it"
    )
    add_plan_options(parser)


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.converting.merging import run

    return run(args)
