from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.diagnostics import Diagnostic, emit_diagnostic_log, install_diagnostics, sanitize

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def reports() -> Iterator[list[Diagnostic]]:
    collected: list[Diagnostic] = []
    previous = install_diagnostics(collected.append)
    yield collected
    install_diagnostics(previous)


def test_outside_a_worker_nothing_is_taken() -> None:
    assert emit_diagnostic_log("check", "hello") is False


def test_a_worker_gets_the_report(reports: list[Diagnostic]) -> None:
    before = time.time()
    taken = emit_diagnostic_log(
        "weights_check",
        "loaded",
        {"files": 3},
        severity="warning",
        endpoint_class="Speaker",
        function_name="say",
        image_digest="sha256:ab",
    )
    assert taken is True
    (report,) = reports
    assert msgspec.structs.replace(report, at=0.0) == Diagnostic(
        category="weights_check",
        message="loaded",
        severity="warning",
        payload={"files": 3},
        endpoint_class="Speaker",
        function_name="say",
        image_digest="sha256:ab",
        at=0.0,
    )
    assert before <= report.at <= time.time()


def test_the_sink_before_is_returned_and_can_be_put_back(reports: list[Diagnostic]) -> None:
    other: list[Diagnostic] = []
    mine = install_diagnostics(other.append)
    emit_diagnostic_log("a")
    assert install_diagnostics(mine) == other.append
    emit_diagnostic_log("b")
    assert ([r.category for r in other], [r.category for r in reports]) == (["a"], ["b"])


def test_a_sink_that_fails_is_the_workers_problem() -> None:
    def broken(_report: Diagnostic) -> None:
        raise RuntimeError("the stream is gone")

    previous = install_diagnostics(broken)
    try:
        assert emit_diagnostic_log("check") is False
    finally:
        install_diagnostics(previous)


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_payload_that_cannot_be_shown_is_no_error(reports: list[Diagnostic]) -> None:
    assert emit_diagnostic_log("check", payload={"object": Hostile()}) is False
    assert reports == []


@pytest.mark.parametrize(
    "key",
    [
        *("token", "TOKEN", "hf_token", "hf-token", "api_key", "api-key", "apikey", "apiKey"),
        *("access_key", "AWS_SECRET", "password", "Authorization", "credential", "credentials"),
        *("jwt", "worker_jwt_value", "userPassword"),
    ],
)
def test_values_under_secret_names_are_hidden(key: str) -> None:
    assert sanitize({"a": [{key: {"deep": "hunter2"}}]}) == {"a": [{key: "<redacted>"}]}


@pytest.mark.parametrize(
    "key", ["tokens_per_s", "tokenizer", "secretary", "monkey", "keyboard", "output_tokens"]
)
def test_names_that_only_look_like_it_are_not(key: str) -> None:
    assert sanitize({key: 7}) == {key: 7}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer <redacted>"),
        ("https://h/f?X-Amz-Signature=abc&size=3", "https://h/f?X-Amz-Signature=<redacted>&size=3"),
        ("https://h/f?a=1&token=abc#x", "https://h/f?a=1&token=<redacted>#x"),
        ("https://h/f?sig=a%2Fb", "https://h/f?sig=<redacted>"),
        ("https://h/f?key=AIza", "https://h/f?key=<redacted>"),
        ("postgres://me:p@ss@h/db", "postgres://<redacted>@h/db"),
        ("got hf_" + "a" * 30, "got <redacted>"),
        (
            "plain text, /a/path and https://h/f?size=3",
            "plain text, /a/path and https://h/f?size=3",
        ),
    ],
)
def test_credentials_inside_texts_are_masked(text: str, masked: str) -> None:
    assert sanitize({"text": text}) == {"text": masked}


def test_a_secret_in_the_message_is_masked(reports: list[Diagnostic]) -> None:
    emit_diagnostic_log("check", "got Bearer abc")
    assert reports[0].message == "got Bearer <redacted>"


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": 1}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_values_are_cut_and_what_is_missing_is_said() -> None:
    clean = sanitize({"text": "x" * 5000, "list": list(range(100)), "bytes": b"12345"})
    assert len(clean["text"]) == 2048
    assert clean["text"].endswith("…")
    assert clean["list"] == [*range(64), "<36 more>"]
    assert clean["bytes"] == {"type": "bytes", "size_bytes": 5}
    wide = sanitize({"wide": {str(number): number for number in range(100)}})["wide"]
    assert (len(wide), wide["<more>"]) == (65, 36)
    deep = sanitize(nested(20))
    for _ in range(7):
        deep = deep["a"]
    assert deep == {"a": "<dict>"}


def test_a_payload_that_is_still_too_large_becomes_a_preview() -> None:
    clean = sanitize({str(number): "x" * 1000 for number in range(60)})
    assert clean["truncated"] is True
    assert clean["original_size_bytes"] > 60_000
    assert clean["payload_preview"].startswith('{"0":"xxx')


def test_odd_values_become_text() -> None:
    payload: dict[Any, Any] = {1: float("nan"), "set": {1}, "none": None, "type": int, "neg": -1.5}
    payload |= {"huge": 10**5000, "half": "\ud800"}
    clean = sanitize(payload)
    assert clean == {
        "1": "nan",
        "set": [1],
        "none": None,
        "type": "<class 'int'>",
        "neg": -1.5,
        "huge": "<int of 16610 bits>",
        "half": r"\ud800",
    }


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(st.dictionaries(st.text(max_size=9), json_like, max_size=5))
def test_any_payload_ends_as_json_of_bounded_size(payload: dict[str, Any]) -> None:
    clean = sanitize(payload)
    encoded = msgspec.json.encode(clean)
    assert len(encoded) <= 16 * 1024
    assert msgspec.json.decode(encoded) == clean
