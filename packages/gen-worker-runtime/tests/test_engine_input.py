"""What a caller sends is checked before the handler sees it, and refused with the place named."""

import time
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import Clamp, RequestContext, inference_function
from gen_worker.runtime import Engine, EngineLimits, Invocation
from gen_worker.spec import specs_of
from gen_worker.testing import EndpointTester, fake_ports


class Inner(msgspec.Struct):
    size: Annotated[int, Clamp(1, 10)] = 1


class Ask(msgspec.Struct):
    text: str
    steps: Annotated[int, Clamp(1, 50)] = 4
    inner: Inner = msgspec.field(default_factory=Inner)
    tags: list[str] = []


class Echo(msgspec.Struct):
    ask: Ask


@inference_function
def echo(ctx: RequestContext, ask: Ask) -> Echo:
    return Echo(ask)


@inference_function(name="Big Name")
def named(ctx: RequestContext, ask: Ask) -> Echo:
    return Echo(ask)


@pytest.fixture
def tester() -> Any:
    with EndpointTester([echo, named], is_inline=True) as tester:
        yield tester


VALID = {"text": "a", "steps": 7, "inner": {"size": 2}, "tags": ["x"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": VALID},
        {"payload": Ask("a", 7, Inner(2), ["x"])},
        {"payload": msgspec.json.encode(VALID)},
        {"payload": msgspec.msgpack.encode(VALID), "payload_format": "msgpack"},
    ],
)
def test_every_form_of_payload_decodes_alike(tester: Any, fields: dict[str, Any]) -> None:
    payload = fields.pop("payload")
    assert tester.run(echo, payload, **fields).value == Echo(Ask("a", 7, Inner(2), ["x"]))


@pytest.mark.parametrize(
    ("payload", "path", "says"),
    [
        (b'{"text":1}', "$.text", "Expected `str`, got `int`"),
        (b'{"text":"a","inner":{"size":"x"}}', "$.inner.size", "Expected `int`, got `str`"),
        (b'{"text":"a","tags":["b",2]}', "$.tags[1]", "Expected `str`, got `int`"),
        (b"{}", "", "missing required field `text`"),
        (b"[]", "", "Expected `object`, got `array`"),
        (b"", "", "truncated"),
        (b'{"text":"a"', "", "truncated"),
        (b'{"text":"\xff\xfe"}', "", "utf-8"),
        (b"{" * 100_000, "", "malformed"),
        (b"[" * 100_000, "", "Expected `object`"),
        (b'{"text":"a","tags":' + b"[" * 100_000, "$.tags[0]", "Expected `str`, got `array`"),
    ],
)
def test_a_wrong_payload_is_refused_with_its_place(
    tester: Any, payload: bytes, path: str, says: str
) -> None:
    failure = tester.run(echo, payload).failure
    assert failure.error_type == "validation"
    assert (failure.http_status, failure.exit_code, failure.origin) == (400, 2, "input")
    assert failure.path == path
    assert says in failure.message
    assert failure.detail == "", "the operator learns nothing more than the caller"


class Anything(msgspec.Struct):
    data: Any = None


@inference_function
def swallow(ctx: RequestContext, payload: Anything) -> Anything:
    return Anything()


@pytest.mark.parametrize("is_inline", [True, False])
def test_nesting_without_end_is_refused(is_inline: bool) -> None:
    deep = b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with EndpointTester(swallow, is_inline=is_inline) as tester:
        failure = tester.run(swallow, deep).failure
        assert failure is not None
        assert (failure.error_type, failure.message) == (
            "validation",
            "the payload is nested too deeply",
        )
        assert tester.run(swallow).failure is None


@given(st.binary(max_size=200), st.sampled_from(["json", "msgpack"]))
def test_no_bytes_break_the_engine(data: bytes, payload_format: Any) -> None:
    outcome = ENGINE.run(
        Invocation(function="echo", request_id="1", payload=data, payload_format=payload_format)
    )
    failure = getattr(outcome, "failure", None)
    assert failure is None or failure.error_type == "validation"


class _NoPort:
    """Has no method: a call that used one would fail as internal."""


class _NoEvents:
    def emit(self, event: Any) -> None:
        return None


def _engine() -> Engine:
    from gen_worker.ports import Ports

    unused: Any = _NoPort()
    return Engine(specs_of(echo), Ports(files=unused, events=_NoEvents(), models=unused))


ENGINE = _engine()


def test_an_object_that_cannot_be_sent_is_the_callers_mistake(tester: Any) -> None:
    failure = tester.run(echo, {"text": object()}).failure
    assert (failure.error_type, failure.origin) == ("validation", "input")


