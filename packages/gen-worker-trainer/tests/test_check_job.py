"""A dry run names what would fail, and leaves nothing behind."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.trainer import StepContext, StepResult
from gen_worker.trainer.check import CheckReport, check_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gen_worker.trainer.config import RunConfig


class Rates(msgspec.Struct, kw_only=True):
    """What the trainer wants to know."""

    rate: float = 0.5
    layers: int


class Tuner:
    """A trainer without a mistake; `wrong` names one."""

    hyperparams_type = Rates

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def setup(self, ctx: StepContext) -> None:
        self._fail_at("setup")
        assert ctx.dataset is not None

    def configure(self, ctx: StepContext) -> dict[str, Any]:
        self._fail_at("configure")
        assert isinstance(ctx.hyperparams, Rates)
        sample = {} if self.wrong == "no sample" else {"generate_sample": self.sample}
        return {"sum": 0.0, "steps": 0, "weights": b"0", **sample}

    def prepare_batch(self, raw_batch: Any, state: Any, ctx: StepContext) -> Any:
        self._fail_at("prepare_batch")
        return raw_batch["x"]

    def train_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self._fail_at("train_step")
        state["sum"] += batch
        state["steps"] += 1
        state["weights"] = str(state["sum"]).encode()
        loss = float("nan") if self.wrong == "nan" else 1.0 / state["steps"]
        return StepResult({} if self.wrong == "no loss" else {"loss": loss})

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        self._fail_at("eval_step")
        return StepResult({"loss": 2.5})

    def state_dict(self, state: Any) -> dict[str, Any]:
        self._fail_at("state_dict")
        return {"sum": state["sum"], "steps": state["steps"]}

    def load_state_dict(self, state: Any, payload: Any, ctx: StepContext) -> None:
        self._fail_at("load_state_dict")
        state["sum"] = payload["sum"]
        if self.wrong != "forgets":
            state["steps"] = payload["steps"]

    def save_checkpoint(self, *, state: Any, output_dir: Path, **_: Any) -> dict[str, Any]:
        self._fail_at("save_checkpoint")
        (output_dir / "weights.bin").write_bytes(state["weights"])
        return {"primary_path": "weights.bin"}

    def load_checkpoint(self, *, state: Any, checkpoint_dir: str, **_: Any) -> None:
        self._fail_at("load_checkpoint")
        if self.wrong != "reads nothing":
            with open(f"{checkpoint_dir}/weights.bin", "rb") as file:
                state["weights"] = file.read()

    def sample(self, *, prompt: str) -> Any:
        self._fail_at("sample")
        return b"\x89PNG of " + prompt.encode()

    def _fail_at(self, hook: str) -> None:
        if hook == self.wrong:
            raise RuntimeError(f"{hook} is wrong")


@pytest.fixture
def check(
    make_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CheckReport]:
    """Check a job of the trainer; temporary files are put where they can be seen."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(wrong: str = "", **fields: Any) -> CheckReport:
        job = {
            "max_steps": 1000,
            "mock_batches": [{"x": number} for number in range(1, 5)],
            "hyperparams": {"layers": 2},
            "sample_every": 10,
            "sample_prompts": ["a red cube"],
            "eval_every": 10,
            "uploads": {"terminal_url": "http://127.0.0.1:9/told"},
            **fields,
        }
        report = check_job(make_config(**job), load_trainer=lambda _: Tuner(wrong))
        assert list(temporary.iterdir()) == []
        assert not (tmp_path / "training").exists()
        return report

    return run


def levels(report: CheckReport) -> dict[str, str]:
    return {one.what: one.level for one in report.findings}


def test_a_job_without_a_mistake(check: Callable[..., CheckReport]) -> None:
    report = check()

    assert report.is_ok
    assert levels(report) == dict.fromkeys(
        (
            "trainer",
            "hyperparams",
            "inputs",
            "data",
            "steps",
            "checkpoint",
            "evaluation",
            "sample",
            "restore",
        ),
        "ok",
    )
    lines = str(report).splitlines()
    assert lines[3] == "ok       data         a batch of 1 samples of x"
    assert "2 done on cpu: train/loss 0.5" in lines[4]
    assert "eval/loss 2.5" in lines[6]
    assert "step-00000002-00.png" in lines[7]
    assert "a fresh state is the same bit for bit" in lines[8]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("setup", "steps"),
        ("configure", "steps"),
        ("prepare_batch", "steps"),
        ("train_step", "steps"),
        ("state_dict", "checkpoint"),
        ("save_checkpoint", "checkpoint"),
        ("eval_step", "evaluation"),
        ("sample", "sample"),
        ("load_state_dict", "restore"),
        ("load_checkpoint", "restore"),
    ],
)
def test_a_hook_that_fails(check: Callable[..., CheckReport], wrong: str, what: str) -> None:
    report = check(wrong)

    assert not report.is_ok
    last = report.findings[-1]
    assert (last.what, last.level) == (what, "failed")
    assert f"RuntimeError: {wrong} is wrong" in last.text


@pytest.mark.parametrize(
    ("wrong", "level", "text"),
    [
        ("forgets", "failed", "state_dict says something else of 'steps'"),
        ("reads nothing", "warning", "'weights.bin' of save_checkpoint differ"),
        ("no sample", "warning", "no file beside the JSON"),
        ("no loss", "warning", "no step reports `loss`"),
        ("nan", "failed", "train/loss of step 1 is nan"),
    ],
)
def test_what_no_hook_says(
    check: Callable[..., CheckReport], wrong: str, level: str, text: str
) -> None:
    report = check(wrong)

    assert report.is_ok == (level == "warning")
    assert [one for one in report.findings if one.level == level and text in one.text]


@pytest.mark.parametrize(
    ("fields", "what", "text"),
    [
        ({"hyperparams": {"rate": "much"}}, "hyperparams", "rate: Expected `float`"),
        ({"hyperparams": {"rate": "much"}}, "hyperparams", "layers is missing"),
        ({"mock_batches": []}, "data", "there is no batch"),
        ({"dataset": {"parquet_paths": ["/nowhere.parquet"]}}, "data", "arquet"),
        ({"inputs": {"base_model_ref": "file:///nowhere"}}, "inputs", "nowhere"),
    ],
)
def test_a_job_spec_that_is_wrong(
    check: Callable[..., CheckReport], fields: dict[str, Any], what: str, text: str
) -> None:
    report = check(**fields)

    last = report.findings[-1]
    assert (last.what, last.level) == (what, "failed")
    assert text in last.text


def test_a_trainer_that_is_not_there(make_config: Callable[..., RunConfig]) -> None:
    report = check_job(make_config(trainer="no_such_module:T", max_steps=3))

    (only,) = report.findings
    assert (only.what, only.level) == ("trainer", "failed")
    assert "no_such_module" in only.text
