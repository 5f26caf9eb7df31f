"""What an operator may say about a training job; each is stronger than the job spec."""

from __future__ import annotations

from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord

__all__ = ["TrainerSettings"]


class TrainerSettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings of `WORKER_MODE=trainer`. Empty leaves it to the job spec."""

    job_spec_path: Annotated[
        str,
        Setting(
            env="TRAINER_JOB_SPEC_PATH",
            group="trainer",
            meaning="the job spec that a trainer process runs",
        ),
    ] = "/app/.cozy/trainer_job.json"
    plugin: Annotated[
        str,
        Setting(
            env="TRAINER_PLUGIN",
            group="trainer",
            meaning="trainer class as module:symbol; empty takes the job's",
        ),
    ] = ""
    artifacts_dir: Annotated[
        str,
        Setting(
            env="TRAINER_ARTIFACTS_DIR",
            group="trainer",
            meaning="where a job writes, unless the next three say otherwise",
        ),
    ] = "/tmp/training"
    checkpoints_dir: Annotated[
        str,
        Setting(
            env="TRAINER_CHECKPOINTS_DIR",
            group="trainer",
            meaning="checkpoints; empty is `checkpoints` in TRAINER_ARTIFACTS_DIR",
        ),
    ] = ""
    samples_dir: Annotated[
        str,
        Setting(
            env="TRAINER_SAMPLES_DIR",
            group="trainer",
            meaning="samples; empty is `samples` in TRAINER_ARTIFACTS_DIR",
        ),
    ] = ""
    metrics_dir: Annotated[
        str,
        Setting(
            env="TRAINER_METRICS_DIR",
            group="trainer",
            meaning="events and fetched inputs; empty is `metrics` in TRAINER_ARTIFACTS_DIR",
        ),
    ] = ""
    events_path: Annotated[
        str,
        Setting(
            env="TRAINER_EVENTS_PATH",
            group="trainer",
            meaning="events as JSON lines; empty is `events.jsonl` in TRAINER_METRICS_DIR",
        ),
    ] = ""
    arrow_ipc_path: Annotated[
        str,
        Setting(
            env="TRAINER_ARROW_IPC_PATH",
            group="trainer",
            meaning="Arrow IPC stream file whose batches replace the job's dataset",
        ),
    ] = ""
    capability_token: Annotated[
        str,
        Setting(
            env="TRAINER_CAPABILITY_TOKEN",
            group="trainer",
            meaning="bearer token of a job for the model hub and for callbacks",
            is_secret=True,
        ),
    ] = ""
    orchestrated: Annotated[
        bool | None,
        Setting(
            env="TRAINER_ORCHESTRATED",
            group="trainer",
            meaning="whether a job is refused that has no token",
        ),
    ] = None
    max_runtime_seconds: Annotated[
        int | None,
        Setting(
            env="TRAINER_MAX_RUNTIME_SECONDS",
            group="trainer",
            meaning="seconds of training after which a job is stopped; 0 is no limit",
        ),
    ] = None
    cancel_file: Annotated[
        str,
        Setting(
            env="TRAINER_CANCEL_FILE",
            group="trainer",
            meaning="a job stops once this file exists and is empty or says yes",
        ),
    ] = ""
    is_cancelled: Annotated[
        bool,
        Setting(
            env="TRAINER_CANCELLED",
            group="trainer",
            meaning="whether a job is to stop; looked at twice a second",
        ),
    ] = False
    metrics_url: Annotated[
        str,
        Setting(
            env="TRAINER_UPLOAD_METRICS_URL",
            group="trainer",
            meaning="URL that is told metrics",
        ),
    ] = ""
    checkpoint_url: Annotated[
        str,
        Setting(
            env="TRAINER_UPLOAD_CHECKPOINT_URL",
            group="trainer",
            meaning="URL that is told checkpoints",
        ),
    ] = ""
    sample_url: Annotated[
        str,
        Setting(
            env="TRAINER_UPLOAD_SAMPLE_URL",
            group="trainer",
            meaning="URL that is told samples",
        ),
    ] = ""
    terminal_url: Annotated[
        str,
        Setting(
            env="TRAINER_UPLOAD_TERMINAL_URL",
            group="trainer",
            meaning="URL that is told how a job ended",
        ),
    ] = ""
    rank: Annotated[
        int | None,
        Setting(
            env="RANK",
            group="trainer",
            meaning="number of a run's process, from 0; set by launchers, as the next four",
        ),
    ] = None
    world_size: Annotated[
        int | None,
        Setting(
            env="WORLD_SIZE",
            group="trainer",
            meaning="processes that train one model together; unset is one",
        ),
    ] = None
    local_rank: Annotated[
        int | None,
        Setting(
            env="LOCAL_RANK",
            group="trainer",
            meaning="number of this process on its machine, and of its GPU",
        ),
    ] = None
    master_addr: Annotated[
        str,
        Setting(
            env="MASTER_ADDR",
            group="trainer",
            meaning="address of the machine that has process 0",
        ),
    ] = ""
    master_port: Annotated[
        int | None,
        Setting(
            env="MASTER_PORT",
            group="trainer",
            meaning="port there at which the processes meet",
        ),
    ] = None
    distributed_timeout_seconds: Annotated[
        int,
        Setting(
            env="TRAINER_DISTRIBUTED_TIMEOUT_SECONDS",
            group="trainer",
            meaning="seconds a process waits for the others before it gives the run up",
        ),
    ] = 1800
