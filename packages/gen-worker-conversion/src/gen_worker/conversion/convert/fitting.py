"""Single files whose tensors fit no configuration: told by plans, before anything is converted."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gen_worker.conversion.convert.values import Refusal
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.conversion.convert.values import ConversionRequest
    from gen_worker.conversion.layout.single_file import UnpackedPipeline
    from gen_worker.conversion.lazy import Checkpoint

__all__ = ["unfit_files"]

_SHOWN = 5
_LIBRARIES = ("torch", "diffusers", "transformers")
_HEAD = 64
_GROUPS = 32
"""What every published model of the families has: width of an attention head of CLIP, and groups of
the norms of UNets and autoencoders."""
_BLOCKS = ("down_blocks.", "encoder.down_blocks.")


def unfit_files(request: ConversionRequest) -> Iterator[Refusal]:
    """Yield why a single file cannot become a pipeline: its tensors are of other sizes.

    The classes are made on the meta device where the libraries are installed; without them some of
    it is found out by the verification of what was made.
    """
    from gen_worker.conversion.layout.single_file import unpacked_pipeline

    if request.layout != "diffusers" or not os.path.isfile(request.source):
        return
    try:
        unpacked = unpacked_pipeline(request.source, config_dir=request.configs)
    except (WorkerError, OSError):  # what every output is refused by
        return
    problems = list(_unfit(unpacked, is_inferred=not request.configs))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        yield Refusal(
            target="",
            reason=(
                f"{request.source!r} does not fit the configuration that is taken for a file of "
                f"{unpacked.family}: {shown}{more}: give the folder of a pipeline of the same "
                "model (configs in Python, --configs on the command line)"
            ),
        )


def _unfit(unpacked: UnpackedPipeline, *, is_inferred: bool) -> Iterator[str]:
    from gen_worker.conversion.verify.single_files import unfit_problems

    has_libraries = all(map(find_spec, _LIBRARIES))
    for name, tensors in unpacked.components.items():
        odd = [f"tensor {name}/{text}" for text in _odd_widths(tensors)] if is_inferred else []
        yield from odd
        if not odd and has_libraries:
            yield from unfit_problems(unpacked, name)


def _odd_widths(tensors: Checkpoint) -> Iterator[str]:
    """Yield sizes that no configuration of the families has."""
    for name, tensor in tensors.items():
        shape = tensor.shape
        if name.endswith("embeddings.token_embedding.weight") and shape[-1] % _HEAD:
            yield f"{name} is {list(shape)}, it wants a multiple of {_HEAD} columns"
        is_norm = name.startswith(_BLOCKS) and name.endswith(".resnets.0.norm2.weight")
        if is_norm and shape[0] % _GROUPS:
            yield f"{name} is {list(shape)}, it wants a multiple of {_GROUPS}"
