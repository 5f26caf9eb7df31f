"""The process that `fetch_with_library` starts: reads one call, fetches one file, ends."""

from __future__ import annotations

import os
import sys

import msgspec

from gen_worker.models.sources.huggingface.library import LibraryCall

__all__ = ["main"]


def main() -> int:
    """Return 0 when the file is in the cache."""
    call = msgspec.json.decode(sys.stdin.buffer.read(), type=LibraryCall)
    # Read by the library when it is imported.
    os.environ["HF_HOME"] = call.home
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import hf_hub_download

    hf_hub_download(
        call.repo_id,
        call.path,
        revision=call.commit,
        cache_dir=os.path.join(call.home, "hub"),
        endpoint=call.endpoint or None,
        token=call.token or False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
