"""The life of a connection, on paper: events in, effects out, no clock and no network."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.worker.addresses import Address, parse_address
from gen_worker.runtime.worker.backoff import Backoff
from gen_worker.runtime.worker.states import (
    Connected,
    Dial,
    Effect,
    Event,
    Exit,
    Finish,
    HangUp,
    Heard,
    LinkPolicy,
    LinkState,
    Lost,
    Opened,
    Started,
    Stopped,
    Ticked,
    transition,
    wake_at,
)

A, B = parse_address("a:1"), parse_address("b:2")


class Line:
    """A state, a time and a policy; remembers every effect."""

    def __init__(self, **policy: Any) -> None:
        policy = {"seeds": (A,), "backoff": Backoff(0.1, 1.0, 0.0)} | policy
        self.policy = LinkPolicy(**policy)
        self.state = LinkState()
        self.now = 100.0
        self.effects: list[Effect] = []

    def feed(self, event: Event) -> tuple[Effect, ...]:
        self.state, effects = transition(
            self.state, event, now=self.now, policy=self.policy, random=lambda: 0.5
        )
        self.effects += effects
        return effects

    def wait(self) -> tuple[Effect, ...]:
        """Let time pass until something is due."""
        due = wake_at(self.state, self.policy)
        assert due is not None, "nothing is due any more"
        self.now = max(self.now, due)
        return self.feed(Ticked())

    def establish(self) -> None:
        self.feed(Started())
        self.feed(Opened(1))
        self.feed(Heard(1))
        assert self.state.phase == "established"

    @property
    def exit_phase(self) -> str:
        return self._exit.phase

    @property
    def exit_detail(self) -> str:
        return self._exit.detail

    @property
    def _exit(self) -> Exit:
        ends = [effect.exit for effect in self.effects if isinstance(effect, Finish)]
        return ends[0] if ends else Exit(0, "")


def test_a_connection_is_established_by_a_word_from_the_other_end() -> None:
    line = Line()
    assert line.feed(Started()) == (Dial(1, A),)
    assert line.feed(Opened(1)) == ()
    assert line.feed(Heard(1)) == (Connected(1),)
    assert line.feed(Heard(1)) == ()


def test_a_silent_connection_is_established_once_it_has_lived_a_while() -> None:
    line = Line(grace_s=2.0)
    line.feed(Started())
    line.feed(Opened(1))
    assert line.wait() == (Connected(1),)
    assert line.now == 102.0


def test_a_connection_that_opens_and_breaks_is_a_failure() -> None:
    line = Line()
    line.feed(Started())
    line.feed(Opened(1))
    assert line.feed(Lost(1, "UNAVAILABLE")) == (HangUp(1, "UNAVAILABLE"),)
    assert line.state.failures == 1


def test_waits_double_up_to_the_bound_and_end_with_a_connection() -> None:
    line = Line(register_timeout_s=0)
    line.feed(Started())
    waits = []
    for number in range(1, 7):
        line.feed(Lost(number, "UNAVAILABLE"))
        waits.append(line.state.resumes_at - line.now)
        line.wait()
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    line.feed(Heard(7))
    line.feed(Lost(7))
    assert line.state.resumes_at - line.now == pytest.approx(0.1)


def test_a_clean_end_is_answered_like_an_error() -> None:
    line = Line()
    line.establish()
    assert line.feed(Lost(1, "OK")) == (HangUp(1, "OK"),)
    assert line.state.phase == "waiting"


def test_seeds_are_dialed_in_turn() -> None:
    line = Line(seeds=(A, B))
    line.feed(Started())
    for number in range(1, 4):
        line.feed(Lost(number))
        line.wait()
    dialed = [effect.address for effect in line.effects if isinstance(effect, Dial)]
    assert dialed == [A, B, A, B]


def test_news_of_an_older_connection_change_nothing() -> None:
    line = Line()
    line.establish()
    line.feed(Lost(1))
    line.wait()
    before = line.state
    for event in (Heard(1), Lost(1), Opened(1)):
        assert line.feed(event) == ()
    assert line.state == before


def test_a_redirect_is_dialed_at_once_and_once() -> None:
    line = Line(follows_redirects=True)
    line.establish()
    assert line.feed(Lost(1, "FAILED_PRECONDITION", "not_leader:c:443")) == (
        HangUp(1, "redirect"),
        Dial(2, Address("c:443", True)),
    )
    line.feed(Lost(2))
    assert line.wait() == (Dial(3, A),)


def test_redirects_are_ignored_where_only_configured_addresses_count() -> None:
    line = Line()
    line.establish()
    line.feed(Lost(1, "FAILED_PRECONDITION", "not_leader:c:443"))
    assert line.wait() == (Dial(2, A),)


def test_a_redirect_to_nowhere_is_a_failure() -> None:
    line = Line(follows_redirects=True)
    line.establish()
    line.feed(Lost(1, "FAILED_PRECONDITION", "not_leader:nowhere"))
    assert line.state.phase == "waiting"


@pytest.mark.parametrize("is_heard", [True, False])
def test_five_redirects_in_a_row_are_the_most(is_heard: bool) -> None:
    line = Line(follows_redirects=True)
    line.feed(Started())
    for number in range(1, 7):
        line.feed(Opened(number))
        if is_heard:  # each takes the worker in, and sends it on at once
            line.feed(Heard(number))
        line.feed(Lost(number, "FAILED_PRECONDITION", "not_leader:b:2"))
    assert line.exit_phase == "scheduler_connect_failed"
    assert sum(isinstance(effect, Dial) for effect in line.effects) == 6


def test_redirects_far_apart_are_no_chain() -> None:
    line = Line(follows_redirects=True)
    line.feed(Started())
    for number in range(1, 20):
        line.feed(Heard(number))
        line.now += 30
        line.feed(Lost(number, "FAILED_PRECONDITION", "not_leader:b:2"))
    assert line.state.phase == "dialing"


def test_a_protocol_that_nobody_speaks_ends_the_worker() -> None:
    line = Line()
    line.feed(Started())
    line.feed(Lost(1, "FAILED_PRECONDITION", "unsupported_worker_protocol: 1.9"))
    assert line.exit_phase == "scheduler_protocol_incompatible"


def test_half_open_connections_are_left() -> None:
    line = Line(silence_timeout_s=60)
    line.establish()
    line.now = 130.0
    line.feed(Heard(1))
    assert line.wait() == (HangUp(1, "half_open"),)
    assert line.now == 190.0


def silences(line: Line, count: int, *, answer_s: float | None = 0.5) -> list[float]:
    """Let the other end only answer the registration; return how long each silence was borne."""
    borne = []
    for _ in range(count):
        (dialed,) = [effect for effect in line.wait() if isinstance(effect, Dial)]
        line.feed(Opened(dialed.connection))
        if answer_s is not None:
            line.now += answer_s
            line.feed(Heard(dialed.connection))
        else:
            assert line.wait() == (Connected(dialed.connection),)
        since = line.state.heard_at
        assert line.wait() == (HangUp(dialed.connection, "half_open"),)
        borne.append(round(line.now - since, 6))
    return borne


@pytest.mark.parametrize("answer_s", [0.5, None])
def test_a_silent_orchestrator_is_asked_ever_less_often(answer_s: float | None) -> None:
    line = Line(silence_timeout_s=60)
    line.establish()
    assert line.wait() == (HangUp(1, "half_open"),)
    assert silences(line, 6, answer_s=answer_s) == [120, 240, 480, 480, 480, 480]


@pytest.mark.parametrize("how", ["word", "loss"])
def test_an_orchestrator_that_speaks_or_breaks_off_is_expected_to_speak_again(how: str) -> None:
    line = Line(silence_timeout_s=60)
    line.establish()
    line.wait()
    assert silences(line, 2) == [120, 240]
    line.wait()
    line.feed(Opened(4))
    line.feed(Heard(4))
    line.now += 30
    if how == "word":
        line.feed(Heard(4))
        assert line.wait() == (HangUp(4, "half_open"),)
        assert line.now == pytest.approx(line.state.heard_at + 60)
    else:
        line.feed(Lost(4, "UNAVAILABLE"))
        line.wait()
        line.feed(Opened(5))
        line.feed(Heard(5))
        assert line.wait() == (HangUp(5, "half_open"),)
        assert line.now == pytest.approx(line.state.heard_at + 60)


def test_silence_may_be_allowed() -> None:
    line = Line(silence_timeout_s=0)
    line.establish()
    assert wake_at(line.state, line.policy) is None


def test_a_dial_that_never_ends_is_given_up() -> None:
    line = Line(dial_timeout_s=20)
    line.feed(Started())
    assert line.wait() == (HangUp(1, "dial_timeout"),)
    assert line.now == 120.0


def test_a_worker_nobody_registers_ends_with_an_error() -> None:
    line = Line(register_timeout_s=90)
    line.feed(Started())
    while line.state.phase != "finished":
        line.wait()
    assert (line.exit_phase, line.now) == ("startup_timeout_unregistered", 190.0)
    assert line.exit_detail.endswith("; the last attempt, to grpc://a:1: dial_timeout")


def test_an_orchestrator_that_never_answers_is_named() -> None:
    line = Line(register_timeout_s=5)
    line.feed(Started())
    line.wait()
    assert line.exit_detail.endswith("registration; grpc://a:1 does not answer")


def test_the_registration_watchdog_sleeps_once_there_was_a_connection() -> None:
    line = Line(register_timeout_s=90)
    line.establish()
    line.feed(Lost(1))
    line.now += 1000
    line.feed(Ticked())
    assert line.state.phase == "dialing"


def test_a_worker_that_is_alone_for_too_long_leaves_quietly() -> None:
    line = Line(disconnected_timeout_s=600)
    line.establish()
    line.now += 50
    line.feed(Lost(1))
    while line.state.phase != "finished":
        line.wait()
    assert (line.exit_phase, line.now) == ("disconnected", 750.0)


def test_attempts_may_be_counted() -> None:
    line = Line(max_attempts=3)
    line.feed(Started())
    for number in range(1, 4):
        line.feed(Lost(number))
        if number < 3:
            line.wait()
    assert line.exit_phase == "scheduler_connect_failed"


def test_stopping_hangs_up_and_ends() -> None:
    line = Line()
    line.establish()
    hang_up, finish = line.feed(Stopped())
    assert isinstance(hang_up, HangUp)
    assert isinstance(finish, Finish)
    assert finish.exit.code == 0
    assert line.feed(Heard(1)) == ()


EVENTS = st.one_of(
    st.just("tick"),
    st.just("open"),
    st.just("hear"),
    st.sampled_from(["", "not_leader:b:2", "not_leader:?"]),
)


@given(events=st.lists(EVENTS, max_size=60), steps=st.lists(st.floats(0, 40), max_size=60))
def test_whatever_happens_there_is_one_connection_and_something_is_due(
    events: list[str], steps: list[float]
) -> None:
    line = Line(seeds=(A, B), follows_redirects=True, disconnected_timeout_s=500)
    line.feed(Started())
    for event, step in zip(events, steps, strict=False):
        line.now += step
        number = line.state.connection
        match event:
            case "tick":
                line.feed(Ticked())
            case "open":
                line.feed(Opened(number))
            case "hear":
                line.feed(Heard(number))
            case details:
                line.feed(Lost(number, "UNAVAILABLE", details))
        assert (wake_at(line.state, line.policy) is None) == (line.state.phase == "finished")
    dialed = [effect.connection for effect in line.effects if isinstance(effect, Dial)]
    hung_up = [effect.connection for effect in line.effects if isinstance(effect, HangUp)]
    assert dialed == list(range(1, len(dialed) + 1))
    assert hung_up == sorted(set(hung_up)), "a connection is closed once"
    is_up = line.state.phase in ("dialing", "opened", "established")
    assert len(dialed) - len(hung_up) == is_up


@given(
    failures=st.integers(1, 10_000),
    cap_s=st.floats(0, 100),
    jitter_s=st.floats(0, 100),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_passes_the_bound(
    failures: int, cap_s: float, jitter_s: float, drawn: float
) -> None:
    delay_s = Backoff(0.1, cap_s, jitter_s).delay_s(failures, lambda: drawn)
    assert 0 <= delay_s <= cap_s + 1e-9
