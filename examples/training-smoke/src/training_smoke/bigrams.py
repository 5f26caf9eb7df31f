"""A language model of 28 x 28 numbers: how likely each character follows each other one."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import NamedTuple

ALPHABET = "abcdefghijklmnopqrstuvwxyz ."
SIZE = len(ALPHABET)
Matrix = list[list[float]]
"""By the character before, then by the one that follows."""

_BASE_TEXT = (
    "the sea was calm and the sky was clear. the men on the ship looked at the stars and "
    "talked of home. nobody knew when the wind would come. the captain read the old charts "
    "and waited. at last the sails moved and the ship went on to the south. "
)
_BETAS = (0.9, 0.999)
_TINY = 1e-8


def zeros() -> Matrix:
    return [[0.0] * SIZE for _ in range(SIZE)]


def pairs_of(text: str) -> list[tuple[int, int]]:
    """Return each character's index with that of the one behind it; others are left out."""
    known = [ALPHABET.index(one) for one in text.lower() if one in ALPHABET]
    return list(pairwise(known))


def base_logits() -> Matrix:
    """Return the base model: what a general text has taught, one count added to each pair."""
    counts = [[1.0] * SIZE for _ in range(SIZE)]
    for before, after in pairs_of(_BASE_TEXT):
        counts[before][after] += 1
    return [[math.log(count) for count in row] for row in counts]


def probabilities(row: list[float]) -> list[float]:
    highest = max(row)
    exponentials = [math.exp(value - highest) for value in row]
    total = sum(exponentials)
    return [value / total for value in exponentials]


class Learned(NamedTuple):
    loss: float
    gradient: Matrix


def learn(logits: Matrix, pairs: list[tuple[int, int]]) -> Learned:
    """Return the mean cross entropy of the pairs, and its gradient."""
    gradient, loss = zeros(), 0.0
    for before, after in pairs:
        row = probabilities(logits[before])
        loss -= math.log(row[after]) / len(pairs)
        for index, value in enumerate(row):
            gradient[before][index] += (value - (index == after)) / len(pairs)
    return Learned(loss, gradient)


class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1)."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.means, self.squares = zeros(), zeros()

    def step(self, logits: Matrix, gradient: Matrix) -> None:
        """Change the logits in place."""
        self.steps += 1
        slow, slower = _BETAS
        for before in range(SIZE):
            for after in range(SIZE):
                slope = gradient[before][after]
                mean = slow * self.means[before][after] + (1 - slow) * slope
                square = slower * self.squares[before][after] + (1 - slower) * slope * slope
                self.means[before][after], self.squares[before][after] = mean, square
                mean /= 1 - slow**self.steps
                square /= 1 - slower**self.steps
                logits[before][after] -= self.learning_rate * mean / (math.sqrt(square) + _TINY)


def write(logits: Matrix, prompt: str, seed: int, length: int = 40) -> str:
    """Go on with a text; the same seed draws the same."""
    draw = random.Random(seed)
    text = prompt
    for _ in range(length):
        known = [one for one in text.lower() if one in ALPHABET]
        row = probabilities(logits[ALPHABET.index(known[-1] if known else " ")])
        text += draw.choices(ALPHABET, row)[0]
    return text
