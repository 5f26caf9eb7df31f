"""The gradient of a step is that of one great batch, however it was split and whatever happened."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

torch = pytest.importorskip("torch")

from gen_worker.trainer import (  # noqa: E402
    GradientTrainer,
    Loss,
    StepContext,
    TrainingJobSpec,
)
from gen_worker.trainer.metrics import metrics_of_step  # noqa: E402

_ROWS = 12
_LONGEST = 5


class Tokens(GradientTrainer):
    """A mean over tokens, of which each row has another number; what it draws may matter."""

    is_noisy = False

    def __init__(self) -> None:
        self.rows_seen: list[int] = []
        self.fails_above = 10**9
        self.in_backward = False

    def build(self, ctx: StepContext) -> Any:
        torch.manual_seed(3)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8) if self.is_noisy else torch.nn.LayerNorm(8),
            torch.nn.Dropout(0.3 if self.is_noisy else 0.0),
            torch.nn.Linear(8, 1),
        )

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        x = batch["x"]
        rows = len(x)
        self.rows_seen.append(rows)
        mask = torch.arange(_LONGEST)[None] < torch.tensor(batch["length"])[:, None]
        hidden = state.model[:3](x.flatten(0, 1))
        if rows > self.fails_above:
            if not self.in_backward:
                raise torch.OutOfMemoryError("fake")
            hidden.register_hook(_full)  # the last layer's gradients are added by then
        guess = state.model[3](hidden).view(rows, _LONGEST)
        noise = torch.randn(rows, _LONGEST) if self.is_noisy else 0.0
        if self.is_noisy:
            noise = noise + torch.rand(rows, _LONGEST, generator=state.extra["augmentation"])
        wrong = (guess - batch["y"] - noise).square() * mask
        tokens = int(mask.sum())
        error = (guess.abs() * mask).sum() / max(tokens, 1)
        return Loss(wrong.sum() / max(tokens, 1), tokens, {"tokens": tokens, "error": error})


class Noisy(Tokens):
    is_noisy = True


def _full(gradient: Any) -> None:
    raise torch.OutOfMemoryError("fake")


def batch(rows: int = _ROWS, seed: int = 1) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(rows, _LONGEST, 4, generator=chance),
        "y": torch.randn(rows, _LONGEST, generator=chance),
        "length": torch.randint(0, _LONGEST + 1, (rows,), generator=chance).tolist(),
        "source": "one text for all",
    }


def begin(trainer: Tokens, **hyperparams: Any) -> tuple[Any, StepContext]:
    given = {"dtype": "fp32", "optimizer": "sgd", "lr": 1.0, "max_grad_norm": 0, **hyperparams}
    job = TrainingJobSpec("run", 5, hyperparams={"schedule": "constant", **given})
    ctx = StepContext(job, device="cpu")
    state = trainer.configure(ctx)
    if trainer.is_noisy:
        state.extra["augmentation"] = torch.Generator().manual_seed(9)
    torch.manual_seed(5)
    return state, ctx


def step(trainer: Tokens, batches: Sequence[Any], state: Any, ctx: StepContext) -> dict[str, float]:
    results = [trainer.train_step(one, state, ctx) for one in batches]
    return metrics_of_step(results, trainer.optimizer_step(state, ctx))


def weights(state: Any) -> list[Any]:
    return [one.detach().clone() for one in state.model.state_dict().values()]


@pytest.mark.parametrize(
    "sizes", [(12,), (6, 6), (1, 11), (5, 4, 3), (1,) * 12, (2, 10)], ids=lambda sizes: f"{sizes}"
)
@pytest.mark.parametrize("micro_rows", [0, 1, 3, 5])
def test_any_split_is_the_whole(sizes: tuple[int, ...], micro_rows: int) -> None:
    whole_trainer, parts_trainer = Tokens(), Tokens()
    whole, ctx = begin(whole_trainer)
    expected = step(whole_trainer, [batch()], whole, ctx)
    state, ctx = begin(
        parts_trainer, gradient_accumulation_steps=len(sizes), micro_batch_size=micro_rows
    )
    rows = batch()
    parts, start = [], 0
    for size in sizes:
        cut = slice(start, start + size)
        parts.append({name: one if name == "source" else one[cut] for name, one in rows.items()})
        start += size
    metrics = step(parts_trainer, parts, state, ctx)
    assert max(parts_trainer.rows_seen) <= (micro_rows or max(sizes))
    assert metrics["tokens"] == sum(rows["length"])
    for name in ("train/loss", "train/grad_norm", "error"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-5)
    for mine, other in zip(weights(state), weights(whole), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_data_that_end_within_a_step_make_a_smaller_one() -> None:
    trainer, other = Tokens(), Tokens()
    state, ctx = begin(trainer, gradient_accumulation_steps=4)
    step(trainer, [batch()], state, ctx)
    whole, ctx = begin(other)
    step(other, [batch()], whole, ctx)
    assert all(map(torch.equal, weights(state), weights(whole)))


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("kind", [Tokens, Noisy])
def test_a_step_without_memory_is_the_same_in_smaller_parts(
    kind: type[Tokens], in_backward: bool
) -> None:
    """Bit for bit the run that had such parts from the start, with all that it draws."""
    trainer, small = kind(), kind()
    trainer.in_backward = in_backward
    trainer.fails_above = 3
    state, ctx = begin(trainer, gradient_accumulation_steps=2)
    expected, small_ctx = begin(small, gradient_accumulation_steps=2, micro_batch_size=3)
    rows = [batch(3, 1), batch(12, 2), batch(12, 3), batch(12, 4)]
    for first in (0, 2):
        drawn = torch.get_rng_state()
        metrics = step(trainer, rows[first : first + 2], state, ctx)
        torch.set_rng_state(drawn)
        assert step(small, rows[first : first + 2], expected, small_ctx) == metrics
        assert all(map(torch.equal, weights(state), weights(expected)))
    assert state.progress["micro_batch_size"] == 3
    assert trainer.rows_seen[-8:] == small.rows_seen[-8:] == [3] * 8


def test_what_is_learned_about_memory_is_kept() -> None:
    trainer = Tokens()
    trainer.fails_above = 3
    state, ctx = begin(trainer)
    step(trainer, [batch()], state, ctx)
    kept = copy.deepcopy(state.extra)
    again = Tokens()
    resumed, ctx = begin(again)
    resumed.extra.update(kept)
    step(again, [batch()], resumed, ctx)
    assert again.rows_seen == [3] * 4


def test_one_row_that_does_not_fit_fails() -> None:
    trainer = Tokens()
    trainer.fails_above = 0
    state, ctx = begin(trainer)
    with pytest.raises(torch.OutOfMemoryError):
        step(trainer, [batch()], state, ctx)
    assert trainer.rows_seen == [12, 6, 3, 2, 1]


def test_without_retry_the_error_is_the_runs() -> None:
    trainer = Tokens()
    trainer.fails_above = 3
    state, ctx = begin(trainer, oom_retry=False)
    with pytest.raises(torch.OutOfMemoryError):
        step(trainer, [batch()], state, ctx)
    assert trainer.rows_seen == [12]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_numbers_that_are_none_change_nothing(wrong: float) -> None:
    trainer = Tokens()
    state, ctx = begin(trainer, optimizer="adamw", ema_decay=0.9)
    step(trainer, [batch()], state, ctx)
    before = weights(state), copy.deepcopy(state.optimizer.state_dict())
    averages = copy.deepcopy(state.ema.state_dict())
    rows = batch()
    rows["y"][0] = wrong
    rows["length"][0] = 1
    metrics = step(trainer, [rows], state, ctx)
    assert metrics["train/skipped_steps"] == 1
    assert all(map(torch.equal, weights(state), before[0]))
    torch.testing.assert_close(state.optimizer.state_dict(), before[1], rtol=0, atol=0)
    torch.testing.assert_close(state.ema.state_dict(), averages, rtol=0, atol=0)
    metrics = step(trainer, [batch()], state, ctx)
    assert metrics["train/skipped_steps"] == 1
    assert not any(map(torch.equal, weights(state), before[0]))


def test_rows_without_tokens_count_for_nothing() -> None:
    trainer = Tokens()
    state, ctx = begin(trainer, gradient_accumulation_steps=2)
    nothing = {**batch(), "length": [0] * _ROWS}
    step(trainer, [nothing, batch()], state, ctx)
    other = Tokens()
    whole, ctx = begin(other)
    step(other, [batch()], whole, ctx)
    assert all(map(torch.equal, weights(state), weights(whole)))
