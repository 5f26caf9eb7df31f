"""What one job runs with: the operator's settings, then the job spec, then the defaults."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.settings import load
from gen_worker.trainer.errors import StartupContractError
from gen_worker.trainer.job_file import JobFile, UploadUrls
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Places", "RunConfig", "asked_to_stop", "places_of", "resolve"]

T = TypeVar("T")
_LOOK_S = 0.5


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job writes."""

    checkpoints: str
    samples: str
    metrics: str
    events: str

    @property
    def inputs(self) -> str:
        """Of what was fetched for the job."""
        return os.path.join(self.metrics, "materialized-inputs")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One job, and what is around it."""

    job: JobFile
    places: Places
    trainer: str
    """Import path."""
    token: str
    """Bearer token for the hub and for callbacks; empty without one."""
    uploads: UploadUrls
    max_runtime_seconds: int
    cancel_file: str
    is_orchestrated: bool = False
    arrow_ipc_path: str = ""
    """A file whose batches replace the job's dataset."""

    def __repr__(self) -> str:
        return f"<RunConfig of {self.job!r} in {self.places.checkpoints!r}>"


def places_of(settings: TrainerSettings) -> Places:
    """Return where a job writes, which no job spec decides.

    Raises:
        StartupContractError: Two of the places are one, or one is a file.
    """
    parent = settings.artifacts_dir
    metrics = settings.metrics_dir or os.path.join(parent, "metrics")
    places = Places(
        checkpoints=settings.checkpoints_dir or os.path.join(parent, "checkpoints"),
        samples=settings.samples_dir or os.path.join(parent, "samples"),
        metrics=metrics,
        events=settings.events_path or os.path.join(metrics, "events.jsonl"),
    )
    if os.path.abspath(places.checkpoints) == os.path.abspath(places.samples):
        raise _invalid(f"checkpoints and samples are both to be written to {places.samples!r}")
    for path in (places.checkpoints, places.samples, places.metrics):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise _invalid(f"{path!r} is to be a directory, and is a file")
    if os.path.isdir(places.events):
        raise _invalid(f"{places.events!r} is to be a file, and is a directory")
    return places


def resolve(settings: TrainerSettings, job: JobFile, places: Places) -> RunConfig:
    """Return what a job runs with; each value on its own.

    Raises:
        StartupContractError: Something is missing, or no run could use it.
    """
    trainer = settings.plugin or job.trainer
    if not trainer:
        raise StartupContractError(
            "startup.missing_trainer_import",
            "nothing says which trainer to run: set `trainer` in the job spec to module:Class, "
            "or TRAINER_PLUGIN",
        )
    limit = _first(settings.max_runtime_seconds, job.max_runtime_seconds)
    if limit < 0:
        raise StartupContractError(
            "startup.invalid_timeout", f"the time limit must not be negative, it is {limit}"
        )
    token = settings.capability_token or job.capability_token
    is_orchestrated = _first(settings.orchestrated, job.orchestrated)
    if is_orchestrated and not token:
        raise StartupContractError(
            "startup.missing_capability_token",
            "an orchestrated job needs a token: set TRAINER_CAPABILITY_TOKEN",
        )
    names = UploadUrls.__struct_fields__
    urls = {name: getattr(settings, name) or getattr(job.uploads, name) for name in names}
    return RunConfig(
        job=job,
        places=places,
        trainer=trainer,
        token=token,
        uploads=UploadUrls(**urls),
        max_runtime_seconds=limit,
        cancel_file=settings.cancel_file or job.cancel_file_path,
        is_orchestrated=is_orchestrated,
        arrow_ipc_path=settings.arrow_ipc_path,
    )


def asked_to_stop(clock: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """Return what tells whether the setting TRAINER_CANCELLED is set, and looks now and then."""
    looked_at, is_asked = -_LOOK_S, False

    def look() -> bool:
        nonlocal looked_at, is_asked
        if not is_asked and clock() - looked_at >= _LOOK_S:
            is_asked = load(TrainerSettings, on_problem=_pass_over).is_cancelled
            looked_at = clock()
        return is_asked

    return look


def _pass_over(problem: str) -> None:
    """What is wrong with other settings was said at the start."""


def _first(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _invalid(message: str) -> StartupContractError:
    return StartupContractError("startup.invalid_artifact_paths", message)
