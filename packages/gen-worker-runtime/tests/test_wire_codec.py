"""Messages survive the wire, and whatever comes over the wire does no harm."""

from __future__ import annotations

import subprocess
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.pb import worker_scheduler_pb2 as pb
from gen_worker.runtime.wire import (
    STARTUP_PHASES,
    EndpointConfig,
    Inbound,
    JobRequest,
    JobResult,
    MalformedMessageError,
    Message,
    ModelReady,
    Observation,
    Outbound,
    Record,
    Registration,
    ResolvedCompute,
    ResolvedRepo,
    ResolvedRepoFile,
    StartupPhase,
    TokenDelta,
    UnencodableMessageError,
    decode,
    encode,
)

MESSAGE_TYPES: tuple[type[Record], ...] = (*typing.get_args(Inbound), *typing.get_args(Outbound))

INT32 = st.integers(-(2**31), 2**31 - 1)


def messages() -> st.SearchStrategy[Message]:
    """Any message of either direction."""
    return st.one_of(*map(records, MESSAGE_TYPES))


def records(cls: type[Record]) -> st.SearchStrategy[Any]:
    """Any value of a class that survives the wire as it is."""
    fields = {name: _values(hint) for name, hint in fields_of(cls).items()}
    if cls is StartupPhase:
        fields["phase"] = st.sampled_from(["", *STARTUP_PHASES])
    if cls is TokenDelta:
        fields["text_field"] = st.just("")
    return st.builds(cls, **fields)


def fields_of(cls: type[Record]) -> dict[str, Any]:
    """Return the type of each field."""
    hints = typing.get_type_hints(cls)
    return {name: hints[name] for name in cls.__struct_fields__}


def _values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    if origin is types.UnionType:
        return st.one_of(*map(_values, arguments))
    if isinstance(hint, type) and issubclass(hint, Record):
        return records(hint)
    return _PLAIN[hint]


_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    int: INT32,
    float: st.floats(allow_nan=False),
    type(None): st.none(),
}


BY_NAME = [pytest.param(cls, id=cls.__name__) for cls in MESSAGE_TYPES]
# Of section 3 of the protocol; all other numbers have 32 bits.
WIDE = {
    "JobRequest": {"timeout_ms"},
    "InterruptJob": {"assignment_attempt_epoch"},
    "Drain": {"deadline_unix_ms"},
    "Registration": {"stream_started_unix_ms"},
    "DiagnosticLog": {"emitted_at_unix_ms"},
    "TokenDelta": {"sequence", "timestamp_unix_ms"},
    "StreamDone": {"sequence", "timestamp_unix_ms"},
    "StreamError": {"sequence", "timestamp_unix_ms"},
    "LoadModelResult": {"size_bytes"},
    "FunctionUnavailable": {"detected_at_unix"},
    "StartupPhase": {"elapsed_ms"},
    "DrainResult": {"active_requests", "emitted_at_unix_ms"},
}


@pytest.mark.parametrize("cls", BY_NAME)
@settings(max_examples=25)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(cls: type[Record], data: st.DataObject) -> None:
    message = data.draw(records(cls))
    assert decode(encode(message)) == message


@pytest.mark.parametrize("cls", BY_NAME)
def test_an_empty_message_is_still_that_message(cls: type[Record]) -> None:
    message = _smallest(cls)
    assert decode(encode(message)) == message
    assert type(decode(encode(message))) is cls


@pytest.mark.parametrize("cls", BY_NAME)
def test_times_and_sizes_have_64_bits_and_all_other_numbers_32(cls: type[Record]) -> None:
    numbers = [name for name, hint in fields_of(cls).items() if hint is int]
    message = _smallest(cls)
    wide = {name for name in numbers if _carries(message, name, 2**63 - 1)}
    assert wide == WIDE.get(cls.__name__, set())
    assert all(_carries(message, name, -(2**31)) for name in numbers)


def _smallest(cls: type[Record]) -> Any:
    empty: dict[Any, Any] = {str: "", int: 0, bool: False, bytes: b""}
    required = {field.name for field in msgspec.structs.fields(cls) if field.required}
    return cls(
        **{name: empty.get(hint, "") for name, hint in fields_of(cls).items() if name in required}
    )


def _carries(message: Any, field: str, number: int) -> bool:
    changed = msgspec.structs.replace(message, **{field: number})
    try:
        return bool(decode(encode(changed)) == changed)
    except UnencodableMessageError:
        return False


def test_compute_with_nothing_in_it_differs_from_none() -> None:
    request = JobRequest(request_id="r", function="f")
    attached = msgspec.structs.replace(request, compute=ResolvedCompute())
    assert decode(encode(request)) == request
    assert decode(encode(attached)) == attached
    assert attached != request


