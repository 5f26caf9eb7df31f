"""A trainer that is written with a model and a loss; everything else about gradients is made here.

class Regression(GradientTrainer):
    def build(self, ctx):
        return torch.nn.Linear(4, 1)

    def compute_loss(self, batch, state, ctx):
        return (state.model(batch["x"]) - batch["y"]).square().mean()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from gen_worker.trainer.distributed.parallel import wrap
from gen_worker.trainer.gradient.accumulating import Accumulation, precision_of
from gen_worker.trainer.gradient.activations import checkpoint_activations
from gen_worker.trainer.gradient.averages import WeightAverages
from gen_worker.trainer.gradient.batches import columns_of, moved, split
from gen_worker.trainer.gradient.loss import loss_of
from gen_worker.trainer.gradient.options import GradientOptions, options_of
from gen_worker.trainer.gradient.state import GradientState
from gen_worker.trainer.gradient.updating import update
from gen_worker.trainer.optim import build_optimizer, build_schedule
from gen_worker.trainer.optim.groups import trainable
from gen_worker.trainer.state.training_state import named
from gen_worker.trainer.steps import StepResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gen_worker.trainer.steps import StepContext

__all__ = ["GradientTrainer"]


class GradientTrainer:
    """Derive from it, and write `build` and `compute_loss`."""

    hyperparams_type: ClassVar[type[GradientOptions]] = GradientOptions
    """What `state.options` is; derive from `GradientOptions` to add hyperparameters of your own."""

    # -- to be written -----------------------------------------------------------------------------

    def build(self, ctx: StepContext) -> Any:
        """Return the module, or modules by name; of them is trained what requires gradients.

        Called once, before a resume. They are moved to the context's device afterwards.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build(ctx), which makes the model")

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        """Return a `Loss`, a tensor of one number, or such a tensor with a mapping of metrics.

        Called within the precision of the run, with the model in training mode, for each
        micro-batch; for evaluation, without gradients and with the averaged weights, if there are.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no compute_loss(batch, state, ctx), which says what is "
            "learned"
        )

    # -- may be written ----------------------------------------------------------------------------

    def setup(self, ctx: StepContext) -> object:
        """Prepare what is no part of the model; nothing by default."""
        return None

    def prepare_batch(self, raw: Any, state: Any, ctx: StepContext) -> Any:
        """Turn what the data source gives into what a step takes; columns by name by default."""
        return columns_of(raw)

    def split_batch(self, batch: Any, parts: int) -> list[Any]:
        """Divide a prepared batch into so many, along its rows."""
        return split(batch, parts)

    def export(self, state: Any, directory: Path, ctx: StepContext) -> Mapping[str, Any] | None:
        """Write the files that users of the model load, with each checkpoint; none by default.

        Returns:
            What is told of them; `primary_path` names the main one.
        """
        return None

    # -- made of these -----------------------------------------------------------------------------

    def configure(self, ctx: StepContext) -> GradientState:
        """Return the state: the model on its device, its optimizer, and what goes with it."""
        options = options_of(ctx.job.hyperparams, self.hyperparams_type, dtype=ctx.dtype)
        model = self.build(ctx)
        modules = named(model)
        for module in modules.values():
            module.to(ctx.device).train()
            if options.activation_checkpointing:
                checkpoint_activations(module)
        if options.precision == "fp16":
            _in_fp32(trainable(modules))
        for module in modules.values():
            wrap(module, options.parallel, device=ctx.device)
        optimizer = self.build_optimizer(modules, options)
        averages = (
            WeightAverages(trainable(modules), options.ema_decay) if options.ema_decay else None
        )
        return GradientState(
            model,
            optimizer,
            options=options,
            scheduler=self.build_schedule(optimizer, options, ctx.job.max_steps),
            scaler=_scaler(ctx.device) if options.precision == "fp16" else None,
            ema=averages,
        )

    def build_optimizer(self, modules: Mapping[str, Any], options: GradientOptions) -> Any:
        """Return the optimizer that the options name."""
        return build_optimizer(
            options.optimizer,
            modules,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            betas=options.betas,
            eps=options.eps,
            **options.optimizer_options,
        )

    def build_schedule(self, optimizer: Any, options: GradientOptions, max_steps: int) -> Any:
        """Return the schedule that the options name."""
        ratio = {"min_ratio": options.min_lr_ratio} if options.min_lr_ratio else {}
        return build_schedule(
            options.schedule,
            optimizer,
            max_steps=max_steps,
            warmup_steps=options.warmup_of(max_steps),
            **{**ratio, **options.schedule_options},
        )

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        """Add the gradients of a batch to those that wait."""
        if state.accumulation is None:
            state.accumulation = Accumulation(self, state)
        return StepResult(state.accumulation.add(batch, ctx))

    def optimizer_step(self, state: Any, ctx: StepContext) -> StepResult:
        """Take a step with the gradients that wait."""
        metrics = update(state)
        state.accumulation.end()
        return StepResult(metrics)

    def skip_step(self, state: Any, ctx: StepContext) -> object:
        """Forget the gradients that wait, because the runtime does not want them."""
        state.progress["skipped_steps"] += 1
        state.drop_gradients()
        state.accumulation.end()
        return None

    def eval_begin(self, state: Any, ctx: StepContext) -> object:
        """Have the model as its users will."""
        state.enter_evaluation()
        return None

    def eval_end(self, state: Any, ctx: StepContext) -> object:
        """Go on training."""
        state.leave_evaluation()
        return None

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        """Return the loss of a batch, and its weight among others."""
        with precision_of(state, ctx):
            loss = loss_of(self.compute_loss(moved(batch, ctx.device), state, ctx))
        metrics = {name: float(value) for name, value in loss.metrics.items()}
        return StepResult({**metrics, "loss": float(loss.value), "weight": float(loss.weight)})

    def state_dict(self, state: Any) -> dict[str, Any]:
        """Return nothing: the runtime keeps a `GradientState` itself."""
        return {}

    def load_state_dict(self, state: Any, payload: dict[str, Any], ctx: StepContext) -> object:
        """Take nothing, for the same reason."""
        return None

    def save_checkpoint(
        self, *, state: Any, step: int, output_dir: Path, final: bool, ctx: StepContext
    ) -> Mapping[str, Any] | None:
        """Have the files for users written, with the averaged weights, if there are."""
        with state.averaged():
            return self.export(state, output_dir, ctx)


def _scaler(device: str) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    return torch.amp.GradScaler(torch.device(device).type)


def _in_fp32(parameters: Mapping[str, Any]) -> None:
    """Have what is trained in fp32: fp16 cannot hold what a step adds to it."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    for parameter in parameters.values():
        if parameter.dtype == torch.float16:
            parameter.data = parameter.data.float()
