"""Calls through both clients, against a real host."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker import errors
from gen_worker.client import CallError, Client, RetryPolicy, UnknownRequestError, UnreachableError
from gen_worker.client.values import StreamEvent

if TYPE_CHECKING:
    from conftest import Host, Open


TIMEOUT_S = 60.0


class Text(msgspec.Struct):
    text: str = ""
    count: int = 1


@dataclasses.dataclass
class Plain:
    text: str
    count: int = 2


@pytest.mark.parametrize(
    "payload", [{"text": "a", "count": 2}, Text("a", 2), Plain("a")], ids=lambda p: type(p).__name__
)
def test_a_payload_has_many_forms(client: Any, payload: Any) -> None:
    assert client.run("echo", payload) == {"text": "a", "count": 2}


def test_fields_are_a_payload(client: Any) -> None:
    assert client.run("demo/echo", text="a") == {"text": "a", "count": 1}
    assert client.run("echo") == {"text": "", "count": 1}
    with pytest.raises(TypeError, match="a payload or its fields"):
        client.run("echo", {}, text="a")


@pytest.mark.parametrize("payload", ["text", 3, {"a": object()}, {"payload": {1j: 2}}])
def test_what_is_no_payload_is_refused_before_anything_is_sent(client: Any, payload: Any) -> None:
    with pytest.raises(errors.ValidationError):
        client.run("echo", payload)


def test_a_payload_that_looks_like_an_envelope_is_a_payload(client: Any) -> None:
    assert client.run("echo", {"text": "a", "payload": {"text": "b"}})["text"] == "a"


def test_output_is_decoded_into_a_type(client: Any) -> None:
    assert client.run("echo", text="a", result_type=Text) == Text("a")
    assert client.run("count", count=2, result_type=list[Text])[1].count == 1
    with pytest.raises(errors.ValidationError, match="Expected `int`"):
        client.run("echo", text="a", result_type=int)


def test_a_stream_gives_items(client: Any) -> None:
    assert [item.count for item in client.stream("count", count=3, item_type=Text)] == [0, 1, 2]
    assert list(client.stream("count", count=0)) == []
    assert list(client.stream("echo", text="a")) == [{"text": "a", "count": 1}]


def test_the_output_of_a_stream_is_the_list_of_its_items(client: Any) -> None:
    assert [item["count"] for item in client.run("count", count=3)] == [0, 1, 2]
    assert client.run("count", count=0) == []
    assert client.run("odd", count=0) == {"yielded": 0}, "what looks like the end of a stream"
    assert client.run("odd", count=5) == {"yielded": 5}


def test_reports_are_told(client: Any) -> None:
    told: list[StreamEvent] = []
    assert client.run("report", text="a", on_event=told.append)["text"] == "a"
    assert [event.name for event in told] == ["progress", "event"]
    assert told[0].data["payload"] == {"progress": 0.5, "stage": "half"}


CLASSES = {
    "value": (errors.ValidationError, 400),
    "hardware": (errors.HardwareUnmetError, 503),
    "resource": (errors.ResourceError, 503),
    "auth": (errors.AuthError, 403),
    "transfer": (errors.ArtifactTransferError, 502),
    "fatal": (errors.FatalError, 500),
    "other": (CallError, 500),
    "retryable": (errors.RetryableError, 503),
    "overloaded": (errors.OverloadedError, 429),
}


@pytest.mark.parametrize("word", CLASSES)
def test_an_error_has_its_class(host: Host, client: Any, word: str) -> None:
    kind, status = CLASSES[word]
    with pytest.raises(kind) as caught:
        client.run("fail", text=word)
    error = caught.value
    assert isinstance(error, CallError)
    assert error.http_status == status
    assert error.request_id
    assert error.retryable is (word in ("retryable", "overloaded"))
    assert host.stage.runs[word] == (3 if error.retryable else 1)
    if word == "overloaded":
        assert error.retry_after_s > 0
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert errors.classify(error).http_status == status


def test_a_wrong_input_names_its_place(client: Any) -> None:
    with pytest.raises(errors.ValidationError) as caught:
        client.run("echo", count="many")
    assert caught.value.path == "$.count"


def test_an_unknown_function_is_named(client: Any) -> None:
    with pytest.raises(errors.UnknownFunctionError, match="no function 'nope'"):
        client.run("nope")
    with pytest.raises(errors.UnknownFunctionError):
        client.submit("nope")


def test_what_may_pass_is_tried_again(host: Host, client: Any) -> None:
    host.stage.failures_left = 2
    assert client.run("flaky", text="a")[0]["text"] == "a"
    assert host.stage.runs["a"] == 3
    host.stage.failures_left = 1
    assert [item["text"] for item in client.stream("flaky", text="b")] == ["b"]
    assert host.stage.runs["b"] == 2


def test_a_deadline_is_the_host_s(client: Any, host: Host) -> None:
    with pytest.raises(errors.DeadlineExceededError) as caught:
        client.run("hold", timeout_s=0.1)
    host.stage.expect("holding", "deadline")
    assert isinstance(caught.value, CallError)
    assert caught.value.http_status == 504
    with pytest.raises(ValueError, match="timeout_s must be positive"):
        client.run("echo", timeout_s=0)


def test_who_stops_reading_cancels(client: Any, host: Host) -> None:
    items = client.stream("count-and-stay", count=2)
    assert [next(items)["count"], next(items)["count"]] == [0, 1]
    host.stage.expect("staying")
    items.close()
    host.stage.expect("caller")


def test_a_submitted_request_is_followed(client: Any) -> None:
    request = client.submit("count", count=2)
    assert [item["count"] for item in request.result()] == [0, 1]
    events = list(request.events())
    assert [(event.id, event.name) for event in events] == [
        (1, "delta"),
        (2, "delta"),
        (3, "result"),
    ]
    assert [event.id for event in request.events(after=2)] == [3]
    assert request.status() == "succeeded"
    assert request.position() is None
    assert request.show()["function"] == "count"
    assert client.request(request.id).result(result_type=list[Text])[1].count == 1
    assert request.cancel() is False


def test_a_result_is_waited_for_only_so_long(client: Any, host: Host) -> None:
    request = client.submit("hold")
    host.stage.expect("holding")
    assert request.status() == "running"
    with pytest.raises(errors.DeadlineExceededError) as caught:
        request.result(timeout_s=0.1)
    assert isinstance(caught.value, CallError)
    assert caught.value.request_id == request.id
    assert client.cancel(request.id) is True
    with pytest.raises(errors.CanceledError):
        request.result()
    assert request.status() == "canceled"


def test_a_request_nobody_knows(client: Any) -> None:
    request = client.request("never-was")
    for ask in (request.status, request.result, request.cancel, lambda: list(request.events())):
        with pytest.raises(UnknownRequestError) as caught:
            ask()
        assert caught.value.request_id == "never-was"


def test_the_same_key_is_the_same_request(client: Any, host: Host) -> None:
    first = client.submit("echo", text="a", idempotency_key="k")
    again = client.submit("echo", text="a", idempotency_key="k")
    assert first.id == again.id
    assert client.run("echo", text="a", idempotency_key="k")["text"] == "a"
    assert host.stage.runs["a"] == 1
    with pytest.raises(errors.DuplicateRequestError) as caught:
        client.run("echo", text="b", idempotency_key="k")
    assert isinstance(caught.value, CallError)
    assert caught.value.http_status == 409


def test_a_key_that_failed_for_now_is_tried_again(client: Any, host: Host) -> None:
    host.stage.failures_left = 1
    assert client.run("flaky", text="a", idempotency_key="k")[0]["text"] == "a"
    assert host.stage.runs["a"] == 2


def test_functions_are_listed(client: Any) -> None:
    listed = {function["name"]: function for function in client.functions()}
    assert listed["count"]["output_mode"] == "incremental"
    assert listed["echo"]["input_schema"]["properties"]["text"] == {"type": "string", "default": ""}


def test_what_a_host_does_not_have_is_an_error(client: Any) -> None:
    for ask in (client.workers, client.models, client.releases, lambda: list(client.requests())):
        with pytest.raises(CallError):
            ask()


def test_nobody_listens(open_client: Open) -> None:
    client = open_client("http://127.0.0.1:9", retry=RetryPolicy(attempts=2, first_s=0.001))
    for ask in (lambda: client.run("echo"), client.functions, lambda: client.submit("echo")):
        with pytest.raises(
            UnreachableError, match=r"nobody listens at http://127\.0\.0\.1:9$"
        ) as caught:
            ask()
        assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://u:p@host", "http://host:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(errors.ValidationError, match="no URL of a host") as refusal:
        Client(url)
    assert "u:p" not in str(refusal.value), "nobody reads a password here"


def test_a_bare_address_means_http(host: Host) -> None:
    with Client(host.address) as client:
        assert client.url == host.url
        assert client.run("echo", text="a")["text"] == "a"


def test_a_closed_client_says_so(host: Host) -> None:
    client = Client(host.url)
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.run("echo")


def test_threads_share_a_client(host: Host) -> None:
    found: list[Any] = []
    with Client(host.url) as client:

        def call(number: int) -> None:
            found.append(client.run("echo", count=number, result_type=Text).count)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert sorted(found) == list(range(20))


def test_types_are_inferred() -> None:
    def use(client: Client) -> tuple[Text, list[Text]]:
        one: Text = client.run("echo", result_type=Text)
        return one, [item for item in client.stream("count", item_type=Text)]

    assert callable(use)


def test_events_decode() -> None:
    event = StreamEvent(id=1, name="delta", raw=b'{"text": "a"}')
    assert msgspec.json.decode(event.raw, type=Text) == Text("a")
    assert event.data == {"text": "a"}
    assert not event.is_last
    assert StreamEvent(id=2, name="delta", raw=b"{").data is None
