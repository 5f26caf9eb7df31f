"""A dry run: everything that a job does, once and small, in a directory that is removed again."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from gen_worker.trainer.batches import batches_of
from gen_worker.trainer.checkpoints.store import read_checkpoint
from gen_worker.trainer.config import Places
from gen_worker.trainer.data import LoadedBatches
from gen_worker.trainer.devices import device_of, dtype_of
from gen_worker.trainer.hyperparams import typed_hyperparams
from gen_worker.trainer.inputs import materialize
from gen_worker.trainer.job_file import UploadUrls
from gen_worker.trainer.job_parts import eval_batches_of
from gen_worker.trainer.loop import Part, TrainingLoop
from gen_worker.trainer.loop.evaluation import evaluate
from gen_worker.trainer.loop.finite import FiniteLoss
from gen_worker.trainer.loop.stepping import END, samples_in, source_of
from gen_worker.trainer.plugin import load_trainer_plugin
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.state.rng import seed_everything
from gen_worker.trainer.state.saving import DIRECTORY
from gen_worker.trainer.steps import StepContext
from gen_worker.trainer.writer import LocalArtifactWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gen_worker.trainer.checkpoints.store import Found
    from gen_worker.trainer.config import RunConfig
    from gen_worker.trainer.loop import Run

__all__ = ["CheckReport", "Finding", "check_job"]

_STEPS = 2
_MOST_NAMED = 5


class Finding(msgspec.Struct, frozen=True):
    """One thing that was tried."""

    what: str
    """Such as `data` or `restore`."""
    level: Literal["ok", "warning", "failed"]
    text: str
    """What was found, and what to do."""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what:<12} {self.text}"


class CheckReport(msgspec.Struct, frozen=True):
    """What a dry run has found, in the order in which it was tried."""

    findings: tuple[Finding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed."""
        return all(one.level != "failed" for one in self.findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def check_job(
    config: RunConfig, *, load_trainer: Callable[[str], Any] = load_trainer_plugin
) -> CheckReport:
    """Try a job: its hooks, hyperparameters and data, two steps, saving and loading.

    Nothing is uploaded, told, or left on disk but what inputs of the hub leave in the store. The
    first thing that fails ends it, as what follows would only repeat it.

    Args:
        config: Of the job.
        load_trainer: Returns the trainer of an import path; called twice.
    """
    with tempfile.TemporaryDirectory(prefix="gen-worker-check-") as root, ExitStack() as stack:
        check = _Check(_small(config, root), load_trainer, stack)
        try:
            check.run()
        except _Failed:
            pass  # noted already
        return CheckReport(tuple(check.findings))


def _small(config: RunConfig, root: str) -> RunConfig:
    """Return the job with two steps, of which nothing gets out of a directory."""
    job = msgspec.structs.replace(
        config.job,
        max_steps=min(config.job.max_steps, _STEPS) or _STEPS,
        metric_every=1,
        checkpoint_every=0,
        sample_every=0,
        trackers=(),
    )
    places = Places(
        checkpoints=os.path.join(root, "checkpoints"),
        samples=os.path.join(root, "samples"),
        metrics=os.path.join(root, "metrics"),
        events=os.path.join(root, "metrics", "events.jsonl"),
    )
    return msgspec.structs.replace(config, job=job, places=places, uploads=UploadUrls())


class _Failed(Exception):
    """Something failed, and is noted."""


class _Heard(Part):
    """Listens to the two steps; also their reporter."""

    def __init__(self) -> None:
        self.run: Any = None
        self.metrics: dict[str, float] = {}
        self.doing = "begin"

    def begin(self, run: Run) -> None:
        self.run = run

    def started(self, *, request_id: str) -> None: ...
    def phase(self, *, phase: str, step: int) -> None:
        self.doing = phase

    def metric(self, *, name: str, value: float, step: int) -> None:
        self.metrics[name] = value

    def checkpoint(self, *, path: str, step: int) -> None: ...
    def sample(self, *, path: str, step: int) -> None: ...
    def completed(self, *, step: int, final_checkpoint: str | None) -> None: ...
    def failed(self, *, step: int, error: str) -> None: ...
    def is_canceled(self) -> bool:
        return False


class _Check:
    def __init__(
        self, config: RunConfig, load_trainer: Callable[[str], Any], stack: ExitStack
    ) -> None:
        self.findings: list[Finding] = []
        self._config = config
        self._load_trainer = load_trainer
        self._stack = stack
        self._heard = _Heard()
        self._inputs: Any = None
        self._hyperparams: Any = None

    def run(self) -> None:
        job = self._config.job
        trainer = self._trainer()
        with self._trying("hyperparams", "change `hyperparams` in the job spec"):
            self._hyperparams = typed_hyperparams(trainer, job.hyperparams)
            wanted = type(self._hyperparams).__name__ if self._hyperparams is not None else ""
            self._found("hyperparams", f"a {wanted}" if wanted else "handed over as they are")
        with self._trying("inputs", "change `inputs` in the job spec"):
            self._inputs = self._stack.enter_context(materialize(self._config))
            path = self._inputs.resume_path
            named = [*self._inputs.model_handles, *(["resume_checkpoint"] if path else [])]
            self._found("inputs", ", ".join(named) or "none are named")
        ctx = self._data()
        self._steps(trainer, ctx)
        if job.eval_every:
            self._evaluation()
        if self._config.job.samples:
            self._sample()
        self._restore(ctx)

    # -- one thing each ----------------------------------------------------------------------------

    def _trainer(self) -> Any:
        with self._trying("trainer", "change `trainer` in the job spec, or write the hook"):
            trainer = self._load_trainer(self._config.trainer)
            optional = ("save_checkpoint", "load_checkpoint", "optimizer_step", "eval_step")
            extra = [name for name in optional if callable(getattr(trainer, name, None))]
            more = f" with {', '.join(extra)}" if extra else ""
            self._found("trainer", f"{type(trainer).__name__}{more}")
        return trainer

    def _data(self) -> StepContext:
        with self._trying("data", "change `dataset` in the job spec"):
            ctx = self._context()
            source = source_of(self._batches())
            raw = next(source, END)
            if hasattr(source, "close"):
                source.close()
            if raw is END:
                self._found("data", "there is no batch: set `dataset.parquet_paths`", "failed")
                raise _Failed
            columns = getattr(getattr(raw, "schema", None), "names", None) or list(
                raw if isinstance(raw, dict) else ()
            )
            names = f" of {', '.join(map(str, columns))}" if columns else ""
            self._found("data", f"a batch of {samples_in(raw)} samples{names}")
        return ctx

    def _steps(self, trainer: Any, ctx: StepContext) -> None:
        heard, job = self._heard, self._config.job
        if job.seed is not None:
            seed_everything(job.seed)
        writer = self._writer("checkpoints")
        loop = TrainingLoop(
            job=ctx.job,
            ctx=ctx,
            trainer=trainer,
            batches=self._loaded(trainer, ctx),
            reporter=heard,
            artifact_writer=writer,
            parts=[heard, FiniteLoss(is_fatal=job.nan_policy == "fail")],
        )
        try:
            loop.run()
        except Exception as error:
            what = "checkpoint" if heard.doing == "checkpoint" else "steps"
            place = f"{heard.doing}, step {loop.attempted}" if what == "steps" else "saving"
            self._found(what, f"{place}: {_said(error)}", "failed")
            raise _Failed from error
        told = ", ".join(f"{name} {value:.6g}" for name, value in heard.metrics.items())
        self._found("steps", f"{loop.completed} done on {ctx.device}: {told or 'no metrics'}")
        if "train/loss" not in heard.metrics:
            text = "no step reports `loss`: losses that are no numbers will not be noticed"
            self._found("steps", text, "warning")
        found = writer.store.final()
        assert found is not None, "it has just been written"
        files = found.checkpoint.files
        size = sum(one.size_bytes for one in files.values())
        self._found("checkpoint", f"{len(files)} files of {size} bytes")
        self._saved = found

    def _evaluation(self) -> None:
        with self._trying("evaluation", "look at `eval_step` and `eval_dataset`"):
            run = self._heard.run
            if not callable(getattr(run.trainer, "eval_step", None)):
                raise TypeError(
                    f"eval_every is set, and {type(run.trainer).__name__} has no eval_step"
                )
            metrics = evaluate(run, eval_batches_of(self._config.job, run), 1)
            told = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
            text = told or "there is no batch: set `eval_dataset.parquet_paths`"
            self._found("evaluation", text, "ok" if told else "failed")

    def _sample(self) -> None:
        with self._trying("sample", "look at `generate_sample`"):
            run = self._heard.run
            made = self._writer("more").write_samples(step=run.step, state=run.state, ctx=run.ctx)
            names = ", ".join(os.path.basename(path) for path in made)
            is_empty = len(made) == 1 and os.path.getsize(made[0]) > 0 and made[0].endswith(".json")
            text = f"{names}: no file beside the JSON; does `generate_sample` return images?"
            self._found("sample", text if is_empty else names, "warning" if is_empty else "ok")

    def _restore(self, ctx: StepContext) -> None:
        """Load what was saved into a fresh state, save that, and compare."""
        saved = self._saved
        self._heard.run = None  # a second model may not fit beside the first
        with self._trying("restore", "look at `load_state_dict` and `load_checkpoint`"):
            trainer = self._load_trainer(self._config.trainer)
            trainer.setup(ctx)
            state = trainer.configure(ctx)
            payload = saved.checkpoint.state
            trainer.load_state_dict(state, payload, ctx)
            if callable(load := getattr(trainer, "load_checkpoint", None)):
                load(state=state, checkpoint_dir=saved.directory, payload=payload, ctx=ctx)
            restore_training_state(state, saved.directory)
            writer = self._writer("again")
            writer.finalize(
                state_payload=trainer.state_dict(state),
                trainer=trainer,
                state=state,
                ctx=ctx,
                step=saved.checkpoint.step,
            )
            again = writer.store.final()
            assert again is not None, "it has just been written"
            self._compare(saved, again)

    def _compare(self, saved: Found, again: Found) -> None:
        before = read_checkpoint(saved.json_path).checkpoint
        after = again.checkpoint
        unlike = [
            name
            for name in {**before.state, **after.state}
            if before.state.get(name) != after.state.get(name)
        ]
        if unlike:
            text = f"state_dict says something else of {_names(unlike)} once it was loaded"
            self._found("restore", f"{text}: does load_state_dict put it back?", "failed")
        every = sorted({**before.files, **after.files})
        changed = [name for name in every if before.files.get(name) != after.files.get(name)]
        ours = [name for name in changed if name.startswith(DIRECTORY + "/")]
        theirs = [name for name in changed if name not in ours]
        if ours:
            text = f"{_names(ours)} differ once they were loaded"
            self._found("restore", f"{text}: what does `configure` change later?", "failed")
        if theirs:
            text = f"{_names(theirs)} of save_checkpoint differ once they were loaded"
            self._found("restore", f"{text}: does load_checkpoint read them?", "warning")
        if not (unlike or changed):
            self._found("restore", "a fresh state is the same bit for bit")

    # ----------------------------------------------------------------------------------------------

    def _context(self) -> StepContext:
        job = self._config.job
        return StepContext(
            job=job.spec,
            model_handles=dict(self._inputs.model_handles),
            dataset=self._batches(),
            device=device_of(job.hyperparams),
            dtype=dtype_of(job.hyperparams),
            is_canceled=self._heard.is_canceled,
            hyperparams=self._hyperparams,
        )

    def _batches(self) -> Any:
        """Return the raw data from their beginning."""
        path = self._config.arrow_ipc_path
        return batches_of(self._config.job, self._inputs.parquet_paths, arrow_ipc_path=path)

    def _loaded(self, trainer: Any, ctx: StepContext) -> Any:
        """Return them as the loop gets them."""
        load = getattr(trainer, "load_batch", None)
        if not callable(load):
            return self._batches()
        return LoadedBatches(self._batches(), lambda raw, epoch: load(raw, epoch, ctx), ahead=0)

    def _writer(self, name: str) -> LocalArtifactWriter:
        places = self._config.places
        writer = LocalArtifactWriter(
            checkpoints_dir=os.path.join(os.path.dirname(places.checkpoints), name),
            samples_dir=places.samples,
            sample_requests=self._config.job.samples[:1],
            sample_fixed_seed=self._config.job.sample_seed,
        )
        self._stack.callback(writer.close)
        return writer

    def _found(
        self, what: str, text: str, level: Literal["ok", "warning", "failed"] = "ok"
    ) -> None:
        self.findings.append(Finding(what, level, text))

    @contextmanager
    def _trying(self, what: str, remedy: str) -> Iterator[None]:
        """Note what fails, with what to do."""
        try:
            yield
        except _Failed:
            raise
        except Exception as error:
            self._found(what, f"{_said(error)}: {remedy}", "failed")
            raise _Failed from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _names(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(map(repr, names[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
