"""A model that is described anew while it is fetched is fetched as described last."""

import asyncio
from typing import Any, cast

import pytest

from gen_worker.runtime.wire import ResolvedRepo
from gen_worker.runtime.worker.catalog import ModelBook
from gen_worker.runtime.worker.endpoint_config import EndpointState
from gen_worker.runtime.worker.fetching import Fetching

REF = "acme/paint"


def described(digest: str) -> EndpointState:
    return EndpointState(repos={REF: ResolvedRepo(snapshot_digest=digest)}, required=(REF,))


class Scene:
    """An orchestrator that changes its mind while a model is on its way, and the models."""

    def __init__(self, *digests: str) -> None:
        self.state = described(digests[0])
        self._next = list(digests[1:])
        self.fetched: list[str] = []

    async def fetch(self, choice: Any, request: Any) -> None:
        digest = self.state.repos[REF].snapshot_digest
        self.fetched.append(digest)
        if self._next:
            self.state = described(self._next.pop(0))
        if digest == "gone":
            raise LookupError("there is no such snapshot")


@pytest.mark.parametrize(
    ("digests", "end"),
    [(["gone", "good"], "here"), (["gone", "gone"], "failed"), (["gone"], "failed")],
)
async def test_a_failure_counts_for_what_was_described_then(digests: list[str], end: str) -> None:
    scene, book, settled = Scene(*digests), ModelBook(()), asyncio.Event()
    book[REF] = "waiting"
    fetching = Fetching(
        cast("Any", scene),
        book,
        lambda: scene.state,
        parallel=1,
        landed=lambda ref: None,
        settled=settled.set,
        pauses_s=(),
    )
    fetching.start()
    async with asyncio.timeout(60):
        await settled.wait()
    assert book[REF] == end
    assert scene.fetched == list(dict.fromkeys(digests))
    await fetching.close()
