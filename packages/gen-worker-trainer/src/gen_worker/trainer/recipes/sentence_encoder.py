"""Fine-tunes a sentence encoder, so that texts which belong together become close vectors.

    {"trainer": "gen_worker.trainer.recipes.sentence_encoder:SentenceEncoderTrainer",
     "inputs": {"base_model_ref": "acme/encoder"},
     "dataset": {"parquet_paths": ["pairs.parquet"], "shuffle": true, "epochs": 2},
     "eval_every": 50, "eval_dataset": {"parquet_paths": ["test.parquet"], "batch_size": 1000}}

B texts, C candidates, T tokens, D dimensions.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.errors import ValidationError
from gen_worker.models.loading.libraries import library
from gen_worker.trainer.data.columns import columns_of, numbers, texts
from gen_worker.trainer.gradient import GradientTrainer, Loss, options_of
from gen_worker.trainer.recipes.texts import (
    TextOptions,
    base_directory,
    export_trained,
    length_limit,
    load_model,
    trainable,
)
from gen_worker.trainer.steps import StepResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gen_worker.trainer.steps import StepContext

__all__ = ["EncoderOptions", "SentenceEncoderTrainer", "pooled", "pooling_of", "ranking"]

Pooling = Literal["mean", "cls", "max", "lasttoken"]
_POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "max", "lasttoken")
_OLD_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


class EncoderOptions(TextOptions, frozen=True, kw_only=True):
    """Hyperparameters of `SentenceEncoderTrainer`."""

    loss: Literal["ranking", "cosine"] = "ranking"
    """`ranking`: of all positives and negatives of the batch, each anchor has to find its own
    positive (InfoNCE). `cosine`: the cosine of a pair is to be its score."""
    temperature: float = 0.05
    """What similarities are divided by before they are ranked."""
    anchor_column: str = "anchor"
    positive_column: str = "positive"
    negative_column: str = ""
    """A text, or a list of as many texts in each row; empty: there are only those of the batch."""
    score_column: str = "score"
    """For `cosine`: from -1 to 1."""
    pooling: Literal["", "mean", "cls", "max", "lasttoken"] = ""
    """How tokens become one vector; empty: as the model's files say."""
    eval_k: tuple[int, ...] = (1, 5)
    """Recall is reported among so many of the nearest."""


class SentenceEncoderTrainer(GradientTrainer):
    """Trains any encoder of transformers on pairs of texts."""

    hyperparams_type = EncoderOptions

    def build(self, ctx: StepContext) -> Any:
        """Load the model, and learn from its files how it makes one vector of a text."""
        self.options = options_of(ctx.job.hyperparams, EncoderOptions, dtype=ctx.dtype)
        self.base = base_directory(ctx)
        self.pooling = self.options.pooling or pooling_of(self.base)
        model, self.tokenizer = load_model("AutoModel", ctx, self.options)
        declared = int(_read(self.base, "sentence_bert_config.json").get("max_seq_length") or 0)
        self.max_length = length_limit(self.options.max_length, model, self.tokenizer, declared)
        return trainable(model, ctx, self.options)

    def prepare_batch(self, raw: Any, state: Any, ctx: StepContext) -> dict[str, Any]:
        """Take the texts out of a batch; what is missing or empty is named."""
        options, columns = self.options, columns_of(raw)
        batch: dict[str, Any] = {
            "anchor": texts(columns, options.anchor_column),
            "positive": texts(columns, options.positive_column),
        }
        if options.loss == "cosine":
            batch["score"] = numbers(columns, options.score_column)
        elif options.negative_column:
            batch["negative"] = _negatives(columns, options.negative_column)
        return batch

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        """Say how far the vectors are from what the pairs ask for."""
        functional = library("torch").nn.functional
        anchors_BD = self.embedded(state.model, batch["anchor"])
        if self.options.loss == "cosine":
            positives_BD = self.embedded(state.model, batch["positive"])
            wanted_B = anchors_BD.new_tensor(batch["score"])
            loss = functional.mse_loss((anchors_BD * positives_BD).sum(1), wanted_B)
            return Loss(loss, weight=len(batch["anchor"]))
        names, right_B = _candidates(batch)
        candidates_CD = self.embedded(state.model, names)
        similarity_BC = anchors_BD @ candidates_CD.T / self.options.temperature
        loss = functional.cross_entropy(
            similarity_BC, library("torch").tensor(right_B, device=similarity_BC.device)
        )
        return Loss(loss, weight=len(right_B))

    def eval_step(self, batch: Any, state: Any, ctx: StepContext) -> StepResult:
        """Rank: among the positives and negatives of this batch, where is each anchor's own?

        The batch is the whole of what is searched: give `eval_dataset` a `batch_size` that holds
        all of its rows.
        """
        anchors_BD = self.encoded(state.model, batch["anchor"])
        if self.options.loss == "cosine":
            positives_BD = self.encoded(state.model, batch["positive"])
            cosine_B = (anchors_BD * positives_BD).sum(1).tolist()
            metrics = {"spearman": spearman(cosine_B, batch["score"])}
        else:
            names, right_B = _candidates(batch)
            candidates_CD = self.encoded(state.model, names)
            metrics = ranking(anchors_BD @ candidates_CD.T, right_B, self.options.eval_k)
        return StepResult({**metrics, "weight": float(len(batch["anchor"]))})

    def export(self, state: Any, directory: Path, ctx: StepContext) -> Mapping[str, Any]:
        """Write what `peft` or `AutoModel` loads, with tokenizer and pooling."""
        return export_trained(state.model, self.tokenizer, self.base, directory)

    # -- vectors -----------------------------------------------------------------------------------

    def embedded(self, model: Any, sentences: Sequence[str]) -> Any:
        """Return the vectors of texts, `[B, D]` and of length 1, in one pass of the model."""
        tokens = self.tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(model.device)
        states_BTD = model(**tokens).last_hidden_state
        return pooled(states_BTD, tokens["attention_mask"], self.pooling)

    def encoded(self, model: Any, sentences: Sequence[str], *, at_once: int = 64) -> Any:
        """Return the same of any number of texts, without gradients."""
        torch = library("torch")
        starts = range(0, len(sentences), at_once)
        with torch.no_grad():
            return torch.cat(
                [self.embedded(model, sentences[start : start + at_once]) for start in starts]
            )


