"""What waits to be said: its order, its bounds, and that none of it is lost with a connection."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.wire import (
    JobResult,
    LoadModelResult,
    Message,
    ModelReady,
    StreamDone,
    TokenDelta,
    WorkerEvent,
    decode,
)
from gen_worker.runtime.worker.outbox import Outbox, OutboxLimits, Outgoing, Role

ROLES: tuple[Role, ...] = ("control", "results", "events")


class Gate:
    """Stands for a running call: says whether it is held back."""

    def __init__(self) -> None:
        self.is_paused = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False


class Desk:
    """An outbox, a time, and the streams that empty it."""

    def __init__(self, **limits: Any) -> None:
        self.now = 100.0
        self.wakes = 0
        self.outbox = Outbox(OutboxLimits(**limits), clock=lambda: self.now, wake=self._wake)
        self.gate = Gate()

    def _wake(self, role: Role) -> None:
        self.wakes += 1

    def take(self, role: Role = "control") -> Outgoing | None:
        outgoing = self.outbox.next(role)
        if outgoing is not None:
            self.outbox.written(outgoing)
        return outgoing

    def drain(self, role: Role = "control") -> list[Message]:
        messages = []
        while (outgoing := self.take(role)) is not None:
            message = decode(outgoing.data)
            assert message is not None
            messages.append(message)
        return messages

    def say(self, text: str, request_id: str = "r1") -> None:
        self.outbox.delta(delta(text, request_id), self.gate)

    def finish(self, request_id: str = "r1") -> None:
        self.outbox.end(StreamDone(request_id=request_id, sequence=0))
        self.outbox.result(JobResult(request_id=request_id, success=True))


def delta(text: str, request_id: str = "r1") -> TokenDelta:
    payload = msgspec.json.encode({"text": text})
    return TokenDelta(
        request_id=request_id,
        delta_text=text,
        payload_json=payload,
        sequence=0,
        text_field="text",
    )


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


def event(name: str) -> WorkerEvent:
    return WorkerEvent(event_type=name)


def test_one_stream_carries_signals_then_results_then_output_then_telemetry() -> None:
    desk = Desk()
    desk.outbox.tell(event("metrics.job"))
    desk.say("a", "r2")
    desk.outbox.result(JobResult(request_id="r1", success=True))
    desk.outbox.control(ModelReady(model_id="m", kind="ready"))
    assert kinds(desk.drain()) == ["ModelReady", "JobResult", "TokenDelta", "WorkerEvent"]
    assert desk.outbox.is_empty


def test_three_streams_carry_their_own() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.outbox.tell(event("metrics.job"))
    desk.outbox.result(JobResult(request_id="r1", success=True))
    desk.outbox.control(ModelReady(model_id="m", kind="ready"))
    assert kinds(desk.drain("results")) == ["JobResult"]
    assert kinds(desk.drain("events")) == ["WorkerEvent"]
    assert kinds(desk.drain("control")) == ["ModelReady"]


def test_a_result_waits_until_its_output_is_written() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.say("a")
    desk.finish()
    assert desk.take("results") is None
    assert kinds(desk.drain("events")) == ["TokenDelta", "StreamDone"]
    assert kinds(desk.drain("results")) == ["JobResult"]


def about(request_id: str) -> WorkerEvent:
    return WorkerEvent(event_type="request.log", request_id=request_id)


@pytest.mark.parametrize(("results", "events"), [("control", "control"), ("results", "events")])
def test_a_result_follows_what_was_told_of_its_request(results: Role, events: Role) -> None:
    desk = Desk()
    desk.outbox.split(results != events)
    for request_id in ("r1", "r2", "r1"):
        desk.outbox.tell(about(request_id))
    for request_id in ("r1", "r3"):
        desk.outbox.result(JobResult(request_id=request_id, success=True))
    first = desk.take(results)
    assert first is not None
    assert first.request_id == "r3", "nothing was told of it"
    assert desk.outbox.unsent_request_ids() == ("r1", "r3")
    written = [desk.take(events) for _ in range(3)]
    assert [one.request_id for one in written if one] == ["r1", "r2", "r1"]
    last = desk.take(results)
    assert last is not None
    assert (last.kind, last.request_id) == ("result", "r1")
    assert desk.outbox.is_empty


def test_a_result_follows_both_its_output_and_what_was_told() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.say("a")
    desk.outbox.tell(about("r1"))
    desk.finish()
    while (one := desk.outbox.next("events")) is not None:
        assert desk.outbox.next("results") is None
        desk.outbox.written(one)
    assert kinds(desk.drain("results")) == ["JobResult"]


def test_a_result_waits_for_no_event_that_was_shed_or_could_not_be_written() -> None:
    desk = Desk(max_telemetry=1)
    desk.outbox.split(True)
    desk.outbox.tell(about("r1"))
    desk.outbox.result(JobResult(request_id="r1", success=True))
    assert desk.take("results") is None
    assert not desk.outbox.tell(about("r2"))
    assert desk.outbox.next("results") is not None
    desk.outbox.result(JobResult(request_id="r2", success=True))
    assert desk.take("results") is None
    lost = desk.outbox.next("events")
    assert lost is not None
    desk.outbox.returned(lost)
    assert kinds(desk.drain("results")) == ["JobResult"]
    assert desk.outbox.statistics().shed == 2


def test_neither_output_nor_telemetry_waits_for_the_other_for_ever() -> None:
    desk = Desk(merges_text=False)
    for _ in range(4):
        desk.say("x", "r1")
        desk.outbox.tell(about("r2"))
    desk.outbox.result(JobResult(request_id="r2", success=True))
    taken = [one.kind for one in iter(desk.take, None)]
    assert taken == [*(3 * ["telemetry", "delta"]), "telemetry", "result", "delta"]


def test_sequences_count_what_is_written() -> None:
    desk = Desk(merges_text=False)
    for text in "abc":
        desk.say(text)
    desk.finish()
    assert [message.sequence for message in desk.drain() if not isinstance(message, JobResult)] == [  # type: ignore[union-attr]
        1,
        2,
        3,
        4,
    ]


def test_requests_take_turns() -> None:
    desk = Desk(merges_text=False)
    for request_id in ("r1", "r1", "r1", "r2"):
        desk.say("x", request_id)
    ids = [outgoing.request_id for outgoing in iter(desk.take, None)]
    assert ids == ["r1", "r2", "r1", "r1"]


def test_text_that_waits_is_written_as_one_message() -> None:
    desk = Desk()
    for text in ("so ", "it\n", " goes"):
        desk.say(text)
    desk.finish()
    first, done, _ = desk.drain()
    assert isinstance(first, TokenDelta)
    assert isinstance(done, StreamDone)
    assert (first.delta_text, first.sequence, done.sequence) == ("so it\n goes", 1, 2)


def test_too_much_of_one_request_holds_its_handler_back_until_half_is_written() -> None:
    desk = Desk(max_output_bytes=2_000, merges_text=False)
    while not desk.gate.is_paused:
        desk.say("x" * 100)
    waiting = desk.outbox.statistics().deltas
    while desk.gate.is_paused:
        assert desk.take() is not None
    assert 0 < desk.outbox.statistics().deltas <= waiting // 2 + 1


def test_too_much_of_all_requests_holds_each_back() -> None:
    desk = Desk(max_output_bytes=1_000_000, max_total_output_bytes=1_000, merges_text=False)
    gates = {f"r{n}": Gate() for n in range(9)}
    for request_id, gate in gates.items():
        desk.outbox.delta(delta("x" * 100, request_id), gate)
    assert [gate.is_paused for gate in gates.values()].count(True) > 0
    desk.drain()
    assert not any(gate.is_paused for gate in gates.values())


def test_a_handler_may_go_on_at_once_when_it_is_released() -> None:
    class Eager(Gate):
        def resume(self) -> None:
            super().resume()
            if len(said) < 50:
                said.append("more")
                desk.outbox.delta(delta("y" * 100), self)

    said: list[str] = []
    desk = Desk(max_output_bytes=500, merges_text=False)
    gate = Eager()
    while not gate.is_paused:
        desk.outbox.delta(delta("y" * 100), gate)
        said.append("x")
    sequences = [message.sequence for message in desk.drain()]  # type: ignore[union-attr]
    assert sequences == list(range(1, len(said) + 1))


def test_telemetry_is_shed_oldest_first_and_counted() -> None:
    desk = Desk(max_telemetry=3)
    assert [desk.outbox.tell(event(f"e{n}")) for n in range(5)] == [True, True, True, False, False]
    names = [message.event_type for message in desk.drain() if isinstance(message, WorkerEvent)]
    assert names == ["e2", "e3", "e4"]
    assert desk.outbox.statistics().shed == 2


def test_a_newer_signal_replaces_one_that_waits() -> None:
    desk = Desk()
    for model in ("a", "b"):
        desk.outbox.control(ModelReady(model_id=model, kind="ready"), replaces="it")
    desk.outbox.control(ModelReady(model_id="c", kind="ready"), replaces="other")
    desk.outbox.forget("other")
    assert [message.model_id for message in desk.drain()] == ["b"]  # type: ignore[union-attr]


def test_a_signal_that_could_not_be_written_gives_way_to_a_newer_one() -> None:
    desk = Desk()

    def beat(name: str) -> None:
        desk.outbox.control(ModelReady(model_id=name, kind="ready"), replaces="heartbeat")

    beat("old")
    old = desk.outbox.next("control")
    assert old is not None
    beat("new")
    desk.outbox.returned(old)
    assert desk.outbox.statistics().replaced == 1
    assert [message.model_id for message in desk.drain()] == ["new"]  # type: ignore[union-attr]
    desk.outbox.returned(old)
    desk.outbox.forget("heartbeat")
    assert desk.drain() == []


def test_answers_that_nobody_reads_are_bounded() -> None:
    desk = Desk(max_signals=3)
    for number in range(5):
        desk.outbox.control(LoadModelResult(model_id=str(number), success=True))
    desk.outbox.control(ModelReady(model_id="m", kind="ready"), replaces="m")
    desk.outbox.control(ModelReady(model_id="m2", kind="ready"), replaces="m")
    statistics = desk.outbox.statistics()
    assert (statistics.control, statistics.dropped, statistics.replaced) == (3, 3, 1)
    assert [message.model_id for message in desk.drain()] == ["3", "4", "m2"]  # type: ignore[union-attr]


def test_what_a_stream_could_not_write_comes_first_the_next_time() -> None:
    desk = Desk()
    for request_id in ("r1", "r2"):
        desk.outbox.result(JobResult(request_id=request_id, success=True))
    first = desk.outbox.next("control")
    assert first is not None
    desk.outbox.returned(first)
    assert [message.request_id for message in desk.drain()] == ["r1", "r2"]  # type: ignore[union-attr]


def test_what_was_written_shortly_before_a_loss_is_written_again() -> None:
    desk = Desk(merges_text=False)
    for text in "ab":
        desk.say(text)
    desk.finish()
    written = desk.drain()
    desk.now += 5
    desk.outbox.lost("control")
    assert desk.outbox.unsent_request_ids() == ("r1",)
    assert desk.drain() == written
    assert kinds(written) == ["TokenDelta", "TokenDelta", "StreamDone", "JobResult"]


def test_what_was_written_long_before_a_loss_has_arrived() -> None:
    desk = Desk(settle_s=20)
    desk.say("a")
    desk.finish()
    desk.drain()
    desk.now += 21
    desk.outbox.settle()
    desk.outbox.lost("control")
    assert desk.drain() == []
    assert desk.outbox.unsent_request_ids() == ()


def test_what_was_written_many_bytes_ago_has_arrived() -> None:
    desk = Desk(max_doubt_bytes=1_000)
    for number in range(100):
        desk.outbox.result(JobResult(request_id=f"r{number}", success=True, payload=b"x" * 100))
    desk.drain()
    assert len(desk.outbox.unsent_request_ids()) < 12
    assert desk.outbox.unsent_request_ids()[-1] == "r99"


def test_however_long_a_message_is_it_is_in_doubt_when_it_is_written() -> None:
    desk = Desk(max_doubt_bytes=1_000)
    desk.outbox.result(JobResult(request_id="long", success=True, payload=b"x" * 5_000))
    written = desk.drain()
    desk.outbox.lost("control")
    assert desk.drain() == written


def test_a_result_that_may_be_lost_answers_a_repeated_request() -> None:
    desk = Desk(settle_s=20)
    desk.outbox.result(JobResult(request_id="r1", success=True))
    assert desk.outbox.repeat("r1"), "it waits, and answers both"
    assert kinds(desk.drain()) == ["JobResult"]
    assert desk.outbox.repeat("r1")
    assert kinds(desk.drain()) == ["JobResult"]
    desk.now += 21
    desk.outbox.settle()
    assert not desk.outbox.repeat("r1")


def test_a_stream_that_may_be_lost_is_made_again_when_it_is_asked_for_again() -> None:
    desk = Desk()
    desk.say("a")
    desk.finish()
    assert desk.outbox.repeat("r1")
    desk.drain()
    assert not desk.outbox.repeat("r1")


def test_an_answer_that_asks_for_another_try_does_not_answer_it() -> None:
    desk = Desk()
    desk.outbox.result(JobResult(request_id="r1", success=False, retryable=True))
    assert desk.outbox.repeat("r1"), "nobody has heard it yet"
    desk.drain()
    assert not desk.outbox.repeat("r1")
    desk.outbox.lost("control")
    assert desk.drain() == [], "the first try is over, whatever became of its answer"


def test_a_stream_that_is_made_again_is_not_mixed_with_the_first() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.say("a")
    desk.say("b", "r2")
    desk.finish()
    desk.drain("events")
    desk.drain("results")
    desk.outbox.lost("events")
    assert not desk.outbox.repeat("r1")
    desk.say("A")
    desk.finish()
    messages = desk.drain("events")
    said = [one.delta_text for one in messages if isinstance(one, TokenDelta)]
    assert said == ["b", "A"]
    assert kinds(desk.drain("results")) == ["JobResult"]


def test_a_result_that_is_being_written_answers_a_repeated_request() -> None:
    desk = Desk()
    desk.outbox.result(JobResult(request_id="r1", success=True))
    outgoing = desk.outbox.next("control")
    assert outgoing is not None
    assert desk.outbox.repeat("r1")
    desk.outbox.written(outgoing)
    assert kinds(desk.drain()) == ["JobResult"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_of_two_results_of_a_request_the_newer_outlives_a_loss(is_streamed: bool) -> None:
    desk = Desk()
    desk.outbox.split(True)

    def answer(success: bool) -> None:
        if is_streamed:
            desk.say("a")
            desk.outbox.end(StreamDone(request_id="r1", sequence=0))
        desk.outbox.result(JobResult(request_id="r1", success=success))

    answer(False)
    desk.drain("events")
    outgoing = desk.outbox.next("results")
    assert outgoing is not None
    answer(True)
    desk.outbox.returned(outgoing)
    desk.outbox.lost("results")
    desk.drain("events")
    desk.outbox.lost("results")
    results = desk.drain("results")
    assert [one.success for one in results if isinstance(one, JobResult)] == [True]


def test_of_two_results_in_doubt_the_newer_is_written_again() -> None:
    desk = Desk()
    for success in (False, True):
        desk.outbox.result(JobResult(request_id="r1", success=success))
        desk.drain()
    desk.outbox.lost("control")
    results = desk.drain()
    assert [one.success for one in results if isinstance(one, JobResult)] == [True]


def test_a_stream_of_its_own_that_is_lost_gives_back_only_its_messages() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.say("a")
    desk.finish()
    desk.drain("events")
    desk.drain("results")
    desk.outbox.lost("results")
    assert kinds(desk.drain("events")) == []
    assert kinds(desk.drain("results")) == ["JobResult"]


def test_a_request_is_named_until_all_of_its_output_has_arrived() -> None:
    desk = Desk()
    desk.outbox.split(True)
    desk.say("a")
    desk.finish()
    desk.drain("events")
    desk.drain("results")
    desk.outbox.arrived("results")
    assert desk.outbox.unsent_request_ids() == ("r1",)
    desk.outbox.lost("events")
    assert desk.outbox.unsent_request_ids() == ("r1",)
    desk.drain("events")
    desk.outbox.arrived("events")
    assert desk.outbox.unsent_request_ids() == ()


@given(
    steps=st.lists(
        st.sampled_from(["say", "say", "take", "take", "lose", "finish", "split"]), max_size=80
    ),
    requests=st.lists(st.sampled_from(["r1", "r2", "r3"]), min_size=80, max_size=80),
    merges=st.booleans(),
)
def test_whatever_is_lost_every_text_and_every_result_arrives_in_order(
    steps: list[str], requests: list[str], merges: bool
) -> None:
    desk = Desk(merges_text=merges)
    said: dict[str, str] = {}
    finished: list[str] = []
    heard: list[Message] = []
    is_split = False

    def listen(role: Role) -> None:
        outgoing = desk.take(role)
        if outgoing is not None:
            message = decode(outgoing.data)
            assert message is not None
            heard.append(message)

    for number, (step, request_id) in enumerate(zip(steps, requests, strict=False)):
        match step:
            case "say" if request_id not in finished:
                desk.say(f"{number};", request_id)
                said[request_id] = said.get(request_id, "") + f"{number};"
            case "finish" if request_id not in finished:
                desk.finish(request_id)
                finished.append(request_id)
            case "take":
                for role in ROLES if is_split else ROLES[:1]:
                    listen(role)
            case "lose":
                for role in ROLES[1:] if is_split else ():
                    desk.outbox.lost(role)
                desk.outbox.split(False)
                is_split = False
                desk.outbox.lost("control")
            case "split":
                is_split = True
                desk.outbox.split(True)
    while not desk.outbox.is_empty:
        for role in ROLES:
            listen(role)
    for request_id, text in said.items():
        # At least once: a repeated sequence says the same again.
        pieces = {
            m.sequence: m.delta_text
            for m in heard
            if isinstance(m, TokenDelta) and m.request_id == request_id
        }
        assert "".join(pieces[n] for n in sorted(pieces)) == text
        assert sorted(pieces) == list(range(1, len(pieces) + 1))
    for request_id in finished:
        about = [m for m in heard if getattr(m, "request_id", "") == request_id]
        assert isinstance(about[-1], JobResult), "nothing of a request comes after its result"
