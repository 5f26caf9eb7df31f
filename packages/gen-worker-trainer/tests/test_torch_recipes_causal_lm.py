"""The language model recipe: runs from job specs alone, on a real tiny model."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.models.tiny import tiny_llama
from gen_worker.trainer import StepContext, TrainingJobSpec, run_training_runtime
from gen_worker.trainer.recipes.causal_lm import CausalLMTrainer
from gen_worker.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
load_file = pytest.importorskip("safetensors.torch").load_file

# peft asks transformers by a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")

TRAINER = "gen_worker.trainer.recipes.causal_lm:CausalLMTrainer"
PAIRS = [
    {"prompt": ["the quick", "once upon"], "completion": [" brown fox jumps", " a time"]},
    {"prompt": ["a photo", "a small"], "completion": [" of an astronaut", " model"]},
    {"prompt": ["the lazy"], "completion": [" dog"]},
]
CHATS = [
    {
        "messages": [
            [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "brown"}],
            [{"role": "user", "content": "dog"}, {"role": "assistant", "content": "lazy"}],
        ]
    }
]
HYPERPARAMS = {"learning_rate": 0.01, "dtype": "fp32", "lora_rank": 4, "schedule": "constant"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama(folder)
    return folder


class Job:
    """Runs of one job."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self.base = base
        self.fields = {
            "request_id": "run",
            "trainer": TRAINER,
            "inputs": {"base_model_ref": str(base)},
            "seed": 1,
            "max_steps": 12,
            "metric_every": 1,
            "mock_batches": PAIRS,
            "dataset": {"epochs": 0},
        }

    def run(
        self, *, to: str = "out", hyperparams: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        """Run it, and return its final checkpoint."""
        spec = {**self.fields, "hyperparams": {**HYPERPARAMS, **(hyperparams or {})}, **more}
        path = self.folder / "job.json"
        path.write_text(json.dumps(spec))
        settings = TrainerSettings(job_spec_path=str(path), artifacts_dir=str(self.folder / to))
        assert run_training_runtime(settings) == 0
        return self.folder / to / "checkpoints" / "final"

    @property
    def texts(self) -> str:
        """Texts as Parquet, of which none is as long as another."""
        path = str(self.folder / "texts.parquet")
        pq.write_table(pa.table({"text": ["a fox", "the lazy dog", "one"]}), path)
        return path

    def metric(self, name: str, to: str = "out") -> list[float]:
        lines = (self.folder / to / "metrics" / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [one["value"] for one in events if one["event"] == "metric" and one["name"] == name]

    def configured(self, **hyperparams: Any) -> tuple[CausalLMTrainer, Any, StepContext]:
        """Return a trainer that is ready, with its state and context."""
        job = TrainingJobSpec("run", 1, hyperparams={**HYPERPARAMS, **hyperparams})
        handles = {"base_model_dir": str(self.base)}
        ctx = StepContext(job, model_handles=handles, device="cpu", dtype="fp32")
        trainer = CausalLMTrainer()
        return trainer, trainer.configure(ctx), ctx


@pytest.fixture
def job(tmp_path: Path, base: Path) -> Job:
    return Job(tmp_path, base)


def logits_of(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 60, 70, 80]])).logits


def trained_logits(job: Job, hyperparams: dict[str, Any], final: Path) -> Any:
    """Return what the trainer's own model says after a run, its checkpoint restored."""
    from gen_worker.trainer.state.restoring import restore_training_state

    _, state, _ = job.configured(**hyperparams)
    restore_training_state(state, str(final))
    return logits_of(state.model)


def test_a_lora_is_learned_and_loads_into_a_fresh_base(job: Job) -> None:
    chosen = {"learning_rate": 0.03, "lora_targets": ["q_proj", "down_proj", "lm_head"]}
    final = job.run(hyperparams=chosen, max_steps=24)

    losses = job.metric("train/loss")
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    fresh = transformers.AutoModelForCausalLM.from_pretrained(job.base)
    before = logits_of(fresh)
    after = logits_of(peft.PeftModel.from_pretrained(fresh, final / "adapter"))
    assert not torch.allclose(before, after, atol=0.01)
    assert torch.equal(after, trained_logits(job, chosen, final))


