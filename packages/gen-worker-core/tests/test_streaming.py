from __future__ import annotations

import queue
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.streaming import (
    Done,
    Error,
    IncrementalTokenDelta,
    TokenStreamSignal,
    iter_transformers_text_deltas,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Tokenizer:
    """Tokens are words."""

    def decode(self, token: str) -> str:
        return token


class QueueStreamer:
    """Shaped like `transformers.TextIteratorStreamer`."""

    def __init__(
        self, tokenizer: Tokenizer, skip_prompt: bool, timeout: float, **decode_kwargs: Any
    ) -> None:
        self.options = (skip_prompt, timeout, decode_kwargs)
        self._tokenizer = tokenizer
        self._timeout = timeout
        self._queue: queue.Queue[str | None] = queue.Queue()

    def put(self, token: str) -> None:
        self._queue.put(self._tokenizer.decode(token))

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self._queue.get(timeout=self._timeout)
        if text is None:
            raise StopIteration
        return text


class GeneratorStreamer(QueueStreamer):
    """One whose iterator is a generator, which a timeout ends."""

    def __iter__(self) -> Iterator[str]:
        while (text := self._queue.get(timeout=self._timeout)) is not None:
            yield text


class EndlessStreamer(QueueStreamer):
    """One that cannot be closed from outside."""

    end = None  # type: ignore[assignment]


class Model:
    """Generates in the thread it is called in, one token at a time, and honours its criteria."""

    def __init__(self, tokens: list[str], before: Callable[[int], None] = lambda number: None):
        self.tokens = tokens
        self.generated = 0
        self.options: dict[str, Any] = {}
        self.criteria: Any = ()
        self.threads: list[threading.Thread] = []
        self._before = before

    def generate(self, *, streamer: Any, stopping_criteria: Any, **options: Any) -> None:
        self.options = options
        self.criteria = stopping_criteria
        self.threads.append(threading.current_thread())
        for number, token in enumerate(self.tokens):
            self._before(number)
            streamer.put(token)
            self.generated += 1
            if self.is_to_stop():
                break
        streamer.end()

    def is_to_stop(self) -> bool:
        return any(criterion(None, None) for criterion in self.criteria)


def deltas(model: Model | None, /, **options: Any) -> Iterator[str]:
    given: dict[str, Any] = {
        "model": model,
        "tokenizer": Tokenizer(),
        "generation_kwargs": {"max_new_tokens": 5},
        "streamer_cls": QueueStreamer,
        **options,
    }
    return iter_transformers_text_deltas(**given)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    left = [t for t in threading.enumerate() if t.name == "transformers-generate"]
    assert left == []


def test_text_arrives_in_order_with_its_spaces_and_without_empty_pieces() -> None:
    model = Model(["Once", " upon", "", " ", "\n", " a time."])
    assert list(deltas(model)) == ["Once", " upon", " ", "\n", " a time."]
    assert model.options == {"max_new_tokens": 5}


def test_text_arrives_while_generation_is_still_running() -> None:
    seen = threading.Event()

    def wait_for_consumer(number: int) -> None:
        if number == 1:
            assert seen.wait(60)

    stream = deltas(Model(["first", "second"], wait_for_consumer))
    assert next(stream) == "first"
    seen.set()
    assert list(stream) == ["second"]


def test_the_streamer_gets_its_options() -> None:
    built: list[QueueStreamer] = []

    def build(*args: Any, **kwargs: Any) -> QueueStreamer:
        built.append(QueueStreamer(*args, **kwargs))
        return built[-1]

    options = {
        "skip_prompt": False,
        "timeout": 0.01,
        "decode_kwargs": {"skip_special_tokens": True},
    }
    assert list(deltas(Model(["a"]), streamer_cls=build, **options)) == ["a"]
    assert built[0].options == (False, 0.01, {"skip_special_tokens": True})


@pytest.mark.parametrize("streamer_cls", [QueueStreamer, GeneratorStreamer])
@pytest.mark.parametrize("timeout", [0.001, None])
def test_slow_tokens_are_waited_for(streamer_cls: type, timeout: float | None) -> None:
    looks = threading.Semaphore(0)
    asked: list[bool] = []

    def ask() -> bool:  # called at every look, so several looks have timed out before a token
        asked.append(True)
        looks.release()
        return False

    def be_slow(_number: int) -> None:
        for _ in range(3):
            assert looks.acquire(timeout=60)

    stream = deltas(
        Model(["late", "later"], be_slow),
        streamer_cls=streamer_cls,
        timeout=timeout,
        cancel_checker=ask,
    )
    assert list(stream) == ["late", "later"]


@pytest.mark.parametrize("streamer_cls", [QueueStreamer, GeneratorStreamer, EndlessStreamer])
def test_an_error_of_generate_is_raised_after_the_text_it_produced(streamer_cls: type) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise LookupError("no such token")

    stream = deltas(Model(["a", "b", "c"], fail), streamer_cls=streamer_cls, timeout=0.01)
    assert [next(stream), next(stream)] == ["a", "b"]
    with pytest.raises(LookupError, match="no such token"):
        next(stream)


def test_a_cancel_ends_the_text_and_stops_generation_at_the_next_token() -> None:
    begun, canceled = threading.Event(), threading.Event()

    def wait_for_cancel(number: int) -> None:
        if number == 1:
            begun.set()
            assert canceled.wait(60)

    model = Model(["a", "b", "c"], wait_for_cancel)
    stream = deltas(model, cancel_checker=canceled.is_set, join_timeout=60)
    assert next(stream) == "a"
    assert begun.wait(60)
    canceled.set()
    assert list(stream) == []
    assert model.generated == 2
    assert not model.threads[0].is_alive()


def test_generation_stops_at_the_token_after_the_cancel() -> None:
    canceled = threading.Event()

    def cancel_at_third(number: int) -> None:
        if number == 2:
            canceled.set()

    model = Model([str(number) for number in range(100)], cancel_at_third)
    assert list(deltas(model, cancel_checker=canceled.is_set)) in ([], ["0"], ["0", "1"])
    assert model.generated == 3


def test_a_call_canceled_before_it_began_yields_nothing() -> None:
    model = Model(["a", "b", "c"])
    assert list(deltas(model, cancel_checker=lambda: True)) == []
    assert model.generated <= 1


def test_an_error_raised_by_the_checker_stops_everything() -> None:
    class Canceled(Exception):
        pass

    def check() -> bool:
        raise Canceled

    with pytest.raises(Canceled):
        list(deltas(Model(["a"] * 1000), cancel_checker=check))


def test_a_consumer_that_leaves_early_stops_generation() -> None:
    begun = threading.Event()

    def wait(number: int) -> None:
        if number == 1:
            begun.set()
        until = time.monotonic() + 60
        while number == 1 and not model.is_to_stop():
            assert time.monotonic() < until
            time.sleep(0.001)

    model = Model([str(number) for number in range(10_000)], wait)
    stream = deltas(model, join_timeout=60)
    assert next(stream) == "0"
    assert begun.wait(60)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert model.generated == 2


def test_a_stuck_forward_pass_is_not_waited_for_longer_than_asked() -> None:
    released, reached = threading.Event(), threading.Event()

    def be_stuck(number: int) -> None:
        if number == 1:
            reached.set()
            assert released.wait(60)

    model = Model(["a", "b", "c"], be_stuck)
    stream = deltas(model, join_timeout=0.001)
    assert next(stream) == "a"
    assert reached.wait(60)
    stream.close()  # type: ignore[attr-defined]  # a generator
    assert model.threads[0].is_alive()
    released.set()
    model.threads[0].join(60)
    assert model.generated == 2


def test_criteria_of_the_author_are_kept() -> None:
    def stop_at_two(_ids: Any, _scores: Any) -> bool:
        return model.generated == 2

    model = Model(["a", "b", "c", "d"])
    given: dict[str, Any] = {"stopping_criteria": [stop_at_two]}
    assert list(deltas(model, generation_kwargs=given)) == ["a", "b"]
    assert given == {"stopping_criteria": [stop_at_two]}, "the author's options are not changed"


def test_nothing_runs_before_the_first_piece_is_asked_for() -> None:
    model = Model(["a"])
    stream = deltas(model)
    assert model.threads == []
    assert list(stream) == ["a"]


@pytest.mark.parametrize("name", ["model", "tokenizer", "generation_kwargs"])
def test_what_is_needed_must_be_given(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be given"):
        deltas(Model([]), **{name: None})


def test_without_transformers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RuntimeError, match=r'install "gen-worker\[torch\]"'):
        deltas(Model([]), streamer_cls=None)


def test_transformers_supplies_the_streamer_and_the_list_of_criteria(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class CriteriaList(list[Any]):
        pass

    received: list[type] = []

    class Recording(Model):
        def generate(self, **options: Any) -> None:
            received.append(type(options["stopping_criteria"]))
            super().generate(**options)

    module = types.ModuleType("transformers")
    vars(module).update(TextIteratorStreamer=QueueStreamer, StoppingCriteriaList=CriteriaList)
    monkeypatch.setitem(sys.modules, "transformers", module)
    assert list(deltas(Recording(["a"]), streamer_cls=None)) == ["a"]
    assert received == [CriteriaList]


@pytest.mark.parametrize("is_initialized", [True, False])
def test_generation_runs_on_the_callers_cuda_device(
    is_initialized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[int, str]] = []
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]  # a stand-in
        is_initialized=lambda: is_initialized,
        current_device=lambda: 3,
        set_device=lambda index: chosen.append((index, threading.current_thread().name)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert list(deltas(Model(["a"]))) == ["a"]
    assert chosen == ([(3, "transformers-generate")] if is_initialized else [])


def test_signals_are_frozen_and_take_keywords() -> None:
    delta = IncrementalTokenDelta(text=" a")
    assert (delta.text, delta.item_id, Error().message) == (" a", None, "")
    with pytest.raises(AttributeError):
        delta.text = "b"  # type: ignore[misc]  # the point of the test
    with pytest.raises(TypeError):
        IncrementalTokenDelta("a")  # type: ignore[call-arg,misc,unused-ignore]  # likewise


@pytest.mark.parametrize("signal", [IncrementalTokenDelta(), Done(), Error(message="x")])
def test_the_union_names_every_signal(signal: object) -> None:
    assert isinstance(signal, TokenStreamSignal)
    assert isinstance(signal, msgspec.Struct)
