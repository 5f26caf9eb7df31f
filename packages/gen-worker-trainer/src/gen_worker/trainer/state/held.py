"""Files of a training state that are read while they are verified, so that they are read once."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gen_worker.errors import WorkerError
from gen_worker.trainer.checkpoints.files import verify_files
from gen_worker.trainer.state.saving import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gen_worker.models.reader import FileRead
    from gen_worker.trainer.checkpoints.values import StoredFile

__all__ = ["HeldFiles", "has_memory_of_its_own", "verify_and_hold"]

_SHARE = 0.5
"""Of the memory that is left, for files that are held; larger ones are mapped once they verify."""
_LEAST_BYTES = 64 << 10
"""Of a tensor that stays where it was read: a small one is copied, and does not keep the rest."""
_ALIGNMENT = 64
"""As of torch's own memory: it reads some kinds of state as if it were aligned."""


class HeldFiles:
    """The tensors of files whose every byte was looked at; each file is given out once."""

    def __init__(self, reads: Iterable[FileRead] = ()) -> None:
        self._reads = {os.path.abspath(read.path): read for read in reads}

    def __contains__(self, path: str) -> bool:
        return os.path.abspath(path) in self._reads

    def take(self, path: str) -> dict[str, Any]:
        """Return the tensors of a file by name, and forget them.

        Large ones are storages of their own, which may stay where they are.
        """
        read = self._reads.pop(os.path.abspath(path))
        return {name: _apart(tensor, read.memory) for name, tensor in read.tensors.items()}


def verify_and_hold(directory: str, files: Mapping[str, StoredFile]) -> HeldFiles:
    """Look at every byte of a checkpoint, and keep what is read of its training state.

    Args:
        directory: Of the checkpoint.
        files: Of it.

    Returns:
        Nothing is held where torch is not loaded or the memory is scarce, and of a state that is
        in several processes' parts.

    Raises:
        CheckpointError: A file is missing, or not what was written; the message names it.
    """
    paths = {
        os.path.join(directory, *name.split("/")): name
        for name, file in files.items()
        if name.endswith(".safetensors") and os.path.dirname(name) == DIRECTORY and file.size_bytes
    }
    size_bytes = sum(files[name].size_bytes for name in paths.values())
    if "torch" not in sys.modules or not size_bytes or size_bytes > _SHARE * _available_bytes():
        verify_files(directory, files)
        return HeldFiles()
    from gen_worker.models.reader import read_files

    try:
        reads = read_files(paths, verify={path: files[paths[path]].blake3 for path in paths})
    except (WorkerError, OSError):  # damaged: said as of any file; or there is no memory for it
        verify_files(directory, files)
        return HeldFiles()
    rest = {name: file for name, file in files.items() if name not in paths.values()}
    verify_files(directory, rest)
    return HeldFiles(reads)


def has_memory_of_its_own(tensor: Any) -> bool:
    """Tell whether a tensor is all that is in its storage."""
    is_whole: bool = tensor.untyped_storage().nbytes() == tensor.nbytes
    return is_whole and tensor.data_ptr() % _ALIGNMENT == 0


def _apart(tensor: Any, memory: Any) -> Any:
    """Return a tensor in a file's memory as a storage of its own, if it is large and aligned."""
    if memory is None or tensor.nbytes < _LEAST_BYTES or tensor.data_ptr() % _ALIGNMENT:
        return tensor
    import torch  # type: ignore[import-not-found,unused-ignore]

    begin = tensor.data_ptr() - torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr()
    apart = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=begin)
    return apart.view(tensor.shape)


def _available_bytes() -> int:
    from gen_worker.models.residency.host_memory import read_host_memory

    return read_host_memory().available_bytes
