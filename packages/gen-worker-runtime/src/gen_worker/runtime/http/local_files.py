"""Files of an HTTP host without a hub: what its callers name, and what its functions store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.runtime.files import FilePolicy, FileSettings, JobScope, WorkerFiles
from gen_worker.settings import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.cancel import CancelToken
    from gen_worker.ports import Events

__all__ = ["open_local_files"]


def open_local_files(
    output_dir: str, events: Events, find_token: Callable[[str], CancelToken | None]
) -> WorkerFiles:
    """Return the `Files` port of such a host; close it behind the engine.

    Inputs are URLs, with a worker's limits and cache, bytes in the payload, uploads and outputs of
    earlier calls. Callers cannot name files of this machine.

    Args:
        output_dir: Outputs go below it, as `jobs/<request_id>/outputs/...`.
        events: Gets the progress of uploads.
        find_token: Says what ends the downloads of a request.
    """

    def find(request_id: str) -> tuple[JobScope, CancelToken] | None:
        token = find_token(request_id)
        return None if token is None else (JobScope(), token)

    return WorkerFiles(FilePolicy.of(load(FileSettings), output_dir=output_dir), events, find=find)
