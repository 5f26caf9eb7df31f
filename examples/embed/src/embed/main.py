"""Embeds sentences, many callers at once, and ranks texts by their meaning."""

from typing import Annotated

import msgspec
from gen_worker import Repo, RequestContext, inference, inference_function, invocable

from embed.encoder import SentenceEncoder

ENCODER = Repo("encoder", "demo/all-minilm-l6-v2")

Texts = Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]


class Sentence(msgspec.Struct):
    text: str


class Embedding(msgspec.Struct):
    vector: list[float]


class Question(msgspec.Struct):
    query: str
    texts: Texts


class Match(msgspec.Struct):
    text: str
    similarity: float


class Matches(msgspec.Struct):
    matches: list[Match]


@inference(models={"encoder": ENCODER}, batch_window_ms=5, max_batch=32)
class Embedder:
    """Collects the calls of a few milliseconds and embeds them in one pass of the model."""

    def setup(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder

    @invocable
    def embed(self, ctx: list[RequestContext], payload: list[Sentence]) -> list[Embedding]:
        """Return a text's vector of 384 numbers; its length is 1."""
        vectors = self.encoder.encode([sentence.text for sentence in payload])
        return [Embedding(vector) for vector in vectors]


@inference_function(models={"encoder": ENCODER})
def rank(ctx: RequestContext, encoder: SentenceEncoder, payload: Question) -> Matches:
    """Order texts by how close they are to a query."""
    query, *vectors = encoder.encode([payload.query, *payload.texts])
    similarities = [sum(a * b for a, b in zip(query, one, strict=True)) for one in vectors]
    matches = map(Match, payload.texts, similarities)
    return Matches(sorted(matches, key=lambda match: -match.similarity))
