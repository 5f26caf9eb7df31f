"""A speech model and its processor as one object: anything with `from_pretrained` can be a model."""

from typing import Any, Self

import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import AutoModelForCTC, AutoProcessor  # type: ignore[import-not-found,unused-ignore]

CHUNK_S = 20
"""What the model hears at once; longer recordings are cut, so that memory stays bounded."""


class SpeechRecognizer:
    """A CTC model: for every few milliseconds of sound it says which letter that is."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        self.sample_rate: int = processor.feature_extractor.sampling_rate

    @classmethod
    def from_pretrained(cls, path: str) -> Self:
        """Load from a folder; called once, with where the model's files are."""
        return cls(AutoModelForCTC.from_pretrained(path), AutoProcessor.from_pretrained(path))

    def to(self, device: str) -> Self:
        """Move to a device; called when there is a GPU."""
        self.model.to(device)
        return self

    def transcribe(self, samples: Any) -> str:
        """Return what is said in up to `CHUNK_S` seconds of mono sound at `sample_rate`."""
        inputs = self.processor(samples, sampling_rate=self.sample_rate, return_tensors="pt").to(
            self.model.device
        )
        with torch.inference_mode():
            letters_BT = self.model(**inputs).logits.argmax(-1)  # B sounds, T moments
        text: str = self.processor.batch_decode(letters_BT)[0]
        return text
