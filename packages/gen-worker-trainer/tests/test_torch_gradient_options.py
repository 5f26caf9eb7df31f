"""Precision, averages, activation checkpointing and evaluation do what they say, and no more."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")

import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.trainer import (
    GradientOptions,
    GradientTrainer,
    Loss,
    StepContext,
    TrainingJobSpec,
)
from gen_worker.trainer.gradient import options_of
from gen_worker.trainer.gradient.activations import checkpoint_activations


class Net(GradientTrainer):
    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1))

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        self.dtype_seen = state.model(batch["x"]).dtype
        loss = (state.model(batch["x"]) - batch["y"]).float().square().mean()
        return Loss(loss, len(batch["x"]), {"rows": len(batch["x"])})


def begin(trainer: GradientTrainer, **hyperparams: Any) -> tuple[Any, StepContext]:
    job = TrainingJobSpec("run", 20, hyperparams={"lr": 0.01, "dtype": "fp32", **hyperparams})
    ctx = StepContext(job, device="cpu")
    return trainer.configure(ctx), ctx


def batch(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "x": scale * torch.randn(6, 4, generator=chance),
        "y": torch.randn(6, 1, generator=chance),
    }


def step(trainer: Any, state: Any, ctx: StepContext, rows: Any = None) -> dict[str, float]:
    trainer.train_step(batch() if rows is None else rows, state, ctx)
    metrics: dict[str, float] = trainer.optimizer_step(state, ctx).metrics
    return metrics


def begin_scale(state: Any) -> None:
    """Begin with a scale of losses that the gradients here can take."""
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})


def weights(state: Any) -> list[Any]:
    return [one.detach().clone() for one in state.model.parameters()]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"), ("bfloat16", "bfloat16")],
)
def test_the_model_computes_in_the_precision_asked_for(name: str, dtype: str) -> None:
    trainer = Net()
    state, ctx = begin(trainer, dtype=name)
    if state.scaler is not None:
        begin_scale(state)
    before = weights(state)
    step(trainer, state, ctx)
    assert trainer.dtype_seen == getattr(torch, dtype)
    assert all(one.dtype == torch.float32 for one in weights(state))
    assert not any(map(torch.equal, before, weights(state)))
    assert (state.scaler is not None) == (name == "fp16")


def test_a_context_says_the_precision_of_jobs_that_do_not() -> None:
    job = TrainingJobSpec("run", 1)
    trainer = Net()
    state = trainer.configure(StepContext(job, device="cpu", dtype="bf16"))
    assert state.options.precision == "bf16"


def test_losses_are_scaled_less_after_they_overflow() -> None:
    trainer = Net()
    state, ctx = begin(trainer, dtype="fp16")
    begin_scale(state)
    before = weights(state)
    scale = state.scaler.get_scale()
    overflowing = batch(scale=1e4)
    metrics = step(trainer, state, ctx, overflowing)
    assert metrics["train/skipped_steps"] == 1
    assert metrics["train/loss_scale"] == scale / 2
    assert all(map(torch.equal, before, weights(state)))
    assert step(trainer, state, ctx)["train/skipped_steps"] == 1
    assert not any(map(torch.equal, before, weights(state)))


def test_averages_are_of_the_last_weights() -> None:
    trainer = Net()
    state, ctx = begin(trainer, ema_decay=0.3)
    expected = [one.double() for one in weights(state)]
    for count in range(1, 7):
        step(trainer, state, ctx, batch(count))
        decay = min(0.3, (1 + count) / (10 + count))
        expected = [
            decay * average + (1 - decay) * weight.double()
            for average, weight in zip(expected, weights(state), strict=True)
        ]
    last = weights(state)
    with state.averaged():
        for mine, average in zip(weights(state), expected, strict=True):
            torch.testing.assert_close(mine.double(), average, rtol=1e-5, atol=1e-7)
    assert all(map(torch.equal, last, weights(state)))


def test_weights_come_back_also_after_an_error() -> None:
    trainer = Net()
    state, ctx = begin(trainer, ema_decay=0.9)
    step(trainer, state, ctx)
    last = weights(state)
    with pytest.raises(KeyError), state.evaluating():
        raise KeyError("of the author's sampling")
    assert all(map(torch.equal, last, weights(state)))
    assert all(one.training for one in state.model.modules())


def test_evaluation_is_of_averages_without_dropout() -> None:
    trainer = Net()
    state, ctx = begin(trainer, ema_decay=0.9)
    for seed in range(3):
        step(trainer, state, ctx, batch(seed))
    state.model[0].eval()  # an author's choice, which an evaluation leaves as it is
    trainer.eval_begin(state, ctx)
    first, second = (trainer.eval_step(batch(9), state, ctx).metrics for _ in range(2))
    trainer.eval_end(state, ctx)
    assert [one.training for one in state.model] == [False, True, True]
    plain = copy.deepcopy(state.model).eval()
    with torch.no_grad():
        for parameter, average in zip(plain.parameters(), state.ema.averages.values(), strict=True):
            parameter.copy_(average)
        loss = (plain(batch(9)["x"]) - batch(9)["y"]).square().mean()
    assert first == second == {"loss": loss.item(), "weight": 6.0, "rows": 6.0}
    step(trainer, state, ctx)


def test_users_are_given_the_averages(tmp_path: Path) -> None:
    class Exporting(Net):
        def export(self, state: Any, directory: Path, ctx: StepContext) -> Any:
            (directory / "weight.txt").write_text(repr(weights(state)[0].tolist()))
            return {"primary_path": "weight.txt"}

    trainer = Exporting()
    state, ctx = begin(trainer, ema_decay=0.9)
    step(trainer, state, ctx)
    told = trainer.save_checkpoint(state=state, step=1, output_dir=tmp_path, final=False, ctx=ctx)
    assert told == {"primary_path": "weight.txt"}
    average = next(iter(state.ema.averages.values()))
    assert (tmp_path / "weight.txt").read_text() == repr(average.tolist())


class Block(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x + torch.nn.functional.dropout(self.inner(x).tanh(), 0.3)


class Blocks(GradientTrainer):
    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return torch.nn.ModuleDict(
            {"blocks": torch.nn.ModuleList([Block(), Block()]), "head": torch.nn.Linear(4, 1)}
        )

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
        hidden = batch["x"]
        for block in state.model["blocks"]:
            hidden = block(hidden)
        return (state.model["head"](hidden) - batch["y"]).square().mean()


def test_activations_are_computed_again_to_the_same_gradients() -> None:
    kept, again = Blocks(), Blocks()
    state, ctx = begin(kept)
    other, other_ctx = begin(again, activation_checkpointing=True)
    assert list(state.model.state_dict()) == list(other.model.state_dict())
    for seed in range(3):
        torch.manual_seed(seed)
        expected = step(kept, state, ctx, batch(seed))
        torch.manual_seed(seed)
        assert step(again, other, other_ctx, batch(seed)) == expected
    assert all(map(torch.equal, weights(state), weights(other)))
    assert [block.calls for block in other.model["blocks"]] == [6, 6]


@pytest.mark.parametrize(
    "method",
    [
        "activation_checkpointing_enable",
        "gradient_checkpointing_enable",
        "enable_gradient_checkpointing",
    ],
)
def test_models_that_can_do_so_by_themselves_do(method: str) -> None:
    told: list[Any] = []

    class Able(Net):
        def build(self, ctx: StepContext) -> Any:
            model = super().build(ctx)
            setattr(model, method, lambda **options: told.append(options))
            return model

    begin(Able(), activation_checkpointing=True)
    assert len(told) == 1


def test_a_model_without_blocks_says_so() -> None:
    class Small(Net):
        def build(self, ctx: StepContext) -> Any:
            return torch.nn.Linear(4, 1)

    with pytest.raises(ValueError, match="no list of blocks"):
        begin(Small(), activation_checkpointing=True)


def test_every_wrong_hyperparameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"weight_decay.*gradient_accumulation_steps.*ema_decay"):
        GradientOptions(weight_decay=-1, gradient_accumulation_steps=0, ema_decay=1)
    with pytest.raises(ValueError, match=r"hyperparams.*learning_rate"):
        options_of({"learning_rate": "much"}, GradientOptions)
    with pytest.raises(ValueError, match="fp32, bf16 or fp16"):
        options_of({"dtype": "fp8"}, GradientOptions)


def test_own_hyperparameters_stand_beside_those_of_gradients() -> None:
    class Options(GradientOptions, frozen=True, kw_only=True):
        rank: int = 8

    class Tuner(Net):
        hyperparams_type = Options

    state, _ = begin(Tuner(), rank=4, lr=0.5)
    assert (state.options.rank, state.options.learning_rate) == (4, 0.5)


def test_nothing_to_train_is_said() -> None:
    class Frozen(Net):
        def build(self, ctx: StepContext) -> Any:
            return super().build(ctx).requires_grad_(False)

    with pytest.raises(ValueError, match="no parameter requires gradients"):
        begin(Frozen())


def test_a_loss_that_is_none_is_refused() -> None:
    class Wrong(Net):
        def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
            return state.model(batch["x"])

    trainer = Wrong()
    state, ctx = begin(trainer)
    with pytest.raises(ValueError, match=r"shape \[6, 1\]"):
        step(trainer, state, ctx)
    Wrong.compute_loss = lambda *_: 1.0  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="returned float"):
        step(trainer, state, ctx)


def test_weights_of_losses_do_not_overflow() -> None:
    """A loss over many tokens is no greater for fp16 than a loss over one."""

    class Heavy(Net):
        weight = 1.0

        def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
            loss = super().compute_loss(batch, state, ctx)
            return loss._replace(weight=self.weight)

    heavy, light = Heavy(), Heavy()
    heavy.weight = 2.0**20
    state, ctx = begin(heavy, dtype="fp16")
    other, other_ctx = begin(light, dtype="fp16")
    for one in (state, other):
        begin_scale(one)
    torch.manual_seed(1)
    metrics = step(heavy, state, ctx)
    torch.manual_seed(1)
    assert step(light, other, other_ctx) == metrics
    assert metrics["train/skipped_steps"] == 0
    assert all(map(torch.equal, weights(state), weights(other)))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_of_nothing_is_none(precision: str) -> None:
    class Empty(Net):
        def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Any:
            return Loss(super().compute_loss(batch, state, ctx).value, 0)

    trainer = Empty()
    state, ctx = begin(trainer, dtype=precision)
    before = weights(state)
    assert step(trainer, state, ctx)["train/skipped_steps"] == 1
    assert all(map(torch.equal, before, weights(state)))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in what diffusers imports
def test_models_of_transformers_and_diffusers_can(tmp_path: Path) -> None:
    from diffusers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        UNet2DConditionModel,
    )
    from transformers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        AutoModelForCausalLM,
    )

    from gen_worker.models.tiny import tiny_llama, tiny_stable_diffusion

    tiny_llama(str(tmp_path / "llama"))
    tiny_stable_diffusion(str(tmp_path / "sd"))
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    make: Any = UNet2DConditionModel
    unet = make.from_pretrained(tmp_path / "sd", subfolder="unet")
    for model in (llama, unet):
        checkpoint_activations(model)
    assert unet.is_gradient_checkpointing
    assert llama.is_activation_checkpointing
    assert not llama.config.use_cache
