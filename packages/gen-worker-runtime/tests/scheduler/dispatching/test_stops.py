"""A worker is told to stop what it runs for nobody, and nothing that it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime.scheduler.dispatcher.core import Core
from gen_worker.runtime.scheduler.dispatcher.learning import Learning
from gen_worker.runtime.scheduler.dispatcher.losses import Losses
from gen_worker.runtime.scheduler.dispatcher.options import DispatchOptions
from gen_worker.runtime.scheduler.fleet.fleet import Fleet
from gen_worker.runtime.wire import InterruptJob, Registration, Resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from gen_worker.runtime.scheduler.fleet.member import Member


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.is_canceled = False

    def cancel(self) -> None:
        self.is_canceled = True


class Loop:
    """A loop on which time passes when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, _seconds: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(call))
        return self.timers[-1]

    def pass_time(self) -> None:
        due, self.timers = self.timers, []
        for timer in due:
            if not timer.is_canceled:
                timer.call()


class Nothing:
    """Requests that have all ended."""

    def live(self, _request_id: str) -> None:
        return None


class Session:
    """A worker's end of commands."""

    worker_id, release_id = "w1", "r"

    def __init__(self, connection: int) -> None:
        self.connection = connection
        self.sent: list[str] = []

    def send(self, command: Any) -> bool:
        assert isinstance(command, InterruptJob)
        self.sent.append(command.request_id)
        return True


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        fleet = Fleet()
        self.core = Core(fleet, Learning(None), DispatchOptions(), lambda: 0.0)
        self.core.loop, self.core.requests = self.loop, Nothing()  # type: ignore[assignment]
        self.losses = Losses(self.core, None)  # type: ignore[arg-type]
        self.member: Member = fleet.expect("w1", 0.0)

    def register(self, *in_flight: str, connection: int = 1) -> Session:
        session: Any = Session(connection)
        registration = Registration(
            resources=Resources(worker_id="w1"), in_flight_request_ids=in_flight
        )
        self.core.fleet.register(session, registration, 0.0)
        self.losses.registered(self.member, session, registration)
        found: Session = session
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_runs_for_nobody_is_stopped_once(scene: Scene) -> None:
    session = scene.register("a")
    assert not session.sent, "it may be about to answer"
    scene.loop.pass_time()
    scene.loop.pass_time()
    assert session.sent == ["a"]


def test_what_is_answered_after_the_registration_is_not_stopped(scene: Scene) -> None:
    session = scene.register("a", "b")
    scene.losses.answered(scene.member, "b")
    scene.loop.pass_time()
    assert session.sent == ["a"]


def test_what_was_answered_before_the_registration_is_not_stopped(scene: Scene) -> None:
    scene.losses.answered(scene.member, "b")
    session = scene.register("a", "b")
    scene.loop.pass_time()
    assert session.sent == ["a"]


def test_only_the_latest_registration_counts(scene: Scene) -> None:
    first = scene.register("a", "b")
    scene.member.gone()
    second = scene.register("b", connection=2)
    scene.loop.pass_time()
    assert (first.sent, second.sent) == ([], ["b"])