def test_numbers_are_clamped_everywhere(tester: Any) -> None:
    ask = tester.run(echo, {"text": "a", "steps": 1000, "inner": {"size": -5}}).value.ask
    assert (ask.steps, ask.inner.size) == (50, 1)


def test_a_payload_struct_of_the_caller_is_not_changed(tester: Any) -> None:
    mine = Ask("a", 1000)
    assert tester.run(echo, mine).value.ask.steps == 50
    assert mine.steps == 1000


def test_the_payload_has_a_limit() -> None:
    with EndpointTester(echo, limits=EngineLimits(max_input_bytes=30), is_inline=True) as tester:
        assert tester.run(echo, b'{"text":"short"}').failure is None
        failure = tester.run(echo, b'{"text":"' + b"a" * 30 + b'"}').failure
        assert failure is not None
        assert (failure.error_type, failure.http_status) == ("validation", 413)


def test_the_result_has_a_limit() -> None:
    with EndpointTester(echo, limits=EngineLimits(max_output_bytes=60), is_inline=True) as tester:
        assert tester.run(echo, {"text": "a"}, result_format="msgpack").failure is None
        failure = tester.run(echo, {"text": "a" * 60}, result_format="json").failure
        assert failure is not None
        assert failure.exception == "OutputTooLargeError"


@pytest.mark.parametrize("name", ["big-name", "Big Name", "named"])
def test_lookup_takes_every_name(tester: Any, name: str) -> None:
    assert tester.run(name, VALID).failure is None


def test_an_unknown_function_is_told_what_there_is(tester: Any) -> None:
    failure = tester.run("nope", VALID).failure
    assert (failure.exception, failure.http_status, failure.exit_code) == (
        "UnknownFunctionError",
        404,
        2,
    )
    assert "echo, big-name" in failure.message


@pytest.mark.parametrize("payload_format", ["json", "msgpack"])
def test_an_envelope_is_taken_out_and_an_unknown_entry_refused(
    tester: Any, payload_format: str
) -> None:
    encode: Any = {"json": msgspec.json.encode, "msgpack": msgspec.msgpack.encode}[payload_format]
    fields = {"payload_format": payload_format}
    empty = tester.run(echo, encode({**VALID, "_models": {}}), **fields)
    assert empty.value.ask.steps == 7
    refused = tester.run(echo, encode({**VALID, "_models": {"vae": "a/b"}}), **fields).failure
    assert (refused.error_type, refused.code) == ("validation", "unknown_override_param")
    assert refused.path == "$._models.vae"


def test_the_word_models_inside_a_text_is_no_envelope(tester: Any) -> None:
    assert tester.run(echo, {"text": '"_models"'}).value.ask.text == '"_models"'


@pytest.mark.parametrize("envelope", [1, "x", [1], {"vae": 1}])
def test_a_malformed_envelope_is_refused(tester: Any, envelope: Any) -> None:
    failure = tester.run(echo, {**VALID, "_models": envelope}).failure
    assert failure.error_type == "validation"
    assert failure.path.startswith("$._models")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"text":"a","_models":{"vae":1e400}}',
        b'{"text":"a","_models":{"vae":"\xff"}}',
        b'{"text":"a","\xff":1,"_models":{"vae":"a/b"}}',
        b'{"text":"a","_models":{"vae":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"text":"a","\\u005fmodels":{"vae":"a/b"}}',
        b'{"text":"a","\\u005Fmo\\u0064els":{"vae":"a/b"}}',
        b'{"text":"a","_model\\u0073":{"vae":"a/b"}}',
    ],
)
def test_an_envelope_that_is_hard_to_read_is_never_dropped(tester: Any, payload: bytes) -> None:
    failure = tester.run(echo, payload).failure
    assert (failure.error_type, failure.origin) == ("validation", "input")


@given(st.lists(st.booleans(), min_size=7, max_size=7), st.booleans())
def test_however_its_name_is_escaped_an_envelope_is_found(
    escaped: list[bool], is_upper: bool
) -> None:
    form = "\\u{:04X}" if is_upper else "\\u{:04x}"
    name = "".join(
        form.format(ord(letter)) if is_escaped else letter
        for letter, is_escaped in zip("_models", escaped, strict=True)
    )
    payload = f'{{"text":"a","{name}":{{"vae":"a/b"}}}}'.encode()
    outcome = ENGINE.run(Invocation(function="echo", request_id="1", payload=payload))
    assert outcome.failure.code == "unknown_override_param"  # type: ignore[union-attr]  # it failed