def test_an_observation_with_nothing_in_it_differs_from_none() -> None:
    result = JobResult(request_id="r", success=True, observation=Observation())
    assert decode(encode(result)) == result


def test_the_owner_travels_in_the_field_that_was_named_tenant() -> None:
    data = encode(JobRequest(request_id="r", function="f", owner="alice"))
    assert pb.WorkerSchedulerMessage.FromString(data).job_request.tenant == "alice"


def test_a_phase_without_a_number_goes_out_as_unspecified() -> None:
    data = encode(StartupPhase(phase="registered", status="ok"))
    signal = pb.WorkerSchedulerMessage.FromString(data).worker_startup_phase
    assert (signal.phase, signal.status) == (0, "ok")


def test_numbers_of_enums_that_come_later_read_as_empty() -> None:
    ready = _envelope(worker_model_ready={"model_id": "a/b", "kind": 99})
    phase = _envelope(worker_startup_phase={"phase": 99, "status": "ok"})
    assert decode(ready) == ModelReady(model_id="a/b", kind="")
    assert decode(phase) == StartupPhase(phase="", status="ok")


def test_fields_that_come_later_are_passed_over() -> None:
    later = b"\xf2\x3f\x04more"  # field 1022, four bytes
    message = Registration(in_flight_request_ids=("r",))
    assert decode(encode(message) + later) == message
    inner = encode(JobResult(request_id="r", success=True))
    longer = inner[:1] + bytes([inner[1] + len(later)]) + inner[2:] + later
    assert decode(longer) == JobResult(request_id="r", success=True)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xf2\x3f\x04more", id="a kind that comes later"),
        pytest.param(b"\x1a\x00", id="a number given up, 3"),
        pytest.param(b"\x50\x01", id="a job request that is a number"),
    ],
)
def test_what_is_no_message_known_here_is_none(data: bytes) -> None:
    assert decode(data) is None


def test_of_two_messages_in_one_envelope_the_last_counts() -> None:
    result = JobResult(request_id="r", success=True)
    assert decode(encode(Registration()) + encode(result)) == result


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff", id="half a number"),
        pytest.param(b"\x52\x7f", id="cut off"),
        pytest.param(b"\x07", id="a wire type that does not exist"),
        pytest.param(b"\x52\x04\x0a\x02\xff\xfe", id="text that is not UTF-8"),
        pytest.param(b"\x52\xff\xff\xff\xff\x0f", id="a length beyond the end"),
        pytest.param(b"\x00\x00", id="field zero"),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        decode(data)
    assert caught.value.size_bytes == len(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_none_or_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except MalformedMessageError:
        return
    assert message is None or type(message) in MESSAGE_TYPES


@settings(max_examples=50)
@given(messages(), st.data())
def test_a_damaged_message_is_a_message_or_none_or_refused(
    message: Message, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for hostile in (bytes(damaged), bytes(damaged[:cut])):
        try:
            found = decode(hostile)
        except MalformedMessageError:
            continue
        assert found is None or type(found) in MESSAGE_TYPES


def test_a_message_nested_without_end_is_refused_or_passed_over() -> None:
    deep = b"\x0b" * 100_000  # groups that open and never close
    with pytest.raises(MalformedMessageError):
        decode(deep)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(TokenDelta(request_id="r", sequence=1, delta_text="\ud800"), id="surrogate"),
        pytest.param(TokenDelta(request_id="r", sequence=2**63), id="too large"),
        pytest.param(JobResult(request_id="r", success=True, payload="no bytes"), id="a text"),  # type: ignore[arg-type]
    ],
)
def test_what_the_wire_cannot_carry_is_refused_without_repeating_it(message: Message) -> None:
    with pytest.raises(UnencodableMessageError) as caught:
        encode(message)
    assert caught.value.message_type == type(message).__name__
    assert "no bytes" not in str(caught.value)


def test_a_repr_shows_no_secret_and_no_content() -> None:
    file = ResolvedRepoFile(path="a.bin", url="https://store.example/a?signature=TOPSECRET")
    repos = {"a/b:prod": ResolvedRepo(files=(file,))}
    request = JobRequest(
        request_id="r-1",
        function="f",
        payload=b"https://store.example/in?signature=TOPSECRET",
        capability_token="TOPSECRET",
        repos=repos,
    )
    shown = repr((request, EndpointConfig(repos=repos)))
    assert "TOPSECRET" not in shown
    assert "r-1" in shown
    assert "<44 bytes>" in shown
    assert "a.bin" in shown


def test_the_room_loads_no_transport() -> None:
    code = (
        "import sys, gen_worker.runtime.wire as wire; wire.decode(b''); wire.CHANNEL_OPTIONS\n"
        "wire.ref_index({}); sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def _envelope(**message: Any) -> bytes:
    return pb.WorkerSchedulerMessage(**message).SerializeToString()
