"""Convert a model: to other precisions, to GGUF, to one file or from one.

SOURCE is a folder, a file of weights, or a ref (`acme/flux:prod`, `hf:owner/repo`,
`civitai:versions/7`). What comes out is told first: sizes, memory, time, and what stays in high
precision. A run that was broken off is gone on with by the same command.

  gen-worker convert ./model --to bf16 --out ./model-bf16
  gen-worker convert hf:owner/repo --to bf16,fp8,gguf:q4_k_m --out ./outputs --verify
  gen-worker convert ./model --to fp8 --out acme/model:prod
  gen-worker convert ./model --to bf16 --lora style.safetensors:0.8 --out ./styled
  gen-worker convert style.safetensors --to bf16 --layout kohya --out ./style-kohya

PRECISIONS, of which docs/conversion.md says what is made of what:

  safetensors   fp32 fp16 bf16, fp8 fp8:e5m2 (with scales), fp8:e4m3:storage fp8:e5m2:storage, int8,
                nf4 fp4, int4:wo, mxfp8 mxfp4 nvfp4, with --calibrate int4:gptq int8:gptq
  GGUF          gguf:f32 f16 bf16 keep, q8_0 q6_k q5_k_m q5_k_s q5_0 q5_1 q4_k_m q4_k_s q4_0 q4_1
                iq4_nl iq4_xs q3_k_l q3_k_m q3_k_s q2_k, and _l as others have them
  by bits       32bit 16bit 8bit 4bit: the first that the model can have

Several precisions have a folder each. `--out owner/repo:tag` publishes to the hub, each precision
as a flavor, once it is verified. Exit codes: 0 done, 1 it failed, 2 it cannot be done as asked, 130
interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.cli.options import add_plan_options, byte_size, separated, whole_number

if TYPE_CHECKING:
    import argparse

__all__ = ["configure", "main"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="folder, file or ref of the model")
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="PRECISIONS",
        help="separated by commas, such as bf16, fp8, int8, nf4, gguf:q4_k_m, 4bit; see above",
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
        "--configs",
        metavar="DIR",
        help="a pipeline of the same model, for one file that becomes a pipeline: gives "
        "configurations, tokenizers, and components that are not in the file",
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
        type=separated,
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
        type=byte_size,
        metavar="SIZE",
        help="of tensors in one file, such as 2GB; a GGUF file is split only with this",
    )


def _add_calibration(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--calibrate",
        metavar="DATA",
        help="text for GPTQ and for scales of activations: a dataset's folder, or a file of lines",
    )
    group.add_argument(
        "--calibration-samples",
        type=whole_number(1),
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

    args.to = ",".join(args.to)
    return run(args)
