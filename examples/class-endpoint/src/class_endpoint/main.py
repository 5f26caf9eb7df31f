"""A search index: built once in `setup`, warmed up, used by two functions, closed in `shutdown`."""

import math
import sqlite3
from collections import Counter
from typing import Annotated

import msgspec
from gen_worker import Clamp, RequestContext, ValidationError, inference, invocable

ARTICLES = {
    "tides": "The tide is the rise and fall of the sea caused by the moon and the sun.",
    "moon": "The moon is the only natural satellite of the earth and causes the tide.",
    "sun": "The sun is the star at the centre of the solar system.",
    "rust": "Rust is the reddish oxide that forms when iron meets water and air.",
}


class Question(msgspec.Struct):
    query: str
    limit: Annotated[int, Clamp(1, 10)] = 3


class Hit(msgspec.Struct):
    title: str
    score: float


class Hits(msgspec.Struct):
    hits: list[Hit]


class Title(msgspec.Struct):
    title: str


class Article(msgspec.Struct):
    title: str
    text: str


def words_of(text: str) -> list[str]:
    return "".join(c.lower() if c.isalnum() else " " for c in text).split()


@inference
class Library:
    """One instance lives as long as the endpoint; its functions share what `setup` made."""

    def setup(self) -> None:
        self.index = {title: Counter(words_of(text)) for title, text in ARTICLES.items()}
        self.rarity = {
            word: math.log(len(self.index) / sum(word in counts for counts in self.index.values()))
            for counts in self.index.values()
            for word in counts
        }
        self.store = sqlite3.connect(":memory:", check_same_thread=False)
        self.store.execute("create table article (title text primary key, text text)")
        self.store.executemany("insert into article values (?, ?)", ARTICLES.items())

    def warmup(self) -> None:
        """Runs once after `setup`, so that the first caller does not pay for cold caches."""
        self._rank("tide", 1)

    def shutdown(self) -> None:
        self.store.close()

    @invocable
    def search(self, ctx: RequestContext, payload: Question) -> Hits:
        """Rank articles by the rare words they share with the query."""
        if not payload.query.strip():
            raise ValidationError("query is empty", path="$.query")
        return Hits(hits=self._rank(payload.query, payload.limit))

    @invocable
    def read(self, ctx: RequestContext, payload: Title) -> Article:
        """Return one article by its title."""
        row = self.store.execute(
            "select title, text from article where title = ?", [payload.title]
        ).fetchone()
        if row is None:
            raise ValidationError(f"no article {payload.title!r}: search for one", path="$.title")
        return Article(*row)

    def _rank(self, query: str, limit: int) -> list[Hit]:
        scores = {
            title: sum(counts[word] * self.rarity.get(word, 0.0) for word in words_of(query))
            for title, counts in self.index.items()
        }
        best = sorted(scores, key=lambda title: (-scores[title], title))[:limit]
        return [Hit(title, round(scores[title], 3)) for title in best if scores[title] > 0]
