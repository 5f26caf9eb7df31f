"""Test endpoints in-process: no server, virtual time, scripted failures."""

from gen_worker.testing.clock import VirtualClock
from gen_worker.testing.ports import (
    FakeFiles,
    FakeModels,
    FakePublisher,
    Faults,
    PreparedModel,
    RecordedEvents,
    fake_ports,
)
from gen_worker.testing.results import TesterCall, TesterResult
from gen_worker.testing.tester import EndpointTester

__all__ = [
    "EndpointTester",
    "FakeFiles",
    "FakeModels",
    "FakePublisher",
    "Faults",
    "PreparedModel",
    "RecordedEvents",
    "TesterCall",
    "TesterResult",
    "VirtualClock",
    "fake_ports",
]
