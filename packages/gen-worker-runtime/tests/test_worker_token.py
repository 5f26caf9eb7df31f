"""The token to connect with is the one that came last, however it came."""

import pytest

from gen_worker.runtime.wire import WorkerEvent
from gen_worker.runtime.worker.token import ConnectionToken


def rotation(payload: bytes) -> WorkerEvent:
    return WorkerEvent(event_type="worker.jwt.rotate", payload_json=payload)


def test_what_came_last_is_used() -> None:
    kept = ["first"]
    token = ConnectionToken("first", lambda: kept[0])
    assert token.current() == "first"
    token.rotate(rotation(b'{"worker_jwt": "sent"}'))
    assert token.current() == "sent"
    kept[0] = "written"
    assert [token.current(), token.current()] == ["written", "written"]
    token.rotate(rotation(b'{"token": "sent again"}'))
    assert token.current() == "sent again"


def test_a_place_that_cannot_be_read_changes_nothing() -> None:
    token = ConnectionToken("first", lambda: "")
    token.rotate(rotation(b'{"worker_jwt": "sent"}'))
    assert token.current() == "sent"


@pytest.mark.parametrize(
    "payload", [b"", b"no json", b"[]", b"{}", b'{"worker_jwt": 5}', b'{"token": ""}', b"\xff"]
)
def test_what_is_no_token_changes_nothing(payload: bytes) -> None:
    token = ConnectionToken("first")
    token.rotate(rotation(payload))
    assert token.current() == "first"
