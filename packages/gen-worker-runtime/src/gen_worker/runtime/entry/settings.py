"""What the start of a container reads from its surroundings."""

from __future__ import annotations

from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord

__all__ = ["EntrySettings"]


class EntrySettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings that hold before there is a worker."""

    mode: Annotated[
        str,
        Setting(
            env="WORKER_MODE",
            group="orchestrator",
            meaning="what the container is: inference, or trainer",
        ),
    ] = "inference"
    user: Annotated[
        str,
        Setting(
            env="GEN_WORKER_USER",
            group="worker",
            meaning="name or number of the user that a worker becomes which was started as root",
        ),
    ] = ""
    cuda_allocator: Annotated[
        str,
        Setting(
            env="PYTORCH_CUDA_ALLOC_CONF",
            group="tuning",
            meaning="how torch divides the memory of a GPU; see its documentation",
        ),
    ] = "expandable_segments:True"
    inductor_cache_dir: Annotated[
        str,
        Setting(
            env="TORCHINDUCTOR_CACHE_DIR",
            group="tuning",
            meaning="directory of what torch.compile made; empty is "
            "/var/cache/gen-worker/inductor, or one below the temporary files",
        ),
    ] = ""
    grpc_verbosity: Annotated[
        str,
        Setting(
            env="GRPC_VERBOSITY",
            group="tuning",
            meaning="what gRPC writes to stderr by itself: DEBUG, INFO, ERROR or NONE",
        ),
    ] = "ERROR"
