"""Results and streamed items in the forms of the wire; text stays what it was, byte for byte."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.events import Result, Timings
from gen_worker.runtime.engine.deltas import TEXT_FIELDS, encode_item
from gen_worker.runtime.wire import (
    DEFAULT_ITEM_ID,
    DeltaForm,
    StreamDone,
    TokenDelta,
    decode,
    encode,
    merge_deltas,
    output_payload,
    success_payload,
)
from gen_worker.streaming import IncrementalTokenDelta

Pass = Callable[[Any], Any]


class Token(msgspec.Struct):
    """One text and what an author may add to it."""

    token: str = ""
    item_id: str | None = None
    finish_reason: str | None = None
    index: int = 0


class Sound(msgspec.Struct):
    """A piece of sound, with or without words."""

    audio_chunk: bytes | None = None
    audio_codec: str | None = None
    text: str = ""


class Color(enum.Enum):
    """A closed set."""

    RED = "red"


class Everything(msgspec.Struct):
    """What has a plain form of its own."""

    data: bytes
    at: datetime.datetime
    color: Color
    sizes: tuple[int, int]
    names: set[str]


@pytest.fixture(params=["object", "msgpack"])
def passed(request: pytest.FixtureRequest) -> Pass:
    """How the engine hands a value over."""
    if request.param == "object":
        return lambda value: value
    return lambda value: msgspec.Raw(msgspec.msgpack.encode(value))


# -- Results ---------------------------------------------------------------------------------------


def test_a_result_is_one_map_of_plain_values(passed: Pass) -> None:
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    value = Everything(data=b"\x00\xff", at=at, color=Color.RED, sizes=(1, 2), names={"a"})
    assert msgspec.msgpack.decode(output_payload(passed(value))) == {
        "data": "AP8=",
        "at": "2026-01-02T03:04:05Z",
        "color": "red",
        "sizes": [1, 2],
        "names": ["a"],
    }


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), _PLAIN, max_size=4))
def test_a_result_is_the_same_whichever_way_it_is_written(value: dict[str, Any]) -> None:
    raw = msgspec.Raw(msgspec.msgpack.encode(value))
    assert msgspec.msgpack.decode(output_payload(raw)) == msgspec.to_builtins(value)


@pytest.mark.parametrize(
    ("kind", "is_streamed", "payload"),
    [
        ("inference", False, b"\x81\xa1x\x01"),
        ("inference", True, b""),
        ("training", False, b"\x80"),
        ("conversion", False, b"\x80"),
        ("dataset", False, b"\x80"),
    ],
)
def test_what_succeeded_says_no_more_than_its_kind_does(
    kind: Any, is_streamed: bool, payload: bytes
) -> None:
    result = Result(request_id="r", value={"x": 1}, timings=Timings(), is_streamed=is_streamed)
    assert success_payload(result, kind) == payload


# -- Items -----------------------------------------------------------------------------------------


def delta_of(item: Any, item_type: Any = None) -> TokenDelta:
    return DeltaForm("f", item_type).delta(item, request_id="r", timestamp_unix_ms=7)


def test_an_item_is_compact_json_with_sorted_keys(passed: Pass) -> None:
    delta = delta_of(passed({"z": {"b": 1, "a": [1, 2]}, "text": "hé \n"}))
    assert delta.payload_json == '{"text":"hé \\n","z":{"a":[1,2],"b":1}}'.encode()
    assert (delta.request_id, delta.function, delta.timestamp_unix_ms) == ("r", "f", 7)


@pytest.mark.parametrize("text", [" ", "\n", "\t x ", "e\u0301", "\u2028", "\x00", "👩‍🚀"])
def test_text_is_never_trimmed(passed: Pass, text: str) -> None:
    delta = delta_of(passed(Token(token=text)))
    assert delta.delta_text == text
    assert json.loads(delta.payload_json)["token"] == text


def test_the_text_is_the_first_of_the_known_fields_that_has_any() -> None:
    assert TEXT_FIELDS == ("delta_text", "delta", "token", "text", "content", "caption_delta")
    for place, name in enumerate(TEXT_FIELDS):
        item: dict[str, Any] = {later: "later" for later in TEXT_FIELDS[place:]}
        item |= dict.fromkeys(TEXT_FIELDS[:place], "") | {name: "first"}
        assert delta_of(item).delta_text == "first"


@pytest.mark.parametrize("item", [{}, {"text": ""}, {"text": 5}, {"text": None}, {"other": "x"}])
def test_without_text_there_is_none(item: dict[str, Any]) -> None:
    assert delta_of(item).delta_text == ""


@pytest.mark.parametrize(
    ("item_id", "expected"),
    [("b", "b"), ("", DEFAULT_ITEM_ID), (None, DEFAULT_ITEM_ID), (3, DEFAULT_ITEM_ID)],
)
def test_an_item_says_whose_it_is_or_is_the_first(
    passed: Pass, item_id: object, expected: str
) -> None:
    assert delta_of(passed({"item_id": item_id, "text": "x"})).item_id == expected


def test_sound_has_its_own_places(passed: Pass) -> None:
    delta = delta_of(passed(Sound(audio_chunk=b"\x00\xff", audio_codec="opus_48000", text="la")))
    assert (delta.audio_chunk, delta.audio_codec) == (b"\x00\xff", "opus_48000")
    assert (delta.payload_json, delta.delta_text) == (b'{"text":"la"}', "la")


def test_what_is_no_sound_stays_in_the_item(passed: Pass) -> None:
    delta = delta_of(passed({"audio_chunk": "AP8=", "audio_codec": 3}))
    assert (delta.audio_chunk, delta.audio_codec) == (b"", "")
    assert delta.payload_json == b'{"audio_chunk":"AP8=","audio_codec":3}'


def test_other_bytes_are_base64_text(passed: Pass) -> None:
    assert delta_of(passed({"preview": b"\x00\xff"})).payload_json == b'{"preview":"AP8="}'


def test_an_item_is_not_changed_by_being_written() -> None:
    item = {"audio_chunk": b"x", "text": "la"}
    delta_of(item)
    assert item == {"audio_chunk": b"x", "text": "la"}


# -- Merging ---------------------------------------------------------------------------------------

NO_LIMIT = 2**31


@given(st.lists(st.tuples(st.text(), st.sampled_from([None, "a", "b"])), min_size=1), st.data())
def test_merged_text_is_the_same_text_in_the_same_order(
    pieces: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    deltas = encoded([Token(token=text, item_id=item_id) for text, item_id in pieces])
    sent = drained(deltas, data.draw(st.sampled_from([1, 60, 200, NO_LIMIT])))
    for item_id in ("a", "b", None):
        own = [delta for delta in sent if delta.item_id == (item_id or DEFAULT_ITEM_ID)]
        text = "".join(text for text, whose in pieces if whose == item_id)
        assert "".join(delta.delta_text for delta in own) == text
        assert "".join(json.loads(delta.payload_json)["token"] for delta in own) == text
        assert {json.loads(delta.payload_json)["item_id"] for delta in own} <= {item_id}


@given(st.text(min_size=1, max_size=200))
def test_text_divided_by_the_engine_is_joined_again(text: str) -> None:
    item = Token(token=text)
    parts = encode_item(item, "msgpack", 60)
    deltas = [delta_of(msgspec.Raw(part), Token) for part in parts]
    [joined] = drained(deltas, NO_LIMIT)
    assert joined == delta_of(item, Token)


def test_a_backlog_of_text_is_one_message() -> None:
    deltas = encoded([Token(token=f"{number} ") for number in range(1000)])
    joined, count = merge_deltas(deltas, NO_LIMIT)
    assert count == 1000
    assert joined.delta_text == "".join(f"{number} " for number in range(1000))
    assert decode(encode(joined)) == msgspec.structs.replace(joined, text_field="")


def test_a_merged_message_has_no_more_bytes_than_allowed() -> None:
    deltas = encoded([Token(token="x" * 100)] * 50)
    for delta in drained(deltas, 1000):
        assert len(delta.payload_json) <= 1000
    assert len(drained(deltas, 1000)) < 50


def test_a_message_that_is_too_long_by_itself_is_still_sent() -> None:
    deltas = encoded([Token(token="x" * 100)] * 2)
    assert drained(deltas, 10) == deltas


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(Token(token="a"), Token(token="b", index=1), id="the second says more"),
        pytest.param(Token(token="a", index=1), Token(token="b", index=1), id="both say more"),
        pytest.param(Token(token="a", item_id="1"), Token(token="b", item_id="2"), id="two texts"),
        pytest.param(Token(token="a"), Token(), id="no text"),
        pytest.param(Token(token="a"), Token(finish_reason="stop"), id="the end of a text"),
    ],
)
def test_what_is_not_plain_text_of_one_item_stays_apart(first: Token, second: Token) -> None:
    deltas = encoded([first, second])
    assert merge_deltas(deltas, NO_LIMIT) == (deltas[0], 1)


def test_sound_is_never_merged() -> None:
    deltas = [delta_of(Sound(audio_chunk=b"x", text="la"), Sound)] * 2
    assert merge_deltas(deltas, NO_LIMIT) == (deltas[0], 1)


def test_texts_of_different_fields_stay_apart() -> None:
    deltas = [delta_of({"text": "a"}), delta_of({"token": "b"})]
    assert merge_deltas(deltas, NO_LIMIT) == (deltas[0], 1)


def test_an_item_of_an_unknown_type_is_plain_when_it_has_nothing_but_its_text() -> None:
    plain = [delta_of({"text": "a", "item_id": "i"}), delta_of({"text": "b", "item_id": "i"})]
    assert merge_deltas(plain, NO_LIMIT)[0].payload_json == b'{"item_id":"i","text":"ab"}'
    more = [delta_of({"text": "a", "index": 0}), delta_of({"text": "b", "index": 0})]
    assert merge_deltas(more, NO_LIMIT)[1] == 1


def test_a_number_that_equals_a_default_of_another_type_says_something() -> None:
    assert delta_of({"token": "a", "index": False}, Token).text_field == ""
    assert delta_of({"token": "a", "index": 0}, Token).text_field == "token"


def test_the_own_type_of_the_sdk_is_plain_text() -> None:
    form = DeltaForm("f", IncrementalTokenDelta)
    deltas = [form.delta(IncrementalTokenDelta(text=text), request_id="r") for text in ("a ", "b")]
    assert merge_deltas(deltas, NO_LIMIT)[0].delta_text == "a b"


def test_fields_are_known_by_the_names_they_are_written_with() -> None:
    class Renamed(msgspec.Struct, rename={"words": "text", "place": "at"}, tag="piece"):
        words: str = ""
        place: int = 0

    deltas = [delta_of(Renamed(words="a"), Renamed), delta_of(Renamed(words="b"), Renamed)]
    joined, count = merge_deltas(deltas, NO_LIMIT)
    assert (joined.payload_json, count) == (b'{"at":0,"text":"ab","type":"piece"}', 2)


def test_nothing_is_merged_over_the_end_of_a_stream_or_with_another_request() -> None:
    deltas = encoded([Token(token="a"), Token(token="b")])
    other = msgspec.structs.replace(deltas[1], request_id="other")
    assert merge_deltas([deltas[0], other], NO_LIMIT) == (deltas[0], 1)
    done = StreamDone(request_id="r", sequence=0)
    assert merge_deltas([*deltas, done], NO_LIMIT)[1] == 2


def encoded(items: list[Token]) -> list[TokenDelta]:
    """Return the deltas of items as the engine hands them over."""
    form = DeltaForm("f", Token)
    raw = [msgspec.Raw(msgspec.msgpack.encode(item)) for item in items]
    return [form.delta(item, request_id="r") for item in raw]


def drained(waiting: list[TokenDelta], max_bytes: int) -> list[TokenDelta]:
    """Return what is sent when all of this waits."""
    sent: list[TokenDelta] = []
    while waiting:
        joined, count = merge_deltas(waiting, max_bytes)
        sent.append(joined)
        waiting = waiting[count:]
    return sent
