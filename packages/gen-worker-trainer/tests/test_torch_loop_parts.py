"""Parts of a run that need torch: profiles, and algorithms that compute the same from the same."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.trainer import StepContext, StepResult, TrainingState
from gen_worker.trainer.cancel import RuntimeCancelPolicy
from gen_worker.trainer.check import check_job
from gen_worker.trainer.determinism import deterministic
from gen_worker.trainer.runtime import Host, TrainingRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.trainer.config import RunConfig


class Tuner:
    """Learns a linear map, stepped by the runtime."""

    def setup(self, ctx: StepContext) -> None: ...
    def configure(self, ctx: StepContext) -> TrainingState:
        model = torch.nn.Linear(2, 1)
        return TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1))

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        return torch.tensor(raw_batch, dtype=torch.float32)

    def train_step(self, batch: Any, state: TrainingState, ctx: StepContext) -> StepResult:
        assert torch.are_deterministic_algorithms_enabled() == ctx.job.hyperparams["deterministic"]
        loss = state.model(batch).square().mean()
        loss.backward()
        return StepResult({"loss": loss.detach()})

    def optimizer_step(self, state: TrainingState, ctx: StepContext) -> dict[str, float]:
        state.optimizer.step()
        state.optimizer.zero_grad()
        return {}

    def state_dict(self, state: Any) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None: ...


def run(config: RunConfig) -> TrainingRun:
    run = TrainingRun(config, host=Host(RuntimeCancelPolicy(), load_trainer=lambda _: Tuner()))
    assert run.run() == 0
    return run


def test_steps_are_profiled(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    run(
        make_config(
            max_steps=5,
            mock_batches=[[1.0, 2.0]] * 5,
            profile={"start_step": 2, "steps": 2},
            hyperparams={"deterministic": False},
        )
    )

    trace = json.loads((tmp_path / "training/metrics/profile/steps-2-3.json").read_text())
    assert any("aten::linear" in str(one.get("name")) for one in trace["traceEvents"])


def test_a_window_that_the_run_ends_in(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"hyperparams": {"deterministic": False}, "mock_batches": [[1.0, 2.0]]}
    run(make_config(max_steps=1, profile={"start_step": 1, "steps": 9}, **fields))

    assert (tmp_path / "training/metrics/profile/steps-1-9.json").is_file()


def test_a_run_is_deterministic_and_leaves_torch_as_it_was(
    make_config: Callable[..., RunConfig],
) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    fields: dict[str, Any] = {"hyperparams": {"deterministic": True}, "mock_batches": [[1.0, 2.0]]}
    run(make_config(max_steps=1, deterministic=True, **fields))

    assert torch.are_deterministic_algorithms_enabled() == before
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_an_update_that_is_left_out_leaves_no_gradient(
    make_config: Callable[..., RunConfig],
) -> None:
    class Looking(Tuner):
        seen: Any = None

        def optimizer_step(self, state: TrainingState, ctx: StepContext) -> dict[str, float]:
            gradients = [one.grad for one in state.model.parameters()]
            assert all(torch.isfinite(one).all() for one in gradients)
            return super().optimizer_step(state, ctx)

    config = make_config(
        max_steps=3,
        nan_policy="skip",
        mock_batches=[[1.0, 2.0], [1e38, 1e38], [1.0, 2.0]],
        hyperparams={"deterministic": False},
    )
    host = Host(RuntimeCancelPolicy(), load_trainer=lambda _: Looking())
    assert TrainingRun(config, host=host).run() == 0


def test_a_state_is_compared_bit_for_bit(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(
        max_steps=3, mock_batches=[[1.0, 2.0]] * 3, hyperparams={"deterministic": False}
    )
    report = check_job(config, load_trainer=lambda _: Tuner())

    assert report.is_ok, str(report)
    assert "the same bit for bit" in report.findings[-1].text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_resumed_run_goes_on_with_its_curves(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    fields: dict[str, Any] = {
        "hyperparams": {"deterministic": False},
        "mock_batches": [[1.0, 2.0]] * 9,
        "metric_every": 1,
        "trackers": ["tensorboard"],
        "resume_from_latest": True,
        "sample_every": 2,
    }
    run(make_config(max_steps=3, **fields))
    run(make_config(max_steps=5, **fields))

    reading = import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(tmp_path / "training/metrics/tensorboard"))
    found.Reload()
    assert [one.step for one in found.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert [one.step for one in found.Scalars("perf/step_ms")] == [1, 2, 3, 4, 5]
