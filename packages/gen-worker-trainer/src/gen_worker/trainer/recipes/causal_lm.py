"""Fine-tunes a causal language model on chats, on prompts with completions, or on plain texts.

    {"trainer": "gen_worker.trainer.recipes.causal_lm:CausalLMTrainer",
     "inputs": {"base_model_ref": "acme/writer"},
     "dataset": {"parquet_paths": ["chats.parquet"], "shuffle": true, "epochs": 2},
     "hyperparams": {"max_length": 2048, "packing": true, "gradient_accumulation_steps": 4}}

S sequences, T tokens, V entries of the vocabulary, N tokens that are learned.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.errors import ValidationError
from gen_worker.models.loading.libraries import library
from gen_worker.trainer.data.columns import columns_of, texts
from gen_worker.trainer.data.tokens import (
    IGNORED,
    TokenRow,
    chat_row,
    completion_row,
    fitted,
    stacked,
    text_row,
)
from gen_worker.trainer.gradient import GradientTrainer, Loss, options_of
from gen_worker.trainer.recipes.texts import (
    TextOptions,
    base_directory,
    export_trained,
    length_limit,
    load_model,
    trainable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gen_worker.trainer.gradient import GradientState
    from gen_worker.trainer.steps import StepContext

__all__ = ["CausalLMOptions", "CausalLMTrainer"]


class CausalLMOptions(TextOptions, frozen=True, kw_only=True):
    """Hyperparameters of `CausalLMTrainer`. The first of the columns that there is, is used."""

    messages_column: str = "messages"
    """Lists of `{role, content}`; the assistant's turns are learned."""
    prompt_column: str = "prompt"
    """With `completion_column`, which is learned."""
    completion_column: str = "completion"
    text_column: str = "text"
    """All of it is learned."""
    too_long: Literal["cut", "fail"] = "cut"
    """What becomes of rows of more than `max_length` tokens."""
    packing: bool = False
    """Whether rows share sequences of `max_length` tokens; they do not see one another."""
    sample_max_tokens: int = 64
    sample_temperature: float = 0.7
    """0 takes the likeliest token each time."""


class CausalLMTrainer(GradientTrainer):
    """Trains any causal language model of transformers. The loss is a mean over tokens."""

    hyperparams_type = CausalLMOptions

    def build(self, ctx: StepContext) -> Any:
        """Load the model and its tokenizer."""
        self.options = options_of(ctx.job.hyperparams, CausalLMOptions, dtype=ctx.dtype)
        self.base = base_directory(ctx)
        # Of the implementations, this one takes a mask of any shape: what packing needs.
        more = {"attn_implementation": "sdpa"} if self.options.packing else {}
        model, self.tokenizer = load_model("AutoModelForCausalLM", ctx, self.options, **more)
        self.max_length = length_limit(self.options.max_length, model, self.tokenizer)
        return trainable(model, ctx, self.options)

    def configure(self, ctx: StepContext) -> GradientState:
        """Return the state, which can also make samples."""
        state = super().configure(ctx)
        state.generate_sample = partial(self.sample, state)  # type: ignore[attr-defined]
        return state

    def prepare_batch(self, raw: Any, state: Any, ctx: StepContext) -> dict[str, Any]:
        """Tokenise a batch; rows of which nothing can be learned are named."""
        rows = fitted(self.rows_of(columns_of(raw)), self.max_length, self.options.too_long)
        pack_to = self.max_length if self.options.packing else 0
        return stacked(rows, self.tokenizer.pad_token_id, pack_to=pack_to)

    def rows_of(self, columns: Mapping[str, list[Any]]) -> list[TokenRow]:
        """Return the examples of a batch, in whichever form it has them."""
        options, tokenizer = self.options, self.tokenizer
        if options.messages_column in columns:
            return [chat_row(tokenizer, chat) for chat in columns[options.messages_column]]
        if options.prompt_column in columns or options.completion_column in columns:
            prompts = texts(columns, options.prompt_column)
            completions = texts(columns, options.completion_column)
            pairs = zip(prompts, completions, strict=True)
            return [completion_row(tokenizer, prompt, answer) for prompt, answer in pairs]
        if options.text_column in columns:
            return [text_row(tokenizer, text) for text in texts(columns, options.text_column)]
        wanted = (options.messages_column, options.prompt_column, options.text_column)
        raise ValidationError(
            f"the data has none of the columns {wanted}: its columns are {tuple(columns)}"
        )

    def compute_loss(self, batch: Any, state: Any, ctx: StepContext) -> Loss:
        """Say how unlikely the tokens are that are to be learned."""
        labels_ST = batch["labels"][:, 1:]
        is_learned_ST = labels_ST != IGNORED
        logits_STV = state.model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=self.mask_of(batch["segments"]),
            use_cache=False,
        ).logits[:, :-1]
        logits_NV, labels_N = logits_STV[is_learned_ST].float(), labels_ST[is_learned_ST]
        total = library("torch").nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum")
        count = len(labels_N)
        tokens = {"tokens": float((batch["segments"] > 0).sum())}
        # A part of a batch may have nothing to learn in it: then it counts nothing.
        return Loss(total / max(count, 1), weight=count, metrics=tokens)

    def mask_of(self, segments_ST: Any) -> Any:
        """Return what each token may look at: `[S, T]`, or `[S, 1, T, T]` of packed rows."""
        if not self.options.packing:
            return (segments_ST > 0).long()
        length = segments_ST.shape[1]
        is_same_STT = segments_ST.unsqueeze(1) == segments_ST.unsqueeze(2)
        return is_same_STT.tril().view(-1, 1, length, length)

    def eval_end(
        self, state: Any, ctx: StepContext, *, metrics: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Return the perplexity of all tokens, which is no mean of those of batches."""
        super().eval_end(state, ctx)
        return {"perplexity": math.exp(metrics["loss"])} if metrics else {}

    def export(self, state: Any, directory: Path, ctx: StepContext) -> Mapping[str, Any]:
        """Write what `peft` or `AutoModelForCausalLM` loads, with the tokenizer."""
        return export_trained(state.model, self.tokenizer, self.base, directory)

    def sample(self, state: Any, *, prompt: str, seed: int | None = None) -> dict[str, Any]:
        """Have the model go on from a prompt, or answer it if it was made for chats."""
        torch, tokenizer, options = library("torch"), self.tokenizer, self.options
        model = state.model
        tokens = self.asked(prompt).to(model.device)
        torch.manual_seed(seed or 0)  # the runtime puts the run's own random state back
        is_free = options.sample_temperature > 0
        chance = {"temperature": options.sample_temperature} if is_free else {}
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                made = model.generate(
                    **tokens,
                    max_new_tokens=options.sample_max_tokens,
                    do_sample=is_free,
                    pad_token_id=tokenizer.pad_token_id,
                    **chance,
                )
        finally:
            model.train(was_training)
        start = tokens["input_ids"].shape[1]
        return {"text": tokenizer.decode(made[0, start:], skip_special_tokens=True)}

    def asked(self, prompt: str) -> Any:
        """Return the tokens of a prompt, in the model's chat template if it has one."""
        if not self.tokenizer.chat_template:
            return self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
