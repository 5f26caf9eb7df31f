"""`transformers.Trainer` and Accelerate in the runtime: its steps, its events, exact resume."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import run_training_runtime
from gen_worker.trainer.adapters import HuggingFaceTrainer, ScriptTrainer, reporting_callback
from gen_worker.trainer.reporter import LocalTrainingReporter
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from gen_worker.trainer.adapters import ScriptRun

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


class Stop(Exception):
    """Breaks a run off between two steps."""


def model_of() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def rows(count: int = 24) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    drawn = torch.randint(0, 32, (count, 8), generator=draw)
    return [{"input_ids": row, "labels": row} for row in drawn]


def arguments(output_dir: Path, **more: Any) -> Any:
    return transformers.TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **more,
    )


class Tuner(HuggingFaceTrainer):
    """A model with dropout, on rows that are shuffled."""

    def build(self, ctx: Any, output_dir: Path) -> Any:
        trainer = transformers.Trainer(
            model=model_of(), args=arguments(output_dir), train_dataset=rows()
        )
        if ctx.job.hyperparams.get("stops_at"):
            trainer.add_callback(stopping_at(int(ctx.job.hyperparams["stops_at"])))
        return trainer


def stopping_at(step: int) -> Any:
    class Stopping(transformers.TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == step:
                raise Stop

    return Stopping()


class Accelerated(ScriptTrainer):
    """A loop as Accelerate's guide has it."""

    def main(self, run: ScriptRun) -> None:
        from accelerate import Accelerator  # type: ignore[import-not-found,import-untyped,unused-ignore]

        accelerator = Accelerator(cpu=True)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        run.on_save(lambda directory: accelerator.save_state(str(directory)))
        if run.resume_from is not None:
            accelerator.load_state(str(run.resume_from))
        for step in range(run.start_step, 100):
            if step == run.ctx.job.hyperparams.get("stops_at"):
                raise Stop
            loss = (model(torch.ones(2, 4)) - 1).pow(2).mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            run.step({"loss": loss.item()})


def run(folder: Path, trainer: type, **job: Any) -> int:
    fields = {
        "request_id": "r",
        "trainer": f"{__name__}:{trainer.__name__}",
        "max_steps": 10,
        "metric_every": 1,
        "checkpoint_every": 4,
        "mock_batches": [None],
        "dataset": {"epochs": 0},
        "seed": 1,
        **job,
    }
    folder.mkdir(exist_ok=True)
    spec = folder / "job.json"
    spec.write_text(json.dumps(fields))
    return run_training_runtime(TrainerSettings(job_spec_path=str(spec), artifacts_dir=str(folder)))


def metrics(folder: Path, name: str) -> dict[int, float]:
    lines = (folder / "metrics" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return {one["step"]: one["value"] for one in events if one.get("name") == name}


@pytest.mark.parametrize("trainer", [Tuner, Accelerated])
def test_a_run_that_is_broken_off_goes_on_as_if_it_had_not_been(
    tmp_path: Path, trainer: type
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(whole, trainer) == 0

    with pytest.raises(Stop):
        run(broken, trainer, hyperparams={"stops_at": 7})
    assert list(metrics(broken, "train/loss")) == list(range(1, 8))
    assert run(broken, trainer, resume_from_latest=True) == 0

    assert metrics(broken, "train/loss") == metrics(whole, "train/loss")
    assert metrics(broken, "trainer/resumed_from_step") == {4: 4.0}
    assert list(metrics(whole, "train/loss")) == list(range(1, 11))


def test_what_transformers_knows_of_a_step_is_reported(tmp_path: Path) -> None:
    run(tmp_path, Tuner, max_steps=5)

    rates = metrics(tmp_path, "train/lr")
    assert rates[1] > rates[5] > 0
    assert metrics(tmp_path, "grad_norm")[5] > 0
    final = tmp_path / "checkpoints" / "final" / "engine"
    assert transformers.GPT2LMHeadModel.from_pretrained(final).config.n_embd == 16
    assert json.loads((final / "trainer_state.json").read_text())["global_step"] == 5


@pytest.mark.parametrize("stops", [False, True])
def test_a_callback_reports_a_training_of_its_own(tmp_path: Path, stops: bool) -> None:
    class Reporter(LocalTrainingReporter):
        def is_canceled(self) -> bool:
            return stops and trainer.state.global_step == 4

    path = tmp_path / "events.jsonl"
    trainer = transformers.Trainer(
        model=model_of(),
        args=arguments(tmp_path, max_steps=6, logging_steps=2, save_steps=3),
        train_dataset=rows(),
        callbacks=[reporting_callback(Reporter(path), request_id="run-7")],
    )
    trainer.train()

    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {one["request_id"] for one in events} == {"run-7"}
    saved = [one for one in events if one["event"] == "checkpoint"]
    assert [one["step"] for one in saved] == ([3, 4] if stops else [3, 6])
    assert saved[-1]["path"] == str(tmp_path / f"checkpoint-{saved[-1]['step']}")
    losses = [one["step"] for one in events if one.get("name") == "loss"]
    assert losses[:2] == [2, 4]
    assert (events[-1]["event"], events[-1]["step"]) == (
        ("failed", 4) if stops else ("completed", 6)
    )
