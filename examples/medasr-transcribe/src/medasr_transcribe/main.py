"""Writes down what is said in a recording, in the older way of writing endpoints."""

from typing import Annotated

import msgspec
from gen_worker import (
    AudioAsset,
    ModelRef,
    ModelRefSource,
    RequestContext,
    ResourceRequirements,
    io,
    worker_function,
)

from medasr_transcribe.recognizer import CHUNK_S, SpeechRecognizer


class Recording(msgspec.Struct):
    audio: AudioAsset


class Transcript(msgspec.Struct):
    text: str
    duration_s: float


@worker_function(ResourceRequirements(memory_hint_mb=2048))
def medasr_transcribe(
    ctx: RequestContext,
    asr: Annotated[SpeechRecognizer, ModelRef(ModelRefSource.FIXED, "medasr")],
    payload: Recording,
) -> Transcript:
    """Transcribe a recording of any length, rate and number of channels."""
    samples, rate = io.read_audio(payload.audio, target_sample_rate=asr.sample_rate)
    step = CHUNK_S * rate
    texts = []
    for start in range(0, len(samples), step):
        ctx.raise_if_canceled()
        texts.append(asr.transcribe(samples[start : start + step]))
        ctx.progress(min(1.0, (start + step) / len(samples)), stage="listening")
    return Transcript(text=" ".join(filter(None, texts)), duration_s=len(samples) / rate)