def test_an_escape_alone_is_no_envelope(tester: Any) -> None:
    payload = b'{"text":"\\u005fmodels","tags":["\\u0000"]}'
    assert tester.run(echo, payload).value.ask == Ask("_models", tags=["\0"])


def test_a_malformed_envelope_is_refused_beside_overrides_of_the_transport() -> None:
    outcome = ENGINE.run(
        Invocation(
            function="echo", request_id="1", payload=b'{"text":"a","_models":[1]}', overrides={}
        )
    )
    assert outcome.failure.path == "$._models"  # type: ignore[union-attr]  # it failed


@pytest.mark.parametrize("payload", [{"n": 10**400}, {"text": "\ud800"}, {"\ud800": 1}])
def test_an_object_that_no_format_has_room_for_is_the_callers_mistake(
    tester: Any, payload: Any
) -> None:
    failure = tester.run(echo, payload).failure
    assert (failure.error_type, failure.origin) == ("validation", "input")


@inference_function
def garble(ctx: RequestContext, ask: Ask) -> Ask:
    return Ask("\ud800" if ask.steps == 1 else "a", tags=["\udfff"])


@pytest.mark.parametrize("result_format", ["json", "msgpack"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_result_that_is_no_unicode_is_the_handlers_fault(result_format: Any, steps: int) -> None:
    with EndpointTester(garble) as tester:
        payload = {"text": "a", "steps": steps}
        failure = tester.run(garble, payload, result_format=result_format).failure
        assert failure is not None
        assert (failure.error_type, failure.origin) == ("internal", "handler")
        assert (failure.http_status, failure.exit_code) == (500, 1)


def test_an_id_in_use_is_refused_and_the_first_call_goes_on(tmp_path: Any) -> None:
    import threading

    inside, may_end = threading.Event(), threading.Event()

    @inference_function
    def wait(ctx: RequestContext, ask: Ask) -> Echo:
        inside.set()
        may_end.wait(30)
        return Echo(ask)

    with EndpointTester(wait) as tester:
        first = tester.start(wait, VALID, request_id="same")
        assert inside.wait(30)
        failure = tester.run(wait, VALID, request_id="same").failure
        assert failure is not None
        assert failure.error_type == "duplicate_request_id"
        may_end.set()
        assert first.wait().failure is None
        # The id is free again once its call was answered.
        assert tester.run(wait, VALID, request_id="same").failure is None


def test_a_closed_engine_refuses(tmp_path: Any) -> None:
    engine = Engine(specs_of(echo), fake_ports(tmp_path))
    engine.close_now()
    outcome = engine.run(Invocation(function="echo", request_id="1", payload=b'{"text":"a"}'))
    failure = outcome.failure  # type: ignore[union-attr]  # it failed
    assert (failure.error_type, failure.retryable) == ("retryable", True)


class Refused(Exception):
    def __str__(self) -> str:
        return "of /home/me/secret.py"


@inference_function
def raising(ctx: RequestContext, ask: Ask) -> Echo:
    if ask.text == "value":
        raise ValueError("too many words")
    if ask.text == "exit":
        raise SystemExit(3)
    raise Refused


@pytest.mark.parametrize("is_inline", [True, False])
@pytest.mark.parametrize(
    ("text", "error_type", "message"),
    [
        ("value", "validation", "too many words"),
        ("exit", "internal", "internal error"),
        ("other", "internal", "internal error"),
    ],
)
def test_what_a_handler_raises_is_the_calls_failure(
    is_inline: bool, text: str, error_type: str, message: str
) -> None:
    with EndpointTester(raising, is_inline=is_inline) as tester:
        failure = tester.run(raising, {"text": text}).failure
        assert failure is not None
        assert (failure.error_type, failure.message) == (error_type, message)
        assert (failure.exit_code, failure.origin) == (1, "handler")
        assert failure.detail.startswith("Traceback")
        assert "in raising" in failure.detail
        assert "runtime/engine" not in failure.detail, "the traceback begins with the author"


def test_timings_say_where_the_time_went() -> None:
    @inference_function
    def nap(ctx: RequestContext, ask: Ask) -> Echo:
        time.sleep(0.03)
        return Echo(ask)

    with EndpointTester(nap) as tester:
        before = time.perf_counter()
        timings = tester.run(nap, VALID).timings
        elapsed_ms = (time.perf_counter() - before) * 1e3
        assert timings.compute_ms >= 30
        assert timings.load_ms == 0
        assert sum(getattr(timings, name) for name in timings.__struct_fields__) <= elapsed_ms