def pooled(states_BTD: Any, mask_BT: Any, pooling: Pooling) -> Any:
    """Return one vector of length 1 for each text, made of those of its tokens."""
    torch = library("torch")
    mask_BT1 = mask_BT.unsqueeze(-1)
    if pooling == "cls":
        vectors_BD = states_BTD[:, 0]
    elif pooling == "max":
        vectors_BD = states_BTD.masked_fill(mask_BT1 == 0, float("-inf")).amax(1)
    elif pooling == "lasttoken":
        last_B = (mask_BT * torch.arange(mask_BT.shape[1], device=mask_BT.device)).argmax(1)
        vectors_BD = states_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
    else:
        vectors_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
    return torch.nn.functional.normalize(vectors_BD.float())


def pooling_of(base: str) -> Pooling:
    """Return how a model's own files say that tokens become one vector; `mean` if they do not.

    Raises:
        ValidationError: In a way that is not known here.
    """
    modules = _read(base, "modules.json")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ValidationError(f"the model {base!r} has parts that are not trained here: {unknown}")
    if "Pooling" not in kinds:
        return "mean"
    config = _read(base, os.path.join(modules[kinds.index("Pooling")]["path"], "config.json"))
    chosen = config.get("pooling_mode") or [
        _OLD_NAMES.get(name, name) for name, is_on in config.items() if is_on is True
    ]
    chosen = [chosen] if isinstance(chosen, str) else chosen
    known: list[Pooling] = [one for one in _POOLINGS if chosen == [one]]
    if not known:
        raise ValidationError(
            f"the model {base!r} pools by {chosen}, and here it can be one of {_POOLINGS}: set "
            "hyperparams.pooling",
            path="$.hyperparams.pooling",
        )
    return known[0]


def ranking(similarity_BC: Any, right_B: Sequence[int], ks: Sequence[int]) -> dict[str, float]:
    """Return how well each text finds its candidate: recall, and the mean reciprocal rank.

    A candidate that is as close as the right one counts as closer.

    Args:
        similarity_BC: Higher is closer.
        right_B: The candidate that belongs to each text.
        ks: How many of the closest are looked at.
    """
    right_B1 = library("torch").tensor(right_B, device=similarity_BC.device).unsqueeze(1)
    rank_B = (similarity_BC >= similarity_BC.gather(1, right_B1)).sum(1).float()
    recalls = {f"recall_at_{k}": float((rank_B <= k).float().mean()) for k in ks}
    return {**recalls, "mrr": float((1 / rank_B).mean())}


def spearman(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Return the correlation of two orders; 0 where there is none."""
    torch = library("torch")
    ranks = torch.tensor([_ranks(found), _ranks(wanted)], dtype=torch.float64)
    deviation = ranks - ranks.mean(1, keepdim=True)
    scale = float(deviation.norm(dim=1).prod())
    return float((deviation[0] * deviation[1]).sum()) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the places of values in their order; equal ones share the middle of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def _negatives(columns: Mapping[str, list[Any]], name: str) -> list[list[str]]:
    rows = columns.get(name, [])
    lists = [row if isinstance(row, list) else [row] for row in rows]
    flat = {name: [text for row in lists for text in row]} if name in columns else dict(columns)
    texts(flat, name)
    return lists


def _candidates(batch: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Return all texts that an anchor may find, each once, and the number of its own."""
    every = [*batch["positive"], *(text for row in batch.get("negative", ()) for text in row)]
    numbered = {text: number for number, text in enumerate(dict.fromkeys(every))}
    return list(numbered), [numbered[text] for text in batch["positive"]]


def _read(base: str, name: str) -> Any:
    try:
        with open(os.path.join(base, name), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}
