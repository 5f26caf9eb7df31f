"""The sentence encoder recipe: runs from job specs alone, on a real tiny encoder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ValidationError
from gen_worker.models.tiny.tokens import text_tokenizer
from gen_worker.trainer import StepContext, TrainingJobSpec, run_training_runtime
from gen_worker.trainer.recipes.sentence_encoder import (
    SentenceEncoderTrainer,
    pooled,
    pooling_of,
    ranking,
    spearman,
)
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

TRAINER = "gen_worker.trainer.recipes.sentence_encoder:SentenceEncoderTrainer"
THINGS = ("fox", "dog", "horse", "astronaut", "story", "model", "photo", "mars")
PAIRS = {
    "anchor": [f"where is the {thing}" for thing in THINGS],
    "positive": [f"{thing} {number}" for number, thing in enumerate(THINGS)],
    "other": [f"{thing} of old" for thing in THINGS],
    "score": [1.0 if number % 2 else -0.5 for number in range(len(THINGS))],
}
HYPERPARAMS = {"learning_rate": 0.01, "dtype": "fp32", "lora_rank": 4, "schedule": "constant"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 0.03 million parameters, laid out as sentence encoders are."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = text_tokenizer()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"x.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}'
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "pairs.parquet")
    pq.write_table(pa.table(PAIRS), path)
    return path


class Job:
    """Runs of one job."""

    def __init__(self, folder: Path, base: Path, data: str) -> None:
        self.folder = folder
        self.base = base
        self.dataset = {"parquet_paths": [data], "batch_size": 4, "shuffle": True, "epochs": 0}
        self.fields = {
            "request_id": "run",
            "trainer": TRAINER,
            "inputs": {"base_model_ref": str(base)},
            "seed": 1,
            "max_steps": 12,
            "metric_every": 1,
            "dataset": self.dataset,
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

    def metric(self, name: str, to: str = "out") -> list[float]:
        lines = (self.folder / to / "metrics" / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [one["value"] for one in events if one["event"] == "metric" and one["name"] == name]

    def context(self, **hyperparams: Any) -> StepContext:
        job = TrainingJobSpec("run", 1, hyperparams={**HYPERPARAMS, **hyperparams})
        return StepContext(
            job, model_handles={"base_model_dir": str(self.base)}, device="cpu", dtype="fp32"
        )


@pytest.fixture
def job(tmp_path: Path, base: Path, data: str) -> Job:
    return Job(tmp_path, base, data)


def states_of(model: Any, folder: Path) -> Any:
    """Return what a model makes of the anchors, with the tokenizer of a folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(PAIRS["anchor"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**tokens).last_hidden_state


def trained_states(job: Job, hyperparams: dict[str, Any], final: Path) -> Any:
    """Return what the trainer's own model makes of them after a run, its checkpoint restored."""
    from gen_worker.trainer.state.restoring import restore_training_state

    trainer = SentenceEncoderTrainer()
    state = trainer.configure(job.context(**hyperparams))
    restore_training_state(state, str(final))
    return states_of(state.model, job.base)


def test_a_lora_is_learned_and_loads_into_a_fresh_base(job: Job) -> None:
    chosen = {"negative_column": "other"}
    final = job.run(hyperparams=chosen, max_steps=24, dataset={**job.dataset, "batch_size": 8})

    losses = job.metric("train/loss")
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    fresh = transformers.AutoModel.from_pretrained(job.base)
    before = states_of(fresh, job.base)
    loaded = peft.PeftModel.from_pretrained(fresh, final / "adapter")
    after = states_of(loaded, final / "adapter")
    assert not torch.allclose(before, after, atol=0.01)
    assert torch.equal(after, trained_states(job, chosen, final))
    assert pooling_of(str(final / "adapter")) == "mean"


def test_a_whole_model_is_trained_and_loads_as_the_base_does(job: Job) -> None:
    chosen = {"method": "full", "learning_rate": 0.003}
    final = job.run(hyperparams=chosen)

    losses = job.metric("train/loss")
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    loaded = transformers.AutoModel.from_pretrained(final / "model")
    assert torch.equal(states_of(loaded, final / "model"), trained_states(job, chosen, final))
    assert json.loads((final / "model" / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 32
    }


def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(job: Job) -> None:
    """With dropout in the model and in the matrices, and in the midst of an epoch."""
    chosen = {"lora_dropout": 0.2, "lora_targets": ["query", "value"]}
    whole = job.run(hyperparams=chosen, max_steps=7)
    job.run(to="parts", hyperparams=chosen, max_steps=3)
    parts = job.run(to="parts", hyperparams=chosen, max_steps=7, resume_from_latest=True)

    assert job.metric("train/loss", "parts") == job.metric("train/loss")
    first, second = (
        load_file(one / "adapter" / "adapter_model.safetensors") for one in (whole, parts)
    )
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_cosines_are_fitted_to_scores_and_ranked_like_them(job: Job) -> None:
    whole = {**job.dataset, "batch_size": 8}
    chosen = {"loss": "cosine", "method": "full", "learning_rate": 0.003}
    job.run(hyperparams=chosen, dataset=whole, eval_every=12, eval_dataset=whole | {"epochs": 1})

    losses = job.metric("train/loss")
    assert losses[-1] < 0.5 * losses[0]
    assert job.metric("eval/spearman")[-1] > 0.8


def test_a_search_is_evaluated_now_and_then(job: Job) -> None:
    searched = {"parquet_paths": job.dataset["parquet_paths"], "batch_size": 100}
    chosen = {"method": "full", "learning_rate": 0.003, "eval_k": [1, 3]}
    job.run(hyperparams=chosen, max_steps=24, eval_every=12, eval_dataset=searched)

    first, last = job.metric("eval/recall_at_1")
    assert last > 0.6
    assert last >= first
    assert job.metric("eval/recall_at_3")[-1] >= last
    assert last <= job.metric("eval/mrr")[-1] <= 1


@pytest.mark.parametrize(
    ("hyperparams", "batch", "said"),
    [
        ({}, {"question": ["a"]}, "no column 'anchor': its columns are 'question'"),
        ({}, {"anchor": ["a", ""], "positive": ["b", "c"]}, "row 1 is empty"),
        ({"negative_column": "no"}, {"anchor": ["a"], "positive": ["b"]}, "no column 'no'"),
        ({"loss": "cosine"}, {"anchor": ["a"], "positive": ["b"], "score": ["x"]}, "row 0 is 'x'"),
    ],
)
def test_wrong_data_is_named(job: Job, hyperparams: dict[str, Any], batch: Any, said: str) -> None:
    trainer = SentenceEncoderTrainer()
    ctx = job.context(**hyperparams)
    state = trainer.configure(ctx)
    with pytest.raises(ValidationError, match=said):
        trainer.prepare_batch(batch, state, ctx)


def test_a_model_that_cannot_be_trained_is_named(job: Job, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"set inputs\.base_model_ref"):
        SentenceEncoderTrainer().configure(StepContext(TrainingJobSpec("run", 1), device="cpu"))
    with pytest.raises(ValidationError, match="max_length is 100 tokens, the model has positions"):
        SentenceEncoderTrainer().configure(job.context(max_length=100))
    (tmp_path / "modules.json").write_text('[{"type": "x.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(ValidationError, match="Dense"):
        pooling_of(str(tmp_path))


def test_the_same_answer_twice_in_a_batch_is_no_wrong_one(job: Job) -> None:
    trainer = SentenceEncoderTrainer()
    ctx = job.context()
    state = trainer.configure(ctx)
    batch = {"anchor": ["the fox", "the dog"], "positive": ["mars", "mars"]}
    assert trainer.compute_loss(batch, state, ctx).value.item() == 0
    assert trainer.eval_step(batch, state, ctx).metrics["recall_at_1"] == 1


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [2.0, 1.0]), ("cls", [3.0, 0.0]), ("max", [3.0, 2.0]), ("lasttoken", [1.0, 2.0])],
)
def test_padding_counts_in_no_pooling(pooling: Any, expected: list[float]) -> None:
    states = torch.tensor([[[3.0, 0.0], [1.0, 2.0], [9.0, 9.0]]])
    vector = pooled(states, torch.tensor([[1, 1, 0]]), pooling)[0]
    wanted = torch.tensor(expected)
    assert torch.allclose(vector, wanted / wanted.norm())


def test_pooling_is_read_from_old_and_new_files(tmp_path: Path) -> None:
    assert pooling_of(str(tmp_path)) == "mean"
    (tmp_path / "modules.json").write_text('[{"type": "x.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "1_Pooling").mkdir()
    config = tmp_path / "1_Pooling" / "config.json"
    config.write_text('{"pooling_mode": "cls", "include_prompt": true}')
    assert pooling_of(str(tmp_path)) == "cls"
    config.write_text('{"pooling_mode_lasttoken": true, "pooling_mode_mean_tokens": false}')
    assert pooling_of(str(tmp_path)) == "lasttoken"
    config.write_text('{"pooling_mode": ["cls", "mean"]}')
    with pytest.raises(ValidationError, match=r"pools by \['cls', 'mean'\]"):
        pooling_of(str(tmp_path))


def test_ranks_and_correlations() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.8], [0.5, 0.5, 0.1]])
    found = ranking(similarity, [0, 1, 1], (1, 2))
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["recall_at_2"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)

    assert spearman([1, 2, 3], [10, 20, 300]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 3, 3, 2]) == pytest.approx(1 / 3)
    assert spearman([1, 1], [1, 2]) == 0
