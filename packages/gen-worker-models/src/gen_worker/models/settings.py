"""What the model layer reads from its surroundings."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec

from gen_worker.settings import Setting, SettingsRecord, load
from gen_worker.settings_values import parse_amount, parse_count, parse_positive

__all__ = ["MemoryMode", "ModelSettings", "load_model_settings"]

MemoryMode = Literal["auto", "off", "vae_only", "model_offload", "group_offload", "sequential"]


class ModelSettings(SettingsRecord, frozen=True, kw_only=True):
    """Hub, downloads, caches and memory. Sizes in GB mean GiB."""

    hub_url: Annotated[
        str,
        Setting(
            env="TENSORHUB_URL",
            group="models",
            meaning="base URL of the model hub; empty knows no hub",
            aliases=("TENSORHUB_PUBLIC_URL",),
        ),
    ] = ""
    hub_token: Annotated[
        str,
        Setting(
            env="TENSORHUB_TOKEN",
            group="models",
            meaning="token for the hub; also lets it fetch public models it lacks",
            is_secret=True,
        ),
    ] = ""
    may_resolve: Annotated[
        bool,
        Setting(
            env="WORKER_ALLOW_TENSORHUB_API_RESOLVE",
            group="models",
            meaning="whether a worker may ask the hub for models that no job described",
        ),
    ] = False
    local_copy_dir: Annotated[
        str,
        Setting(
            env="WORKER_LOCAL_MODEL_CACHE_DIR",
            group="models",
            meaning="where models are copied to when the cache is on NFS",
            parse=os.path.expanduser,
        ),
    ] = "/tmp/tensorhub/local-model-cache"
    local_copy_gb: Annotated[
        float,
        Setting(
            env="WORKER_LOCAL_CACHE_GB",
            group="models",
            meaning="GiB that copies of models on NFS may take",
            parse=parse_amount,
        ),
    ] = 100.0
    cache_gb: Annotated[
        float,
        Setting(
            env="GEN_WORKER_CACHE_GB",
            group="models",
            meaning="GiB that downloaded models may take; 0 is all but a reserve of the disk",
            parse=parse_amount,
        ),
    ] = 0.0
    max_downloads: Annotated[
        int,
        Setting(
            env="WORKER_MAX_CONCURRENT_DOWNLOADS",
            group="models",
            meaning="models downloaded at the same time",
            parse=parse_positive,
        ),
    ] = 2
    download_connections: Annotated[
        int,
        Setting(
            env="WORKER_MODEL_DOWNLOAD_CONCURRENCY",
            group="models",
            meaning="connections of one model's download",
            parse=parse_positive,
        ),
    ] = 4
    download_connect_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_MODEL_DOWNLOAD_SOCK_CONNECT_TIMEOUT_S",
            group="models",
            meaning="seconds a download waits for a connection",
            parse=parse_amount,
        ),
    ] = 60.0
    download_read_timeout_s: Annotated[
        float,
        Setting(
            env="WORKER_MODEL_DOWNLOAD_SOCK_READ_TIMEOUT_S",
            group="models",
            meaning="seconds a download waits for bytes",
            parse=parse_amount,
        ),
    ] = 180.0
    download_bytes_per_s: Annotated[
        int,
        Setting(
            env="GEN_WORKER_MAX_DOWNLOAD_BYTES_PER_S",
            group="models",
            meaning="bytes per second of all downloads together; 0 is no limit",
            parse=parse_count,
        ),
    ] = 0
    hf_home: Annotated[
        str,
        Setting(
            env="HF_HOME",
            group="models",
            meaning="root of the Hugging Face cache",
            parse=os.path.expanduser,
        ),
    ] = "~/.cache/huggingface"
    hf_max_repo_bytes: Annotated[
        int,
        Setting(
            env="COZY_HF_MAX_REPO_BYTES",
            group="models",
            meaning="largest selection of files from one Hugging Face repository, in bytes",
            parse=parse_count,
        ),
    ] = 60_000_000_000
    hf_full_repo: Annotated[
        bool,
        Setting(
            env="COZY_HF_FULL_REPO_DOWNLOAD",
            group="models",
            meaning="whether all files of a Hugging Face repository are downloaded",
        ),
    ] = False
    hf_weight_precisions: Annotated[
        tuple[str, ...],
        Setting(
            env="COZY_HF_WEIGHT_PRECISIONS",
            group="models",
            meaning="precisions of weights to choose from; add fp32 to allow it",
        ),
    ] = ("bf16", "fp16")
    hf_stall_timeout_s: Annotated[
        float,
        Setting(
            env="COZY_HF_DOWNLOAD_STALL_TIMEOUT_S",
            group="models",
            meaning="seconds without a new byte after which a download has stalled; 0 never",
            parse=parse_amount,
        ),
    ] = 180.0
    hf_max_seconds: Annotated[
        float,
        Setting(
            env="COZY_HF_DOWNLOAD_MAX_SECONDS",
            group="models",
            meaning="seconds a Hugging Face download may take; 0 is no limit",
            parse=parse_amount,
        ),
    ] = 0.0
    civitai_token: Annotated[
        str,
        Setting(
            env="CIVITAI_API_KEY",
            group="models",
            meaning="Civitai key for models that need one",
            aliases=("CIVITAI_TOKEN",),
            is_secret=True,
        ),
    ] = ""
    max_vram_gb: Annotated[
        float | None,
        Setting(
            env="WORKER_MAX_VRAM_GB",
            group="memory",
            meaning="GiB of one GPU that models may take; empty is all but the margin",
            parse=parse_amount,
        ),
    ] = None
    vram_margin_gb: Annotated[
        float,
        Setting(
            env="WORKER_VRAM_SAFETY_MARGIN_GB",
            group="memory",
            meaning="GiB of one GPU that are kept free of models",
            parse=parse_amount,
        ),
    ] = 3.5
    memory_mode: Annotated[
        MemoryMode,
        Setting(
            env="COZY_INFERENCE_MEMORY_MODE",
            group="memory",
            meaning="step of the low-VRAM ladder that auto stands for",
        ),
    ] = "auto"
    activation_margin_gb: Annotated[
        float,
        Setting(
            env="COZY_INFERENCE_VRAM_SAFETY_MARGIN_GB",
            group="memory",
            meaning="GiB of free memory a call needs besides its models",
            parse=parse_amount,
        ),
    ] = 2.0
    vae_slice_vram_gb: Annotated[
        float,
        Setting(
            env="COZY_INFERENCE_VAE_SLICE_VRAM_GB",
            group="memory",
            meaning="GPUs below so many GiB slice and tile the VAE",
            parse=parse_amount,
        ),
    ] = 10.0
    model_offload_vram_gb: Annotated[
        float,
        Setting(
            env="COZY_INFERENCE_MODEL_OFFLOAD_VRAM_GB",
            group="memory",
            meaning="GPUs below so many GiB offload models of unknown size",
            parse=parse_amount,
        ),
    ] = 8.0
    group_offload_vram_gb: Annotated[
        float,
        Setting(
            env="COZY_INFERENCE_GROUP_OFFLOAD_VRAM_GB",
            group="memory",
            meaning="GPUs below so many GiB offload groups of layers",
            parse=parse_amount,
        ),
    ] = 6.0
    auto_disk_offload: Annotated[
        bool,
        Setting(
            env="COZY_INFERENCE_AUTO_DISK_OFFLOAD",
            group="memory",
            meaning="whether weights are offloaded to disk when RAM is short",
        ),
    ] = True
    disk_offload_ram_gb: Annotated[
        float,
        Setting(
            env="COZY_INFERENCE_DISK_OFFLOAD_RAM_GB",
            group="memory",
            meaning="below so many GiB of available RAM weights are offloaded to disk",
            parse=parse_amount,
        ),
    ] = 16.0
    offload_dir: Annotated[
        str,
        Setting(
            env="COZY_OFFLOAD_DIR",
            group="memory",
            meaning="where weights offloaded to disk are kept",
            parse=os.path.expanduser,
        ),
    ] = "/tmp/cozy-offload"
    fp8_layerwise: Annotated[
        bool,
        Setting(
            env="GEN_WORKER_FP8_LAYERWISE",
            group="memory",
            meaning="whether the ladder may keep weights in 8 bits before it offloads",
        ),
    ] = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "hf_home", os.path.expanduser(self.hf_home))


def load_model_settings(**arguments: Any) -> ModelSettings:
    """Read the settings; the default stands in for a wrong value, which is warned of once."""
    return load(ModelSettings, on_problem=_warn, **arguments)


@lru_cache(maxsize=256)
def _warn(problem: str) -> None:
    logging.getLogger("gen_worker.models").warning("%s: its default is used", problem)
