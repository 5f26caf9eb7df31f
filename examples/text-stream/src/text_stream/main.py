"""A tiny language model - word pairs counted in a text - that streams what it makes up."""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from gen_worker import Clamp, RequestContext, ValidationError, inference_function

CORPUS = (
    "the sea was calm and the wind was cold and the ship was slow and the crew was tired "
    "and the night was long and the light was far and the sea was dark"
)


def count_pairs(text: str) -> dict[str, list[str]]:
    """Return for every word the words that follow it, as often as they do."""
    words = text.split()
    following: dict[str, list[str]] = defaultdict(list)
    for word, successor in itertools.pairwise(words):
        following[word].append(successor)
    return dict(following)


FOLLOWING = count_pairs(CORPUS)


class Prompt(msgspec.Struct):
    start: str = "the"
    words: Annotated[int, Clamp(1, 200)] = 12
    seed: int = 0


class Word(msgspec.Struct):
    text: str


@inference_function
async def write(ctx: RequestContext, payload: Prompt) -> AsyncIterator[Word]:
    """Write on from a word of the corpus; the same seed writes the same text."""
    word = payload.start.strip().lower()
    if word not in FOLLOWING:
        raise ValidationError(f"start with one of {', '.join(sorted(FOLLOWING))}", path="$.start")
    chance = random.Random(payload.seed)
    for done in range(payload.words):
        yield Word(text=word + " ")
        ctx.progress((done + 1) / payload.words)
        if word not in FOLLOWING:
            return
        word = chance.choice(FOLLOWING[word])
        await asyncio.sleep(0)  # a real model would await its next token here
