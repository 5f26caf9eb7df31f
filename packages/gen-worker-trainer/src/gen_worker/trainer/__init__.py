"""Endpoints that train: their kind, the trainer contract, and the runtime of a trainer class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.lazy import lazy_names

if TYPE_CHECKING:
    from gen_worker.context import TrainingContext
    from gen_worker.trainer.check import CheckReport, check_job
    from gen_worker.trainer.contracts import (
        TrainerSubprocessContractV1,
        read_subprocess_contract,
        run_subprocess,
        write_subprocess_contract,
    )
    from gen_worker.trainer.errors import TrainingCanceled
    from gen_worker.trainer.gradient import GradientOptions, GradientState, GradientTrainer, Loss
    from gen_worker.trainer.helpers import (
        OptimizerBundle,
        build_default_adamw_bundle,
        load_trainable_module_checkpoint,
        save_trainable_module_checkpoint,
        to_float_scalar,
    )
    from gen_worker.trainer.job import TrainingJobSpec
    from gen_worker.trainer.loop import run_training_loop
    from gen_worker.trainer.orchestrated import TrainerAuthContext
    from gen_worker.trainer.plugin import load_trainer_plugin
    from gen_worker.trainer.protocols import (
        ArtifactUploader,
        ArtifactWriter,
        PreparedBatchT,
        RawBatchT,
        StateT,
        TrainerPlugin,
        TrainingReporter,
    )
    from gen_worker.trainer.runtime import run_training_runtime, run_training_runtime_from_env
    from gen_worker.trainer.serving import TrainedRun, train
    from gen_worker.trainer.state.rng import seed_everything
    from gen_worker.trainer.state.training_state import TrainingState
    from gen_worker.trainer.steps import StepContext, StepControlHints, StepResult
    from gen_worker.trainer.tracking import TrackedRun, Tracker

__all__ = [
    "ArtifactUploader",
    "ArtifactWriter",
    "CheckReport",
    "GradientOptions",
    "GradientState",
    "GradientTrainer",
    "Loss",
    "OptimizerBundle",
    "PreparedBatchT",
    "RawBatchT",
    "StateT",
    "StepContext",
    "StepControlHints",
    "StepResult",
    "TrackedRun",
    "Tracker",
    "TrainedRun",
    "TrainerAuthContext",
    "TrainerPlugin",
    "TrainerSubprocessContractV1",
    "TrainingCanceled",
    "TrainingContext",
    "TrainingJobSpec",
    "TrainingReporter",
    "TrainingState",
    "build_default_adamw_bundle",
    "check_job",
    "load_trainable_module_checkpoint",
    "load_trainer_plugin",
    "read_subprocess_contract",
    "run_subprocess",
    "run_training_loop",
    "run_training_runtime",
    "run_training_runtime_from_env",
    "save_trainable_module_checkpoint",
    "seed_everything",
    "to_float_scalar",
    "train",
    "write_subprocess_contract",
]

_MODULES = {
    "check": ("CheckReport", "check_job"),
    "contracts": (
        "TrainerSubprocessContractV1",
        "read_subprocess_contract",
        "run_subprocess",
        "write_subprocess_contract",
    ),
    "errors": ("TrainingCanceled",),
    "gradient": ("GradientOptions", "GradientState", "GradientTrainer", "Loss"),
    "helpers": (
        "OptimizerBundle",
        "build_default_adamw_bundle",
        "load_trainable_module_checkpoint",
        "save_trainable_module_checkpoint",
        "to_float_scalar",
    ),
    "job": ("TrainingJobSpec",),
    "loop": ("run_training_loop",),
    "orchestrated": ("TrainerAuthContext",),
    "plugin": ("load_trainer_plugin",),
    "protocols": (
        "ArtifactUploader",
        "ArtifactWriter",
        "PreparedBatchT",
        "RawBatchT",
        "StateT",
        "TrainerPlugin",
        "TrainingReporter",
    ),
    "runtime": ("run_training_runtime", "run_training_runtime_from_env"),
    "serving": ("TrainedRun", "train"),
    "state.rng": ("seed_everything",),
    "state.training_state": ("TrainingState",),
    "steps": ("StepContext", "StepControlHints", "StepResult"),
    "tracking": ("TrackedRun", "Tracker"),
    "kind": ("TrainingContext",),
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
