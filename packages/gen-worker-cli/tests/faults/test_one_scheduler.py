"""One scheduler has a folder, one request has a key, and a full disk loses nothing."""

from __future__ import annotations

import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gen_worker.client import Client, RetryPolicy

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.one_python

APP = """
import msgspec
from gen_worker import RequestContext, inference_function

class Item(msgspec.Struct):
    number: int

@inference_function
def quick(ctx: RequestContext, payload: Item) -> Item:
    return Item(2 * payload.number)
"""
WITHOUT_ROOM = """
import os, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
os.execv(sys.argv[1], sys.argv[1:])
"""
PATIENT = RetryPolicy(attempts=1000, first_s=0.02, max_s=0.2)


@pytest.mark.chaos
def test_of_many_schedulers_on_a_folder_one_serves(site: Site, seed: int) -> None:
    """The others say who does; once it is killed one of the next has its turn."""
    rng = random.Random(seed)
    site.start()
    for _ in range(2):
        first, rivals = site.scheduler, [site.rival() for _ in range(3)]
        for rival in rivals:
            time.sleep(rng.random() * 0.2)
            rival.start()
        time.sleep(rng.random() * 0.7)
        first.kill()
        serving = [rival for rival in rivals if rival.line_or_end()]
        assert len(serving) <= 1
        pids = {first.pid, *(one.pid for one in rivals)}
        for rival in rivals:
            if rival not in serving:
                assert rival.wait() == 1
                said = rival.log.read_text()
                assert any(f"process {pid} has" in said for pid in pids), said
            rival.kill()
        site.start()
    assert site.ask("GET", "/readyz")["ready"]


@pytest.mark.chaos
def test_a_key_is_one_request_whoever_asks_and_whatever_dies(site: Site, seed: int) -> None:
    rng = random.Random(seed)
    site.start()
    site.deploy(APP)
    keys = [f"key-{number}" for number in range(6)]

    def ask(name: str) -> dict[str, str]:
        with Client(site.url, retry=PATIENT) as client:
            return {
                key: client.submit("quick", {"number": number}, idempotency_key=key).id
                for number, key in enumerate(keys)
            }

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(ask, name) for name in "abcd"]
        for _ in range(2):
            time.sleep(rng.random() * 0.2)
            site.scheduler.kill()
            site.start()
        found = [one.result() for one in asked]
    assert found == found[:1] * 4
    assert len(set(found[0].values())) == len(keys)
    assert site.ask("GET", "/v1/status")["scheduler"]["unfinished"] == len(keys)
    assert site.refusal("quick", {"number": 99}, key=keys[0])[0] == 409
    site.add_worker()
    outputs = [site.ended(found[0][key])["output"] for key in keys]
    assert outputs == [{"number": 2 * number} for number in range(len(keys))]


def test_a_full_disk_takes_nothing_and_loses_nothing(site: Site) -> None:
    site.start()
    site.deploy(APP)
    site.add_worker()
    first = site.ended(site.submit("quick", {"number": 1}))
    waiting = [site.submit("quick", {"number": number}) for number in range(20)]
    site.scheduler.fill_disk(is_full=True)
    for key in ("", "some-key"):
        code, retry_after, told = site.refusal("quick", {"number": 99}, key)
        assert (code, int(retry_after) > 0, told["retryable"]) == (503, True, True)
    assert site.ask("GET", f"/v1/requests/{first['request_id']}")["output"] == {"number": 2}
    site.scheduler.fill_disk(is_full=False)
    outputs = [site.ended(request_id)["output"] for request_id in waiting]
    assert outputs == [{"number": 2 * number} for number in range(20)]
    assert site.ended(site.submit("quick", {"number": 9}))["output"] == {"number": 18}
    site.drained()


def test_a_full_disk_at_the_start_harms_nothing(site: Site) -> None:
    site.start()
    site.deploy(APP)
    waiting = site.submit("quick", {"number": 4})
    site.scheduler.kill()
    full = site.rival(sys.executable, "-c", WITHOUT_ROOM)
    full.start()
    full.line_or_end()
    full.kill()
    site.start()
    site.add_worker()
    assert site.ended(waiting)["output"] == {"number": 8}


def test_what_a_worker_had_that_fell_silent_is_run_by_another(
    site: Site, pytestconfig: pytest.Config
) -> None:
    """It is connected and says nothing more: the network is there, and it is not."""
    if pytestconfig.getoption("seeds") < 30:
        pytest.skip("takes most of a minute: `nox -s chaos` runs it")
    site.start()
    site.deploy(APP)
    silent = site.add_worker()
    site.ended(site.submit("quick", {"number": 1}))
    silent.send(signal.SIGSTOP)
    requests = [site.submit("quick", {"number": number}) for number in range(5)]
    site.add_worker()
    outputs = [site.ended(request_id)["output"] for request_id in requests]
    assert outputs == [{"number": 2 * number} for number in range(5)]
    silent.send(signal.SIGCONT)
    site.drained()
