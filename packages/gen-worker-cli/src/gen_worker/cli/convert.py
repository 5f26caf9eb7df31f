"""Convert a model: to other precisions, to GGUF, to one file or from one.

SOURCE is a folder, a file of weights, or a ref (`acme/flux:prod`, `hf:owner/repo`,
`civitai:versions/7`). What comes out is told first: sizes, memory, time, and what stays in high
precision. A run that was broken off is gone on with by the same command.

  gen-worker convert ./model --to bf16 --out ./model-bf16
  gen-worker convert hf:owner/repo --to bf16,fp8,gguf:q4_k_m --out ./outputs --verify
  gen-worker convert ./model --to fp8 --out acme/model:prod
  gen-worker convert ./model --to bf16 --lora style.safetensors:0.8 --out ./styled
  gen-worker convert style.safetensors --to bf16 --layout kohya --out ./style-kohya

Several precisions have a folder each. `--out owner/repo:tag` publishes to the hub, each precision
as a flavor, once it is verified. Exit codes: 0 done, 1 it failed, 2 it cannot be done as asked, 130
interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_plan_options

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder, file or ref of the model")
    parser.add_argument(
        "--to",
        required=True,
        metavar="PRECISIONS",
        help="separated by commas, such as bf16, fp8, int8, nf4, gguf:q4_k_m, 4bit",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder, or owner/repo:tag to publish to"
    )
    add_plan_options(parser)
    _add_shape(parser.add_argument_group("what is converted, and into which files"))
    _add_calibration(parser.add_argument_group("calibration"))
    _add_gguf(parser.add_argument_group("GGUF files"))
    _add_proof(parser.add_argument_group("proof"))


def _add_shape(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--layout",
        choices=("diffusers", "singlefile", "kohya", "peft"),
        default=None,
        help="make a pipeline one file, or one file a pipeline; of a LoRA: its format",
    )
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="LoRA to merge into the model, such as style.safetensors:0.8; may be repeated",
    )
    group.add_argument(
        "--components",
        metavar="NAMES",
        help="convert only these, separated by commas; the others are copied",
    )
    group.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that stay in their precision, such as '*norm*'; may be repeated",
    )
    group.add_argument(
        "--max-shard-bytes",
        type=int,
        metavar="BYTES",
        help="of tensors in one file; a GGUF file is split only with this",
    )


def _add_calibration(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibrate",
        metavar="DATA",
        help="text for GPTQ and for scales of activations: a dataset's folder, or a file of lines",
    )
    group.add_argument(
        "--calibration-samples",
        type=int,
        default=128,
        metavar="N",
        help="how many rows of it are read (default: 128)",
    )
    group.add_argument(
        "--skip-calibration",
        action="store_true",
        help="calibrate only what cannot be made without",
    )


def _add_gguf(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--imatrix", metavar="FILE", help="importance matrix of llama.cpp, for types of GGUF"
    )
    group.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what a GGUF file says of itself; may be repeated",
    )
    group.add_argument("--base", metavar="DIR", help="model that a LoRA is for, to make it GGUF")


def _add_proof(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--verify", action="store_true", help="read every output again and compare it"
    )
    group.add_argument(
        "--gate",
        type=float,
        default=None,
        metavar="DB",
        help="run both models on the same inputs; what they give must be as close as so many dB",
    )


def main(args: argparse.Namespace) -> int:
    from gen_worker.cli.converting.running import run

    return run(args)
