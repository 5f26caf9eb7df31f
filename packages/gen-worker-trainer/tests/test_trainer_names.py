"""What older trainers and launchers import is where they import it from, without torch."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import gen_worker
import gen_worker.trainer

EXPORTS = """
ArtifactUploader ArtifactWriter PreparedBatchT RawBatchT StateT StepContext StepControlHints
StepResult TrainerAuthContext TrainerPlugin TrainerSubprocessContractV1 TrainingCanceled
TrainingJobSpec TrainingReporter load_trainer_plugin read_subprocess_contract run_training_loop
run_training_runtime run_training_runtime_from_env seed_everything write_subprocess_contract
OptimizerBundle build_default_adamw_bundle load_trainable_module_checkpoint
save_trainable_module_checkpoint to_float_scalar
""".split()
HOMES = {
    "runtime": "LocalArtifactWriter LocalTrainingReporter RuntimeCancelPolicy SampleRequest "
    "run_training_runtime run_training_runtime_from_env",
    "helpers": "OptimizerBundle TrainerAuthContext build_default_adamw_bundle "
    "load_trainable_module_checkpoint save_trainable_module_checkpoint seed_everything "
    "to_float_scalar",
    "loop": "run_training_loop",
    "contracts": "TrainerSubprocessContractV1 read_subprocess_contract write_subprocess_contract",
    "checkpointing": "CheckpointStore",
    "arrow_feed": "ArrowBatchFeeder ArrowFeedConfig ParquetArrowBatchFeeder",
    "orchestrated": "TrainerAuthContext",
    "uploader": "ArtifactUploader ArtifactUploadError",
    "artifacts": "ArtifactWriter LocalArtifactWriter",
}


@pytest.mark.parametrize("name", EXPORTS)
def test_the_package_has_it(name: str) -> None:
    assert name in gen_worker.trainer.__all__
    assert getattr(gen_worker.trainer, name) is not None


@pytest.mark.parametrize("name", "StepContext StepControlHints StepResult TrainingJobSpec".split())
def test_the_root_has_it(name: str) -> None:
    assert getattr(gen_worker, name) is getattr(gen_worker.trainer, name)


@pytest.mark.parametrize("module", HOMES)
def test_the_module_has_it(module: str) -> None:
    found = importlib.import_module(f"gen_worker.trainer.{module}")

    assert set(HOMES[module].split()) <= set(vars(found)) | set(dir(found))


def test_nothing_of_it_needs_heavy_libraries() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('torch', 'pyarrow', 'numpy'): sys.modules[name] = None\n"
        "import gen_worker.trainer as trainer\n"
        f"for name in {EXPORTS!r}: getattr(trainer, name)\n"
        f"for name in {list(HOMES)!r}: importlib.import_module('gen_worker.trainer.' + name)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
