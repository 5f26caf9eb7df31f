"""Say what a model is: layout, family, precisions, sizes, and what would stop a conversion.

MODEL is a folder, a file of weights, or a ref that is on this machine. Only headers and
configurations are read. Exit code 1 when it cannot be converted.

  gen-worker inspect ./model
  gen-worker inspect model.safetensors --json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, file or ref")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON line, as is done wherever stdout is no terminal",
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.converting.inspecting import run

    return run(args)
