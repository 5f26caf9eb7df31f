"""The kit itself: scripts, plans, cables, pools and fixtures do what they say."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gen_worker import RequestContext, inference_function
from gen_worker.runtime.wire import JobRequest, JobResult
from gen_worker.testing import VirtualClock
from gen_worker.testing.faults import Fault, StreamFaults, random_faults
from gen_worker.testing.pool import Pool

pytest_plugins = ["gen_worker.testing.fixtures"]


class Text(msgspec.Struct):
    text: str = ""


@inference_function
async def echo(ctx: RequestContext, payload: Text) -> Text:
    ctx.emit("echoing", {"length": len(payload.text)})
    return payload


@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for letter in payload.text:
        yield Text(letter)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as pool:
        pool.add([echo, spell])
        yield pool


def test_a_pool_runs_jobs(pool: Pool) -> None:
    job = pool.submit("echo", {"text": "hi"})
    assert job.output() == {"text": "hi"}
    assert msgspec.json.decode(job.wait_for_event("echoing").payload_json)["length"] == 2
    spelled = pool.submit("spell", {"text": "abc"})
    assert spelled.output() is None
    assert spelled.text == "abc"
    assert [delta.sequence for delta in spelled.deltas] == [*range(1, len(spelled.deltas) + 1)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_dropped_connection_costs_no_result(pool: Pool, after: bool) -> None:
    pool.faults.drop(JobResult, after=after)
    job = pool.submit("echo", {"text": "hi"})
    assert job.output() == {"text": "hi"}
    right = Fault(kind="drop_after" if after else "drop_before", message="JobResult")
    assert pool.faults.happened == [right]
    assert job.attempts == 1


def test_a_job_that_is_lost_on_its_way_is_given_again(pool: Pool) -> None:
    pool.faults.drop(JobRequest)
    job = pool.submit("echo", {"text": "hi"})
    assert job.output() == {"text": "hi"}
    assert job.attempts == 2


def test_faults_are_counted_by_kind_and_number(pool: Pool) -> None:
    seen: list[str] = []
    pool.faults.duplicate(JobResult, 2)
    pool.faults.call(JobRequest, lambda: seen.append("second job"), 2)
    pool.faults.call(JobRequest, lambda: seen.append("each"), 0, after=False)
    for _ in range(3):
        pool.submit("echo").output()
    assert seen == ["each", "each", "second job", "each"]
    assert [fault.kind for fault in pool.faults.happened] == ["duplicate"]


def test_an_orchestrator_comes_back_with_what_it_knew(pool: Pool) -> None:
    pool.faults.restart(JobRequest, seconds=0.05)
    address = pool.address
    assert pool.submit("echo", {"text": "still"}).output() == {"text": "still"}
    pool.restart()
    assert pool.submit("echo", {"text": "here"}).output() == {"text": "here"}
    assert pool.address == address


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    plan = random_faults(7, count=20, messages=100)
    assert (
        plan == random_faults(7, count=20, messages=100) != random_faults(8, count=20, messages=100)
    )
    assert eval(repr(plan), {"Fault": Fault}) == plan  # printed, it can be copied into a test
    assert StreamFaults(plan).happened == []


CODE = """
from collections.abc import Iterator
import msgspec
from gen_worker import RequestContext, inference_function

class Text(msgspec.Struct):
    text: str = ""

@inference_function
def spell(ctx: RequestContext, payload: Text) -> Iterator[Text]:
    for letter in payload.text:
        yield Text(letter)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "endpoint.toml").write_text('schema_version = 1\nname = "s"\nmain = "spelling"\n')
    (tmp_path / "spelling.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize("message", [JobRequest, JobResult])
def test_a_worker_that_is_killed_leaves_its_job_to_its_successor(
    project: Path, worker_pool: Pool, message: type[JobRequest] | type[JobResult]
) -> None:
    process = worker_pool.start(project)

    def kill() -> None:
        process.kill()
        process.start()

    # A result is lost with the worker: nobody but it knew.
    worker_pool.faults.call(message, kill, after=message is JobRequest)
    worker_pool.faults.drop(message) if message is JobResult else None
    job = worker_pool.submit("spell", {"text": "again"})
    job.result()
    assert job.text == "again"
    assert job.attempts == 2
    assert process.terminate() == 0


def test_both_ends_are_killed(project: Path, worker_pool: Pool) -> None:
    process = worker_pool.start(project)
    worker_pool.faults.call(JobRequest, process.kill)
    worker_pool.faults.restart(JobRequest)
    job = worker_pool.submit("spell", {"text": "both"})
    worker_pool.wait_until_alone()
    process.start()
    job.result()
    assert job.text == "both"


def test_the_clock_of_the_plugin(virtual_clock: VirtualClock) -> None:
    before = virtual_clock.now()
    virtual_clock.advance(60)
    assert virtual_clock.now() - before == 60


def test_importing_the_plugin_imports_no_transport() -> None:
    code = "import sys, gen_worker.testing.fixtures; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
