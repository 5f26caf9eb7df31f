"""`python -m lora_text_encoder.compare ADAPTER`: the same test before the training and after it."""

import sys
from typing import Any

import peft  # type: ignore[import-not-found,import-untyped,unused-ignore]
import torch  # type: ignore[import-not-found,unused-ignore]
from gen_worker.trainer.recipes.sentence_encoder import pooled, ranking
from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found,unused-ignore]

from lora_text_encoder.handbook import rows


def score(model: Any, tokenizer: Any) -> dict[str, float]:
    """Return how often a question of the test finds its answer among all answers."""
    test = rows("test")
    answers = [row["answer"] for row in test]
    with torch.inference_mode():
        questions_BD = embed(model, tokenizer, [row["question"] for row in test])
        answers_CD = embed(model, tokenizer, answers)
    return ranking(questions_BD @ answers_CD.T, range(len(test)), (1,))


def embed(model: Any, tokenizer: Any, texts: list[str]) -> Any:
    """Return the vectors of texts: the means of their tokens, as this model was made for."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return pooled(model(**tokens).last_hidden_state, tokens["attention_mask"], "mean")


def main(adapter: str) -> None:
    """Print the scores of the base model, and with the adapter on top of it."""
    base = AutoModel.from_pretrained("model").eval()
    tokenizer = AutoTokenizer.from_pretrained("model")
    before = score(base, tokenizer)
    after = score(peft.PeftModel.from_pretrained(base, adapter).eval(), tokenizer)
    for name in before:
        print(f"{name} {before[name]:.3f} {after[name]:.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("say which adapter: python -m lora_text_encoder.compare FOLDER")
    main(sys.argv[1])
