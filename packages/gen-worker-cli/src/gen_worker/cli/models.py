"""Look after the models on this machine: those of the hub, of Hugging Face and of Civitai.

  ls [WORD]          list models with sizes and last use
  rm MODEL...        remove models; one that a process uses stays
  verify [MODEL...]  read every byte again; what is damaged is fetched again before its next use
  du                 what they take of the disk, and what is free

A model is named by a ref (`acme/flux:prod#bf16`, `hf:owner/repo`, `civitai:versions/7`) or by the
first digits of its digest. Exit code 1 when something is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]

_ACTIONS = ("ls", "rm", "verify", "du")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=_ACTIONS, help="what to do, see above")
    parser.add_argument("tokens", nargs="*", metavar="WORD", help="what to do it with")
    parser.add_argument(
        "--repair", action="store_true", help="verify: fetch what is damaged again at once"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON lines, as is done wherever stdout is no terminal",
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.failures import UsageError

    if args.repair and args.action != "verify":
        raise UsageError(f"--repair goes with verify, not with {args.action}")
    if args.action == "rm" and not args.tokens:
        raise UsageError("write it as: gen-worker models rm MODEL...")
    if len(args.tokens) > {"ls": 1, "du": 0}.get(args.action, len(args.tokens)):
        raise UsageError(f"{args.action} takes no {args.tokens[-1]!r}")
    from gen_worker.cli.models_kept import run

    return run(args)
