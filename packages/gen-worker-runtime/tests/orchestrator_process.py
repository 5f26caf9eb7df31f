"""An orchestrator that is killed: `python orchestrator_process.py FOLDER ADDRESS`.

It keeps what it knows as those with a database do: `FOLDER/jobs` has the requests to be answered,
one line each, and `FOLDER/heard` what was said about them, each line written before anybody acts on
it. Where it listens is in `FOLDER/address`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.runtime.loop import run
from gen_worker.runtime.wire import JobResult, StreamDone, TokenDelta
from gen_worker.testing.orchestrator import Job, Orchestrator, WorkerSession

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gen_worker.testing.orchestrator import Crossing


class Asked(msgspec.Struct):
    """One line of `jobs`."""

    id: str
    function: str
    payload: dict[str, Any]


class Heard(msgspec.Struct, omit_defaults=True):
    """One line of `heard`."""

    kind: str
    """Name of the message, or `finished` once every request is answered."""
    id: str = ""
    attempt: int = 0
    number: int = 0
    text: str = ""
    payload: bytes = b""
    error_type: str = ""


class Ledger:
    """What was heard, also by those before. It stands between the streams and the orchestrator."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR)
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(whole))  # whoever was killed within a line never said it
        self.before = [msgspec.json.decode(line, type=Heard) for line in whole.splitlines()]

    def write(self, line: Heard) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    async def cross(
        self, crossing: Crossing, deliver: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        message = crossing.message
        job = crossing.orchestrator.jobs.get(getattr(message, "request_id", ""))
        if job is not None:
            line = Heard(
                kind=type(message).__name__, id=job.request.request_id, attempt=job.attempts
            )
            match message:
                case JobResult():
                    line.payload, line.error_type = message.payload, message.error_type
                case TokenDelta():
                    line.number, line.text = message.sequence, message.delta_text
                case StreamDone():
                    line.number = message.sequence
                case _:
                    pass
            self.write(line)
        await deliver()


def restore(job: Job, lines: list[Heard]) -> None:
    """Tell a job what was heard of its last attempt."""
    job.attempts = max((line.attempt for line in lines), default=0)
    for line in lines:
        if line.attempt == job.attempts:
            match line.kind:
                case "JobResult":
                    job._heard(
                        JobResult(
                            request_id=line.id,
                            success=not line.error_type,
                            payload=line.payload,
                            error_type=line.error_type,
                        )
                    )
                case "TokenDelta":
                    job._heard(
                        TokenDelta(request_id=line.id, delta_text=line.text, sequence=line.number)
                    )
                case "StreamDone":
                    job._heard(StreamDone(request_id=line.id, sequence=line.number))


async def main(folder: Path, listen: str) -> None:
    ledger = Ledger(folder / "heard")
    orchestrator = Orchestrator(listen, faults=ledger)
    worker = orchestrator.workers["worker-1"] = WorkerSession("worker-1", orchestrator)
    for data in (folder / "jobs").read_bytes().splitlines():
        asked = msgspec.json.decode(data, type=Asked)
        job = orchestrator.job(asked.function, asked.payload, request_id=asked.id)
        restore(job, [line for line in ledger.before if line.id == asked.id])
        if not job.is_finished:
            worker.assigned[asked.id] = job  # given to the worker unless it has it already
    async with orchestrator:
        (folder / "address.new").write_text(orchestrator.address)
        (folder / "address.new").rename(folder / "address")
        jobs = orchestrator.jobs.values()
        await orchestrator.until(lambda: all(job.is_finished for job in jobs), timeout_s=120)
        ledger.write(Heard(kind="finished"))
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(Path(sys.argv[1]), sys.argv[2]))
