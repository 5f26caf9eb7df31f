"""Both clients over a network that breaks at any byte: nothing is missed, nothing runs twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Host, Network, Open

pytestmark = pytest.mark.chaos


def test_a_stream_goes_on_where_it_broke(
    host: Host, network: Network, open_client: Open, seed: int
) -> None:
    chance = random.Random(seed)
    client = open_client(network.url)
    found: list[int] = []
    network.cut_after(chance.randrange(1, 3000))
    for item in client.stream("count", count=400, text="once"):
        found.append(item["count"])
        if chance.random() < 0.03:
            network.cut_after(chance.randrange(1, 3000))
    assert found == list(range(400))
    assert host.stage.runs["once"] == 1
    assert network.cable.connections > 1


def test_a_call_whose_answer_is_lost_runs_once(
    host: Host, network: Network, open_client: Open, seed: int
) -> None:
    chance = random.Random(seed)
    client = open_client(network.url)
    for number in range(12):
        network.cut_after(chance.randrange(1, 900))
        name = f"call {number}"
        assert client.run("echo", text=name)["text"] == name
        assert host.stage.runs[name] == 1


def test_a_request_whose_acceptance_is_lost_is_started_once(
    host: Host, network: Network, open_client: Open, seed: int
) -> None:
    chance = random.Random(seed)
    client = open_client(network.url)
    for number in range(12):
        network.cut_after(chance.randrange(1, 900))
        name = f"request {number}"
        request = client.submit("echo", text=name)
        network.cut_after(chance.randrange(1, 900))
        assert request.result()["text"] == name
        assert host.stage.runs[name] == 1


def test_a_host_that_is_away_for_a_while(host: Host, network: Network, open_client: Open) -> None:
    client = open_client(network.url)
    items = client.stream("count", count=3000, text="once")
    found = [next(items)["count"] for _ in range(3)]
    network.refuse(True)
    network.cut()
    network.refuse(False)
    found += [item["count"] for item in items]
    assert found == list(range(3000))
    assert host.stage.runs["once"] == 1


def test_files_arrive_whole(
    host: Host, network: Network, open_client: Open, tmp_path: Any, seed: int
) -> None:
    chance = random.Random(seed)
    client = open_client(network.url)
    content = chance.randbytes(400_000)
    (tmp_path / "in.bin").write_bytes(b"hello" + content)
    # Some of it arrives each time: a download continues, an upload begins anew.
    network.cut_after(200_000)
    facts = client.run("look", image=tmp_path / "in.bin")
    for _ in range(3):
        network.cut_after(chance.randrange(1, 400_000))
        client.download(facts["saved"], tmp_path / "out.bin")
        assert (tmp_path / "out.bin").read_bytes() == b"hello" + content
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
