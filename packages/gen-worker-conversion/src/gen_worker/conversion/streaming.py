"""One file or index in, files of another precision out, in the memory of a few slabs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.cast import cast_checkpoint
from gen_worker.conversion.errors import ConversionImplementationError
from gen_worker.conversion.lazy import computed, open_checkpoint
from gen_worker.conversion.lazy.dtypes import FLOATS
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors
from gen_worker.errors import HardwareUnmetError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy import Checkpoint, LazyTensor
    from gen_worker.conversion.writer import Written

__all__ = [
    "MaterializedInput",
    "list_shard_files_from_index",
    "materialize_safetensors_input",
    "shard_safetensors_by_offset",
    "streaming_dtype_cast",
    "streaming_gpu_quantize",
]

_UNLIMITED = 1 << 62


class MaterializedInput(NamedTuple):
    """A model as one file."""

    path: Path
    input_sharded: bool
    input_shard_count: int


def streaming_dtype_cast(
    input_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    target_dtype: str,
    shard_prefix: str = "model",
    shard_threshold: int = MAX_SAFETENSORS_SHARD_BYTES,
    skip: Sequence[str] = (),
    keep_fp32: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    token: CancelToken | None = None,
) -> dict[str, Any]:
    """Cast the floating-point tensors of a model and write all of it; blocks.

    Args:
        input_path: A safetensors file or an index.
        out_dir: Made when absent.
        target_dtype: `bf16`, `fp16` or `fp32`.
        shard_prefix: Of the files' names.
        shard_threshold: Bytes of tensors in one file.
        skip: See `cast_checkpoint`.
        keep_fp32: See `cast_checkpoint`.
        progress: Called with the bytes written and to write.
        token: Ends the work between two slabs.

    Returns:
        `tensor_count`, `converted_count`, `incremental` (always True), `output_paths`,
        `index_path` (None for one file), `shard_sizes`, `nonfinite`.

    Raises:
        ConversionInputError: A cast does not lead to `target_dtype`.
        Exception: What `open_checkpoint` and `write_safetensors` raise.
    """
    source = open_checkpoint(input_path)
    made = cast_checkpoint(source, target_dtype, skip=skip, keep_fp32=keep_fp32)
    written = write_safetensors(
        made,
        out_dir,
        prefix=shard_prefix,
        max_shard_bytes=shard_threshold,
        metadata=source.metadata,
        progress=progress,
        token=token,
    )
    converted = sum(made[name].dtype != source[name].dtype for name in made)
    return {**_facts(written), "converted_count": converted}


def streaming_gpu_quantize(
    input_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    quantize_fn: Callable[[Any], Any],
    device: str = "cuda",
    min_ndim: int = 2,
    shard_prefix: str = "model",
    shard_threshold: int = MAX_SAFETENSORS_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    token: CancelToken | None = None,
) -> dict[str, Any]:
    """Send the floating-point tensors through a function on a device, one by one; blocks.

    Args:
        input_path: A safetensors file or an index.
        out_dir: Made when absent.
        quantize_fn: Takes a tensor on `device` and returns one of its shape and dtype.
        device: As torch names it.
        min_ndim: Tensors of fewer dimensions stay as they are.
        shard_prefix: Of the files' names.
        shard_threshold: Bytes of tensors in one file.
        progress: Called with the bytes written and to write.
        token: Ends the work between two tensors.

    Returns:
        What `streaming_dtype_cast` does, with `quantized_count` and `device`.

    Raises:
        HardwareUnmetError: There is no such device.
        ConversionImplementationError: The function changed a shape or a dtype.
        Exception: What `open_checkpoint` and `write_safetensors` raise.
    """
    _check_device(device)
    source = open_checkpoint(input_path)
    wanted = {
        name
        for name, tensor in source.items()
        if tensor.dtype in FLOATS and len(tensor.shape) >= min_ndim
    }
    made: Checkpoint = {
        name: _on_device(name, tensor, quantize_fn, device) if name in wanted else tensor
        for name, tensor in source.items()
    }
    written = write_safetensors(
        made,
        out_dir,
        prefix=shard_prefix,
        max_shard_bytes=shard_threshold,
        metadata=source.metadata,
        progress=progress,
        token=token,
    )
    facts = {"converted_count": len(wanted), "quantized_count": len(wanted), "device": device}
    return {**_facts(written), **facts}


def _check_device(device: str) -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]

    cuda: Any = torch.cuda
    if device.startswith("cuda") and not cuda.is_available():
        raise HardwareUnmetError(f"there is no CUDA device for {device!r} here: give device='cpu'")


def _on_device(
    name: str, tensor: LazyTensor, quantize_fn: Callable[[Any], Any], device: str
) -> LazyTensor:
    def rows(start: int, stop: int) -> Any:
        given = tensor.tensor().to(device)
        made = quantize_fn(given)
        if made.shape != given.shape or made.dtype != given.dtype:
            raise ConversionImplementationError(
                f"quantize_fn made {list(made.shape)} of {made.dtype} of tensor {name!r}, which "
                f"has {list(given.shape)} of {given.dtype}: it must keep shape and dtype",
                tensor=name,
                step="quantize",
            )
        return made.to("cpu")[start:stop] if tensor.shape else made.to("cpu")

    return computed(rows, shape=tensor.shape, dtype=tensor.dtype, of=(tensor,), is_whole=True)


def _facts(written: Written) -> dict[str, Any]:
    sizes = written.plan.shard_sizes
    return {
        "tensor_count": len(written.plan.weight_map),
        "incremental": True,
        "output_paths": [Path(file.path) for file in written.files],
        "index_path": Path(written.index_file.path) if written.index_file else None,
        "shard_sizes": [sizes[name] for name in written.plan.shard_names],
        "nonfinite": dict(written.nonfinite),
    }


def shard_safetensors_by_offset(
    src: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    shard_prefix: str = "model",
) -> tuple[list[Path], Path | None, list[int]]:
    """Split a file into several by copying its bytes; blocks.

    Returns:
        The files, the index (None for one file) and the bytes of tensors in each.
    """
    source = open_checkpoint(src)
    facts = _facts(
        write_safetensors(
            source,
            out_dir,
            prefix=shard_prefix,
            max_shard_bytes=max_shard_bytes,
            metadata=source.metadata,
        )
    )
    return facts["output_paths"], facts["index_path"], facts["shard_sizes"]


def list_shard_files_from_index(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files an index names, in order, each once.

    Raises:
        Exception: What `open_checkpoint` raises: the index is malformed, or a file is missing or
            damaged.
    """
    return [Path(shard) for shard in open_checkpoint(path).files]


def materialize_safetensors_input(
    path: str | os.PathLike[str], work_dir: str | os.PathLike[str]
) -> MaterializedInput:
    """Return a model as one safetensors file; shards are joined in `work_dir`. Blocks."""
    source = open_checkpoint(path)
    if len(source.files) == 1:
        return MaterializedInput(Path(source.files[0]), False, 1)
    written = write_safetensors(
        source, work_dir, max_shard_bytes=_UNLIMITED, metadata=source.metadata
    )
    return MaterializedInput(Path(written.path), True, len(source.files))
