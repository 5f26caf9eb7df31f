"""What a quality gate runs where nobody says it: models of known kinds, on fixed inputs.

Language models give their logits, and encoders their last hidden states, for rows of random tokens;
pipelines give the latents of a few steps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.hf_classes import class_of_config
from gen_worker.conversion.source import Source
from gen_worker.conversion.verify.gate import QualityGate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["usual_gate"]

_ROWS, _TOKENS = 4, 32
_STEPS = 2
_PROMPT = "a photograph of a house by the sea"


def usual_gate(source: str | os.PathLike[str], *, min_snr_db: float, seed: int = 0) -> QualityGate:
    """Return the gate for a model of transformers or a pipeline of diffusers.

    Args:
        source: Directory of the model that outputs are compared with.
        min_snr_db: Power of the source's outputs over that of the difference, in decibels.
        seed: Of tokens and noise.

    Raises:
        ConversionInputError: Nobody knows what it is given and gives.
    """
    model = Source(source)
    place = os.fspath(model.path)
    if model.file_layout == "diffusers":
        outputs: Any = _Latents(place)
    elif isinstance(_text_config(model).get("vocab_size"), int):
        outputs = _Answers(place, _text_config(model)["vocab_size"], seed)
    else:
        raise ConversionInputError(
            f"{place!r} is no pipeline, and no model with a vocabulary: nothing is known that it "
            "could be compared by; give a QualityGate with outputs of your own in Python",
            file=place,
            step="verify",
        )
    return QualityGate(outputs=outputs, min_snr_db=min_snr_db, seed=seed)


class _Answers:
    """The outputs of a model of transformers for the same tokens."""

    def __init__(self, source: str, vocabulary: int, seed: int) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self._seed = seed

    def __call__(self, path: str) -> Sequence[Any]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        generator = torch.Generator().manual_seed(self._seed)
        shape = (_ROWS, _TOKENS)
        tokens = torch.randint(self._vocabulary, shape, generator=generator)
        model = self._loaded(path)
        with torch.inference_mode():
            made = model(input_ids=tokens)
        return [made.logits if "logits" in made else made.last_hidden_state]

    def _loaded(self, path: str) -> Any:
        cls = class_of_config(Source(self._source).config(), self._source)
        files = _files_ending(path, ".gguf")
        options = {"gguf_file": files[0]} if files else {}
        return Source(path).as_hf_model(model_cls=cls, dtype="float32", **options).eval()


class _Latents:
    """What a pipeline makes of noise in a few steps, before it is decoded."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __call__(self, path: str) -> Sequence[Any]:
        import torch  # type: ignore[import-not-found,unused-ignore]

        pipeline = self._loaded(path).to(torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline(
            prompt=_PROMPT,
            num_inference_steps=_STEPS,
            output_type="latent",
            generator=torch.Generator().manual_seed(torch.initial_seed()),
        )
        return [made.images]

    def _loaded(self, path: str) -> Any:
        if os.path.isfile(os.path.join(path, "model_index.json")):
            return Source(path).as_hf_model()
        [file, *others] = _files_ending(path, ".safetensors") or [""]
        if not file or others:
            raise ConversionInputError(
                f"{path!r} is no pipeline, so its outputs cannot be compared with those of one",
                file=path,
                step="verify",
            )
        cls = type(Source(self._source).as_hf_model())
        return cls.from_single_file(
            os.path.join(path, file), config=self._source, local_files_only=True
        )


def _text_config(model: Source) -> dict[str, Any]:
    config = model.config()
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _files_ending(path: str, suffix: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.lower().endswith(suffix))
