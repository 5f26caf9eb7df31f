"""`WORKER_MODE=trainer`: a container that runs one training job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.errors import SettingsError
from gen_worker.runtime.telemetry.logs import log_fatal
from gen_worker.runtime.worker.phases import log_phase
from gen_worker.settings import load
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from gen_worker.settings import CoreSettings

__all__ = ["run"]


def run(settings: CoreSettings) -> int:
    """Run the job that `TRAINER_JOB_SPEC_PATH` names; return the exit code."""
    del settings  # a job has its own
    try:
        own = load(TrainerSettings)
    except SettingsError as error:
        return log_fatal("settings_load", error)
    log_phase("trainer_mode_selected", job_spec=own.job_spec_path)
    from gen_worker.trainer.runtime import run_training_runtime

    try:
        return run_training_runtime(own)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        return log_fatal("trainer_runtime", error)
