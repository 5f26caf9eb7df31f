"""Many calls at a time."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import errors
from gen_worker.client import AsyncClient, CallError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from conftest import Host


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


def counted(limit: int, taken: list[int]) -> Iterator[dict[str, Any]]:
    for number in range(limit):
        taken.append(number)
        yield {"count": number}


@pytest.mark.parametrize("ordered", [True, False])
def test_every_payload_has_its_output(client: Any, ordered: bool) -> None:
    outputs = client.map("echo", counted(40, []), concurrency=5, ordered=ordered, result_type=Text)
    found = [output.count for output in outputs]
    assert (found if ordered else sorted(found)) == list(range(40))
    assert list(client.map("echo", [])) == []


def test_payloads_without_end_are_taken_as_they_are_needed(client: Any) -> None:
    taken = itertools.count()
    outputs = client.map("echo", ({"count": n} for n in taken), concurrency=3)
    assert [next(outputs)["count"] for _ in range(10)] == list(range(10))
    outputs.close()
    assert next(taken) <= 10 + 4 * 3 + 1


def test_only_so_many_run_at_a_time(host: Host, client: Any) -> None:
    outputs = client.map("gated", ({"text": str(n)} for n in range(9)), concurrency=3)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(outputs))
    thread.start()
    heard = {host.stage.said.get(timeout=60) for _ in range(3)}
    assert heard == {"0", "1", "2"}
    assert host.stage.running == 3
    host.stage.gate.set()
    thread.join(60)
    assert [output["text"] for output in found] == [str(n) for n in range(9)]
    assert host.stage.most_running == 3


def test_an_error_ends_it_or_takes_the_place_of_an_output(client: Any) -> None:
    payloads = [{"text": "value"}, {"text": "fatal"}]
    with pytest.raises(errors.ValidationError):
        list(client.map("fail", payloads))
    found = list(client.map("fail", payloads, return_errors=True))
    assert isinstance(found[0], errors.ValidationError)
    assert isinstance(found[1], errors.FatalError)
    assert all(isinstance(error, CallError) for error in found)
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        client.map("echo", [], concurrency=0)


def test_an_iterable_that_fails_fails_it(client: Any) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"count": 1}
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(client.map("echo", broken()))


def test_who_stops_cancels_what_runs(host: Host, client: Any) -> None:
    def first(number: int) -> dict[str, Any]:
        return {"count": number}

    outputs = client.map("hold-all-but-0", map(first, itertools.count()), concurrency=3)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(next(outputs)["count"]))
    thread.start()
    assert [host.stage.said.get(timeout=60) for _ in range(2)] == ["holding"] * 2
    host.stage.gate.set()
    thread.join(60)
    assert found == [0]
    outputs.close()
    assert [host.stage.said.get(timeout=60) for _ in range(2)] == ["caller"] * 2


async def test_payloads_may_be_async(host: Host) -> None:
    async def payloads() -> AsyncIterator[dict[str, Any]]:
        for number in range(5):
            yield {"count": number}

    async with AsyncClient(host.url) as client:
        found = [output["count"] async for output in client.map("echo", payloads())]
    assert found == list(range(5))
