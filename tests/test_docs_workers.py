"""What docs/workers.md and docs/protocol.md say of commands, messages and numbers is so."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gen_worker.pb.worker_scheduler_pb2 import WorkerSchedulerMessage
from gen_worker.runtime.engine import EngineLimits
from gen_worker.runtime.wire import (
    MAX_OUTPUT_BYTES,
    MAX_RECEIVE_BYTES,
    METHODS,
    Inbound,
    decode,
    role_of,
)
from gen_worker.runtime.worker import states
from gen_worker.runtime.worker.options import WorkerOptions
from gen_worker.runtime.worker.outbox import OutboxLimits
from gen_worker.runtime.worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
WORKERS = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
_KIB, _MIB = 1024, 1024**2


def section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row below a table's head."""
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if "---" not in row[0]][1:]


def commands(block: str) -> list[str]:
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def free_port() -> int:
    """Return a port below those that the system itself gives to other programs meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port is taken")


def test_two_terminals_do_what_they_show(tmp_path: Path) -> None:
    first, second = re.findall(
        r"^```console\n(.*?)^```", section(WORKERS, "On a laptop"), re.M | re.S
    )
    shutil.copytree(ROOT / "examples" / "marco-polo", tmp_path / "examples" / "marco-polo")
    address = f"127.0.0.1:{free_port()}"
    *before, start = commands(first)
    script = "\n".join(["set -e", *before, f"exec {start}"]).replace("127.0.0.1:8080", address)
    (call,) = commands(second)
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    with open(tmp_path / "log", "wb") as log:
        worker = subprocess.Popen(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        answer = subprocess.run(
            ["bash", "-c", call.replace("127.0.0.1:8080", address)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, (tmp_path / "log").read_text()
    finally:
        worker.kill()
    shown = "".join(line for line in second.splitlines(keepends=True) if line[:2] != "$ ")
    pattern = re.escape(shown).replace("…", ".*")
    assert re.fullmatch(pattern, answer.stdout), (answer, (tmp_path / "log").read_text())
    assert answer.returncode == 0


def test_every_message_is_in_the_table_with_its_stream() -> None:
    told = {
        name.strip("`"): (end, role) for name, end, role, _ in rows(section(PROTOCOL, "Messages"))
    }
    actual = {}
    for field in WorkerSchedulerMessage.DESCRIPTOR.oneofs_by_name["msg"].fields:
        envelope = WorkerSchedulerMessage()
        getattr(envelope, field.name).SetInParent()
        message = decode(envelope.SerializeToString())
        assert message is not None
        end = "orchestrator" if isinstance(message, Inbound) else "worker"
        actual[field.name] = (end, role_of(message))
    # Both ends send events in principle; a token is replaced by one.
    actual["worker_event"] = ("worker", "events")
    assert told == actual


def test_every_stream_is_in_the_table() -> None:
    told = {
        role.strip("`"): path.strip("`") for path, role, _ in rows(section(PROTOCOL, "Streams"))
    }
    assert told == dict(METHODS)


def test_the_numbers_are_those_of_the_code() -> None:
    worker, outbox, engine = WorkerOptions(), OutboxLimits(), EngineLimits()
    settings, policy = WorkerSettings(), states.LinkPolicy(seeds=())
    delays = (settings.reconnect_delay_s, settings.reconnect_max_delay_s)
    most_min = settings.silence_timeout_s * states.MAX_PATIENCE / 60
    assert {what: value for what, value, _ in rows(section(PROTOCOL, "Numbers"))} == {
        "heartbeat": f"{worker.heartbeat_s:g} s",
        "silence before a new connection": (
            f"{settings.silence_timeout_s:g} s; twice as long each time, up to {most_min:g} min, "
            "when nothing but the registration is ever answered"
        ),
        "an open stream is a connection after": f"{policy.grace_s:g} s, or its first message",
        "first registration": f"{settings.register_timeout_s:g} s",
        "pause before dialing again": "{:g} s to {:g} s".format(*delays),
        "redirects in a row": str(states.MAX_REDIRECTS),
        "largest message to a worker": f"{MAX_RECEIVE_BYTES // _MIB} MiB",
        "largest result, largest audio of one delta": f"{MAX_OUTPUT_BYTES // _MIB} MiB",
        "streamed output that waits, of one request": f"{outbox.max_output_bytes // _KIB} KiB",
        "streamed output that waits, of all": f"{outbox.max_total_output_bytes // _MIB} MiB",
        "events that wait": str(outbox.max_telemetry),
        "signals and answers to commands that wait; then the oldest goes": str(outbox.max_signals),
        "JSON of one delta": f"{engine.max_output_delta_bytes // _KIB} KiB",
        "jobs that wait": str(engine.max_queue),
    }
    prose = (
        (f"after it, or {outbox.max_doubt_bytes // _MIB} MiB were", outbox.max_doubt_bytes),
        (f"lived on for {outbox.settle_s:g} s after it", outbox.settle_s),
        (f"waits {worker.renewal_s:g} s for a new configuration", worker.renewal_s),
        (f"has not stopped after {engine.grace_s:g} s", engine.grace_s),
        (f"on {worker.times.grace_s:g} s for functions that do not stop", worker.times.grace_s),
        (f"(their jobs are answered after {engine.grace_s:g})", engine.grace_s),
        (f"{worker.times.flush_s:g} s for writing", worker.times.flush_s),
    )
    words = " ".join(PROTOCOL.split())
    assert [sentence for sentence, _ in prose if sentence not in words] == []


def test_every_reason_and_status_is_said_by_the_sources() -> None:
    jobs, draining = section(PROTOCOL, "Jobs"), section(PROTOCOL, "Draining")
    cells = [cell for row in rows(jobs) for cell in row[:3]]
    told = {word for cell in cells for word in re.findall(r"`([a-z_]+)`", cell)}
    told |= {word for word in re.findall(r"`([a-z]+(?:_[a-z]+)*)`", draining) if word[-3:] != "cmd"}
    sources = "".join(path.read_text() for path in ROOT.glob("packages/*/src/**/*.py"))
    fields = {"loading_functions", "terminate_after_deadline"}
    assert len(told) > 20
    assert {word for word in told - fields if f'"{word}"' not in sources} == set()


@pytest.mark.parametrize("page", [WORKERS, PROTOCOL], ids=["workers", "protocol"])
def test_every_variable_that_is_named_exists(page: str) -> None:
    tables = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    foreign = {"CUDA_VISIBLE_DEVICES", "SSL_CERT_FILE", "FAILED_PRECONDITION"}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", page)) - foreign
    assert {name for name in named if name not in tables} == set()
