"""What a job trains on, where its author leaves that open."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["device_of", "dtype_of"]

_AUTO = ("", "auto")


def device_of(hyperparams: Mapping[str, Any], *, local_rank: int = 0) -> str:
    """Return `hyperparams.device`, else this rank's GPU where CUDA works, else `cpu`.

    Args:
        hyperparams: Of the job.
        local_rank: Of this process on its machine.
    """
    wanted = str(hyperparams.get("device") or "").strip()
    if wanted not in _AUTO:
        return wanted
    return f"cuda:{local_rank}" if _cuda_works() else "cpu"


def dtype_of(hyperparams: Mapping[str, Any]) -> str:
    """Return `hyperparams.dtype`, else `bf16`."""
    wanted = str(hyperparams.get("dtype") or "").strip()
    return "bf16" if wanted in _AUTO else wanted


def _cuda_works() -> bool:
    """Ask torch, which is imported only if there may be a GPU."""
    if "torch" not in sys.modules and not _may_have_gpu():
        return False
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def _may_have_gpu() -> bool:
    places = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return os.name == "nt" or any(os.path.exists(path) for path in places)
