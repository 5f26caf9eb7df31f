"""Models on NFS are read from their copies on the local disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from gen_worker.models.sources import LocalModel
    from gen_worker.models.store import LocalModelCache
    from gen_worker.ports import ModelRequest

__all__ = ["localized"]


def localized(
    model: LocalModel,
    copies: LocalModelCache,
    request: ModelRequest,
    stack: ExitStack,
    *,
    tell: Callable[[str, dict[str, Any]], None] | None,
) -> LocalModel:
    """Return the model's copy on the local disk, kept until `stack` is closed, or the model.

    Args:
        model: Its files are here, and leased.
        copies: Where copies are kept.
        request: Who asks for it.
        stack: Takes the lease of the copy.
        tell: Told of a copy that was made.
    """
    from gen_worker.models.store import SnapshotNotFoundError, localize

    found = localize(model.root, model.digest, copies, token=request.token)
    if not found.localized:
        return model
    if found.bytes_copied and tell is not None:
        facts: dict[str, Any] = {
            "model_id": model.ref,
            "bytes_copied": found.bytes_copied,
            "duration_ms": found.nfs_to_local_copy_ms,
        }
        if request.request_id:
            tell("model.copy.completed", {**facts, "request_id": request.request_id})
        else:
            tell("worker.model.copy.completed", facts)
    try:
        root = stack.enter_context(copies.lease(model.digest))
    except SnapshotNotFoundError:  # evicted this moment
        return model
    path = os.path.normpath(os.path.join(root, os.path.relpath(model.path, model.root)))
    return msgspec.structs.replace(model, root=root, path=path, is_localized=True)
