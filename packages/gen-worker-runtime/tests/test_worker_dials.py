"""What a worker logs of attempts to connect: what is new, and how many there were."""

from __future__ import annotations

import pytest

from gen_worker.runtime.worker.outbox import Outbox, OutboxLimits
from gen_worker.runtime.worker.phases import Dials, Phases


@pytest.fixture
def dials(caplog: pytest.LogCaptureFixture) -> Dials:
    caplog.set_level("INFO", logger="gen_worker.worker")
    outbox = Outbox(OutboxLimits(), clock=lambda: 0.0, wake=lambda role: None)
    return Dials(Phases(outbox, "w1"))


def fail(dials: Dials, reason: str, address: str = "grpc://a:1") -> None:
    dials.begin(address)
    dials.fail(reason)


def test_each_reason_is_said_once_and_then_counted(
    dials: Dials, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        fail(dials, "UNAVAILABLE: refused")
    said = [message for message in caplog.messages if "worker.startup.phase" not in message]
    assert said[0] == "cannot connect to grpc://a:1: UNAVAILABLE: refused"
    assert said[1:] == [f"{1 << n} attempts to connect have failed" for n in range(1, 10)]
    assert sum("scheduler_connecting" in message for message in caplog.messages) == 1


def test_what_is_new_is_said(dials: Dials, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        fail(dials, "refused")
        fail(dials, "no such name", "grpc://b:1")
        fail(dials, "dial_timeout")
    said = [message for message in caplog.messages if message.startswith("cannot connect")]
    assert said == [
        "cannot connect to grpc://a:1: refused",
        "cannot connect to grpc://b:1: no such name",
        "cannot connect to grpc://a:1: dial_timeout",
    ]


def test_after_a_connection_all_is_new(dials: Dials, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        fail(dials, "refused")
        fail(dials, "refused")
        dials.begin("grpc://a:1")
        dials.succeed()
    assert caplog.messages.count("cannot connect to grpc://a:1: refused") == 2
    assert caplog.messages.count("connected to grpc://a:1 after 2 failed attempts") == 2
    assert sum("scheduler_connecting" in message for message in caplog.messages) == 2
    caplog.clear()
    dials.succeed()
    assert caplog.messages == [], "the first attempt is not worth a line"
