"""What the files of a worker read from its surroundings."""

from __future__ import annotations

import os
from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord
from gen_worker.settings_values import parse_amount, parse_count, parse_positive

__all__ = ["FileSettings"]


class FileSettings(SettingsRecord, frozen=True, kw_only=True):
    """Where a worker keeps files, how much it takes in and sends, and which hub it uses."""

    job_dir: Annotated[
        str,
        Setting(
            env="WORKER_JOB_DIR",
            group="worker",
            meaning="directory of the files of running requests",
            parse=os.path.expanduser,
        ),
    ] = "/tmp/tensorhub/job"
    cache_dir: Annotated[
        str,
        Setting(
            env="WORKER_CACHE_DIR",
            group="worker",
            meaning="directory of inputs kept for later requests; empty is `cache` in "
            "WORKER_JOB_DIR",
            parse=os.path.expanduser,
        ),
    ] = ""
    cache_bytes: Annotated[
        int,
        Setting(
            env="WORKER_INPUT_CACHE_BYTES",
            group="limits",
            meaning="bytes of inputs kept for later requests; 0 keeps none",
            parse=parse_count,
        ),
    ] = 2 * 1024**3
    max_input_file_bytes: Annotated[
        int,
        Setting(
            env="WORKER_MAX_INPUT_FILE_BYTES",
            group="limits",
            meaning="largest input file in bytes, where its annotation says nothing",
            parse=parse_count,
        ),
    ] = 200 * 1024 * 1024
    max_input_pixels: Annotated[
        int,
        Setting(
            env="WORKER_MAX_INPUT_PIXELS",
            group="limits",
            meaning="largest input image in pixels, where its annotation says nothing; 0 is no "
            "limit",
            parse=parse_count,
        ),
    ] = 178_956_970
    max_upload_bytes: Annotated[
        int,
        Setting(
            env="WORKER_MAX_UPLOAD_BYTES",
            group="limits",
            meaning="largest output file in bytes; 0 is 20 GiB, which none may exceed",
            parse=parse_count,
        ),
    ] = 0
    download_tries: Annotated[
        int,
        Setting(
            env="WORKER_DOWNLOAD_RETRIES",
            group="tuning",
            meaning="how often an input file is tried",
            parse=parse_positive,
        ),
    ] = 3
    upload_tries: Annotated[
        int,
        Setting(
            env="WORKER_STREAM_UPLOAD_RETRY_ATTEMPTS",
            group="tuning",
            meaning="how often an upload is tried; each try goes on where the last one ended",
            parse=parse_positive,
        ),
    ] = 5
    upload_backoff_ms: Annotated[
        int,
        Setting(
            env="WORKER_STREAM_UPLOAD_RETRY_BACKOFF_MS",
            group="tuning",
            meaning="milliseconds before an upload is tried again; doubles each time",
            parse=parse_count,
        ),
    ] = 500
    progress_interval_s: Annotated[
        float,
        Setting(
            env="WORKER_STREAM_PROGRESS_INTERVAL_S",
            group="tuning",
            meaning="least seconds between two reports of one output's progress",
            parse=parse_amount,
        ),
    ] = 0.2
    trusted_urls: Annotated[
        tuple[str, ...],
        Setting(
            env="WORKER_TRUSTED_URLS",
            group="worker",
            meaning="origins with private addresses that inputs may come from, for development",
        ),
    ] = ()
    base_url: Annotated[
        str,
        Setting(
            env="FILE_API_BASE_URL",
            group="worker",
            meaning="hub for the files of jobs that name none",
            aliases=("ORCHESTRATOR_HTTP_URL", "TENSORHUB_URL", "TENSORHUB_PUBLIC_URL"),
        ),
    ] = ""
    capability_token: Annotated[
        str,
        Setting(
            env="WORKER_CAPABILITY_TOKEN",
            group="worker",
            meaning="token for that hub",
            is_secret=True,
        ),
    ] = ""
