"""Every shape of function gives the same answer on every way through the engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from gen_worker import RequestContext, inference, inference_function, invocable
from gen_worker.runtime import Engine, Invocation
from gen_worker.spec import specs_of
from gen_worker.streaming import Done, Error, IncrementalTokenDelta
from gen_worker.testing import EndpointTester


class Ask(msgspec.Struct):
    text: str = "a b c"


class Answer(msgspec.Struct):
    text: str


class Piece(msgspec.Struct):
    delta: str


@inference_function
def shout(ctx: RequestContext, ask: Ask) -> Answer:
    return Answer(ask.text.upper())


@inference_function
async def shout_async(ctx: RequestContext, ask: Ask) -> Answer:
    return Answer(ask.text.upper())


@inference_function
def spell(ctx: RequestContext, ask: Ask) -> Iterator[Piece]:
    for word in ask.text.split():
        yield Piece(word)


@inference_function
async def spell_async(ctx: RequestContext, ask: Ask) -> AsyncIterator[Piece]:
    for word in ask.text.split():
        yield Piece(word)


@inference_function
def spell_list(ctx: RequestContext, ask: Ask) -> Iterator[Piece]:
    return iter([Piece(word) for word in ask.text.split()])


@inference_function
def spell_bare(ctx, ask: Ask):  # type: ignore[no-untyped-def]  # unannotated on purpose
    for word in ask.text.split():
        yield Piece(word)


@inference
class Speaker:
    def setup(self) -> None:
        self.voice = "!"

    @invocable
    def say(self, ctx: RequestContext, ask: Ask) -> Answer:
        return Answer(ask.text + self.voice)

    @invocable
    async def say_async(self, ctx: RequestContext, ask: Ask) -> Answer:
        return Answer(ask.text + self.voice)

    @invocable
    def say_words(self, ctx: RequestContext, ask: Ask) -> Iterator[Piece]:
        for word in ask.text.split():
            yield Piece(word + self.voice)


SINGLE = [(shout, "A B C"), (shout_async, "A B C")]
STREAMED = [spell, spell_async, spell_list, spell_bare]
WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


@WAYS
@pytest.mark.parametrize(("function", "expected"), SINGLE)
def test_a_function_answers(function: Any, expected: str, is_inline: bool) -> None:
    with EndpointTester(function, is_inline=is_inline) as tester:
        result = tester.run(function, {"text": "a b c"})
        assert result.value == Answer(expected)
        assert result.deltas == []


@WAYS
@pytest.mark.parametrize("function", STREAMED)
def test_a_stream_arrives_whole_and_in_order(function: Any, is_inline: bool) -> None:
    with EndpointTester(function, is_inline=is_inline) as tester:
        result = tester.run(function, Ask("x y z"))
        assert result.deltas == [Piece("x"), Piece("y"), Piece("z")]
        assert result.value == {"yielded": 3}


@WAYS
@pytest.mark.parametrize("name", ["say", "say-async"])
def test_a_class_answers(name: str, is_inline: bool) -> None:
    with EndpointTester(Speaker, is_inline=is_inline) as tester:
        assert tester.run(name, Ask("hi")).value == Answer("hi!")
        assert tester.run(name, Ask("ho")).value == Answer("ho!")


@WAYS
def test_a_class_streams(is_inline: bool) -> None:
    with EndpointTester(Speaker, is_inline=is_inline) as tester:
        assert tester.run("say-words", Ask("a b")).deltas == [Piece("a!"), Piece("b!")]


@pytest.mark.parametrize("result_format", ["json", "msgpack"])
@pytest.mark.parametrize("is_inline", [True, False])
def test_results_and_items_come_encoded_when_asked_for(result_format: Any, is_inline: bool) -> None:
    decode: Any = {"json": msgspec.json.decode, "msgpack": msgspec.msgpack.decode}[result_format]
    with EndpointTester([shout, spell], is_inline=is_inline) as tester:
        whole = tester.run(shout, Ask("a"), result_format=result_format)
        assert decode(whole.value, type=Answer) == Answer("A")
        stream = tester.run(spell, Ask("a b"), result_format=result_format)
        assert [decode(item, type=Piece) for item in stream.deltas] == [Piece("a"), Piece("b")]
        assert decode(stream.value) == {"yielded": 2}


@pytest.mark.parametrize("name", ["say-async", "say_async"])
def test_functions_are_found_by_every_name(name: str) -> None:
    with EndpointTester(Speaker) as tester:
        assert tester.engine.lookup(name).name == "say-async"


def test_two_functions_of_one_slug_are_refused(tmp_path: Any) -> None:
    from gen_worker.testing import fake_ports

    spec = specs_of(shout)[0]
    with pytest.raises(ValueError, match="named twice: 'shout'"):
        Engine([spec, msgspec.structs.replace(spec)], fake_ports(tmp_path))


@inference_function
def signals(ctx: RequestContext, ask: Ask) -> Iterator[IncrementalTokenDelta | Done | Error]:
    yield IncrementalTokenDelta(text=" a ")
    if ask.text == "error":
        yield Error(message="out of words")
    if ask.text == "done":
        yield Done()
    yield IncrementalTokenDelta(text="b")


@WAYS
def test_stream_signals(is_inline: bool) -> None:
    with EndpointTester(signals, is_inline=is_inline) as tester:
        ended = tester.run(signals, Ask("done"))
        assert ended.deltas == [IncrementalTokenDelta(text=" a ")]
        assert ended.value == {"yielded": 1}
        failed = tester.run(signals, Ask("error"))
        assert failed.failure is not None
        assert (failed.failure.error_type, failed.failure.message) == ("fatal", "out of words")
        assert len(tester.run(signals).deltas) == 2


@inference_function
def lies(ctx: RequestContext, ask: Ask) -> Answer:
    return ask  # type: ignore[return-value]  # what is tested


@inference_function
def lies_in_between(ctx: RequestContext, ask: Ask) -> Iterator[Piece]:
    yield Piece("true")
    yield ask  # type: ignore[misc]  # what is tested


@WAYS
@pytest.mark.parametrize(("function", "items"), [(lies, 0), (lies_in_between, 1)])
def test_a_value_of_another_type_is_an_internal_error(
    function: Any, items: int, is_inline: bool
) -> None:
    with EndpointTester(function, is_inline=is_inline) as tester:
        result = tester.run(function)
        assert result.failure is not None
        assert (result.failure.error_type, result.failure.message) == ("internal", "internal error")
        assert "not Ask" in result.failure.detail
        assert len(result.deltas) == items


def test_in_an_async_test() -> None:
    async def test() -> None:
        async with EndpointTester([shout, spell_async]) as tester:
            assert (await tester.call(shout, Ask("a"))).value == Answer("A")
            assert (await tester.call(spell_async)).deltas == [Piece("a"), Piece("b"), Piece("c")]

    asyncio.run(test())


def test_an_invocation_needs_no_tester(tmp_path: Any) -> None:
    from gen_worker.testing import fake_ports

    engine = Engine(specs_of(shout), fake_ports(tmp_path))
    outcome = engine.run(Invocation(function="shout", payload=b'{"text":"q"}', request_id="1"))
    assert outcome.value == Answer("Q")  # type: ignore[union-attr]  # it succeeded
    engine.close_now()


@inference_function
def no_stream(ctx: RequestContext, ask: Ask) -> Iterator[Piece]:
    return Piece(ask.text)  # type: ignore[return-value]  # the mistake


def test_a_stream_that_is_none_is_told_with_its_place() -> None:
    with EndpointTester(no_stream) as tester:
        failure = tester.run("no_stream", {}).failure
    assert failure is not None
    assert "must yield its items, or return an iterator of them, not Piece" in failure.detail
    assert f"no_stream ({__file__}:" in failure.detail


class Unreadable(msgspec.Struct):
    either: set[int] | list[str]


@inference_function
def unreadable(ctx: RequestContext, payload: Unreadable) -> Answer:
    return Answer("")


def test_a_function_that_cannot_be_called_says_why_to_its_operator() -> None:
    with EndpointTester(unreadable) as tester:
        failure = tester.run("unreadable", {"either": []}).failure
    assert failure is not None
    assert failure.error_type == "internal"
    assert "set[int] | list[str]" in failure.detail