def test_a_whole_model_is_trained_on_chats_and_loads_as_the_base_does(job: Job) -> None:
    chosen = {"method": "full", "learning_rate": 0.003, "packing": True, "max_length": 64}
    final = job.run(hyperparams=chosen, mock_batches=CHATS)

    losses = job.metric("train/loss")
    assert losses[-1] < 0.8 * losses[0]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(final / "model")
    assert torch.equal(logits_of(loaded), trained_logits(job, chosen, final))
    tokenizer = transformers.AutoTokenizer.from_pretrained(final / "model")
    assert "message" in tokenizer.chat_template or "m in messages" in tokenizer.chat_template


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(job: Job) -> None:
    """With dropout in the matrices, in the midst of an epoch, and with samples and without."""
    chosen: dict[str, Any] = {"lora_dropout": 0.2, "gradient_accumulation_steps": 2}
    whole = job.run(hyperparams=chosen, max_steps=5)
    more: dict[str, Any] = {"sample_every": 1, "sample_prompts": ["the"], "hyperparams": chosen}
    job.run(to="parts", max_steps=2, **more)
    parts = job.run(to="parts", max_steps=5, resume_from_latest=True, **more)

    assert job.metric("train/loss", "parts") == job.metric("train/loss")
    first, second = (
        load_file(one / "adapter" / "adapter_model.safetensors") for one in (whole, parts)
    )
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_samples_are_texts_that_follow_from_their_seed(job: Job) -> None:
    prompts = [{"prompt": "the fox", "seed": seed} for seed in (3, 3, 4)]
    few = {"sample_max_tokens": 5}
    job.run(hyperparams=few, sample_prompts=prompts, sample_every=1, max_steps=1)

    samples = sorted((job.folder / "out" / "samples").glob("*.json"))
    same, again, other = (json.loads(path.read_text())["text"] for path in samples)
    assert same == again
    assert same
    assert other != same


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_that_of_transformers_for_each_row(job: Job, packing: bool) -> None:
    """Rows that share a sequence, or are padded, do not see one another nor the padding."""
    trainer, state, ctx = job.configured(packing=packing, max_length=40, method="full")
    rows = {"text": ["the quick brown fox", "a dog", "once upon a time there was"]}
    batch = trainer.prepare_batch(rows, state, ctx)
    assert len(batch["input_ids"]) == (1 if packing else 3)

    loss = trainer.compute_loss(batch, state, ctx)

    total = count = 0.0
    for row in trainer.rows_of(rows):
        ids = torch.tensor([row.ids])
        total += state.model(input_ids=ids, labels=ids).loss.item() * row.targets
        count += row.targets
    assert loss.weight == count
    assert loss.metrics["tokens"] == count + 3
    assert loss.value.item() == pytest.approx(total / count, rel=1e-5)


def test_only_completions_are_learned(job: Job) -> None:
    trainer, state, ctx = job.configured()
    batch = trainer.prepare_batch({"prompt": ["the quick"], "completion": [" fox"]}, state, ctx)
    learned = [label for label in batch["labels"][0].tolist() if label >= 0]
    assert trainer.tokenizer.decode(learned) == " fox</s>"


def test_perplexity_is_that_of_all_tokens(job: Job) -> None:
    each_alone = {"parquet_paths": [job.texts], "batch_size": 1}
    job.run(max_steps=1, eval_every=1, eval_dataset=each_alone)

    (loss,), (perplexity,) = job.metric("eval/loss"), job.metric("eval/perplexity")
    assert perplexity == pytest.approx(math.exp(loss))
    assert perplexity > 100


@pytest.mark.parametrize(
    ("hyperparams", "batch", "said"),
    [
        ({}, {"question": ["a"]}, r"none of the columns \('messages', 'prompt', 'text'\)"),
        ({}, {"prompt": ["a"]}, "no column 'completion'"),
        ({}, {"text": ["a", " "]}, "row 1 is empty"),
        ({"too_long": "fail", "max_length": 4}, {"text": ["fox " * 9]}, "row 0 has .* tokens"),
        ({"max_length": 2}, {"prompt": ["a fox"], "completion": ["x"]}, "none to learn"),
        ({}, {"messages": [[{"role": "user", "content": "a"}]]}, "none to learn"),
    ],
)
def test_wrong_data_is_named(job: Job, hyperparams: Any, batch: Any, said: str) -> None:
    trainer, state, ctx = job.configured(**hyperparams)
    with pytest.raises(ValidationError, match=said):
        trainer.prepare_batch(batch, state, ctx)
