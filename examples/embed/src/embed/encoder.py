"""A model class of the author's own: anything with `from_pretrained` can be a parameter's type."""

from typing import Any, Self

import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found,unused-ignore]

MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 was trained with; the rest of a longer text is left out."""


class SentenceEncoder:
    """A transformer and its tokenizer that turn each text into one vector of length 1."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, path: str) -> Self:
        """Load from a folder; called once, with where the model's files are."""
        return cls(AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path))

    def to(self, device: str) -> Self:
        """Move to a device; called when there is a GPU."""
        self.model.to(device)
        return self

    def encode(self, texts: list[str]) -> list[list[float]]:
        """Return the mean of each text's token vectors, normalised."""
        # B texts, T tokens, D dimensions
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            states_BTD = self.model(**tokens).last_hidden_state
            mask_BT1 = tokens["attention_mask"].unsqueeze(-1)
            mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            vectors: list[list[float]] = torch.nn.functional.normalize(mean_BD).tolist()
        return vectors
