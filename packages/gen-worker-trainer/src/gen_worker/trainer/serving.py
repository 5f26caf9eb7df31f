"""Training inside of a request: a function of an endpoint runs a trainer class by the runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.cancel import shield
from gen_worker.errors import RetryableError
from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.checkpoints.store import read_checkpoint
from gen_worker.trainer.checkpoints.values import FINAL
from gen_worker.trainer.config import places_of, resolve
from gen_worker.trainer.errors import CheckpointsInUseError, TrainingCanceled
from gen_worker.trainer.job_file import parse_job
from gen_worker.trainer.plugin import load_trainer_plugin, trainer_of
from gen_worker.trainer.request_results import RequestResults
from gen_worker.trainer.settings import TrainerSettings
from gen_worker.types import Asset, ProducedFlavor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.context import ProducerContext
    from gen_worker.trainer.config import RunConfig

__all__ = ["TrainedRun", "train"]

_NOT_OF_REQUESTS = ("capability_token", "orchestrated", "uploads", "cancel_file_path")
"""Keys of a job spec that are for processes of their own: a request has a host."""


class TrainedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is completed."""

    step: int
    """Completed steps, in all attempts."""
    checkpoint: str
    """Path of the final checkpoint's main file."""
    directory: str
    """Of the final checkpoint's files; empty when its trainer writes none."""
    metrics: Mapping[str, float]
    """The last ones."""
    samples: tuple[Asset, ...] = ()
    """Stored as outputs of the request, by this attempt."""

    def flavors(self, flavor: str = "default", **attributes: Any) -> list[ProducedFlavor]:
        """Return what a training function returns to have the final checkpoint published.

        Args:
            flavor: Its name in the revision.
            attributes: More of what is said of it there.
        """
        path = self.directory or self.checkpoint
        facts = {"step": self.step, **attributes}
        return [ProducedFlavor(path, facts, flavor=flavor, flavors=[flavor])]


def train(
    ctx: ProducerContext, trainer: Any, job: Mapping[str, Any], *, key: str = "training"
) -> TrainedRun:
    """Train with everything the runtime does around a trainer, as part of a request.

    The request's cancel and deadline stop the run after the step it is at, with a checkpoint. Its
    progress, metrics and checkpoints are the request's progress and events (`trainer.metrics` and
    so on), its samples are outputs. What is kept lies in `ctx.checkpoint_dir(key=key)`: a request
    that another worker of this machine takes over goes on where the last checkpoint was.

    Args:
        ctx: Of the function.
        trainer: A trainer, its class, or `module:Class`.
        job: Keys of a job spec; `request_id` is the request's. Without an input model, the
            request's source is the base model.
        key: Tells runs of one request apart.

    Raises:
        TrainingCanceled: The request was canceled or is out of time.
        StartupContractError: The job cannot be run as it is.
        RetryableError: Another worker of this machine is still at it.
        Exception: Whatever a hook has raised.
    """
    from gen_worker.trainer.runtime import Host, TrainingRun

    config = _config(ctx, trainer, job, str(ctx.checkpoint_dir(key=key)))
    policy = _RequestPolicy(ctx, config.max_runtime_seconds)
    results = RequestResults(ctx, config.job.max_steps)
    host = Host(
        policy,
        open_uploader=lambda _: results,
        load_trainer=load_trainer_plugin if isinstance(trainer, str) else lambda _: _made(trainer),
    )
    run = TrainingRun(config, observer=results.tell, host=host)
    try:
        with shield():  # half a step is nothing to keep
            code = run.run()
    except CheckpointsInUseError as error:
        raise RetryableError(str(error)) from error
    finally:
        results.close()
    if code:
        raise TrainingCanceled(policy.reason or "canceled")
    return _trained(config, results)


class _RequestPolicy(RuntimeCancelPolicy):
    """Stops a run with its request; signals are the worker's to hear."""

    def __init__(self, ctx: ProducerContext, max_runtime_seconds: float) -> None:
        super().__init__(None, max_runtime_seconds)
        self._ctx = ctx

    def is_canceled(self) -> bool:
        if self.reason is None and self._ctx.is_canceled():
            is_late = self._ctx.cancel_token.reason == "deadline"
            self.reason = "timeout" if is_late else "canceled"
        return super().is_canceled()

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        yield


def _config(ctx: ProducerContext, trainer: Any, job: Mapping[str, Any], root: str) -> RunConfig:
    fields = {name: value for name, value in job.items() if name not in _NOT_OF_REQUESTS}
    inputs = dict(fields.get("inputs") or {})
    if ctx.source_path and not (inputs.get("base_model_ref") or inputs.get("base_model_url")):
        inputs["base_model_ref"] = ctx.source_path
    name = trainer if isinstance(trainer, str) else _name_of(trainer)
    fields |= {
        "request_id": ctx.request_id,
        "trainer": name,
        "owner": fields.get("owner") or ctx.owner,
        "resume_from_latest": True,
        "inputs": inputs,
    }
    settings = TrainerSettings(artifacts_dir=root)
    return resolve(settings, parse_job(fields), places_of(settings))


def _name_of(trainer: Any) -> str:
    cls = trainer if isinstance(trainer, type) else type(trainer)
    return f"{cls.__module__}:{cls.__qualname__}"


_made = partial(trainer_of, name="of this request")


def _trained(config: RunConfig, results: RequestResults) -> TrainedRun:
    path = os.path.join(config.places.checkpoints, FINAL)
    kept = read_checkpoint(path + ".json").checkpoint
    primary = kept.primary_path
    directory = path if os.path.isdir(path) else ""
    return TrainedRun(
        step=kept.step,
        checkpoint=os.path.normpath(os.path.join(path, primary)) if primary else path + ".json",
        directory=directory,
        metrics=dict(kept.metrics),
        samples=tuple(results.samples),
    )
