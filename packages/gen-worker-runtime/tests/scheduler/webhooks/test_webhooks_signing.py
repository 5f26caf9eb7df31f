"""Webhooks are signed as Standard Webhooks says, and only what is signed lately is taken."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import FatalError, ValidationError
from gen_worker.runtime.scheduler.webhooks import (
    WebhookSecrets,
    WebhookSignatureError,
    signatures,
    verify,
)

if TYPE_CHECKING:
    from pathlib import Path

# The example of https://github.com/standard-webhooks/standard-webhooks, which all libraries test.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def headers(**changed: str) -> dict[str, str]:
    made = {"id": ID, "timestamp": str(TIMESTAMP), "signature": SIGNATURE} | changed
    return {f"Webhook-{name.title()}": value for name, value in made.items()}


def test_the_example_of_the_standard() -> None:
    assert signatures(ID, TIMESTAMP, BODY, [SECRET]) == SIGNATURE
    assert verify(BODY, headers(), SECRET, now=TIMESTAMP) == ID
    assert verify(BODY.decode(), headers(), [OTHER, SECRET], now=TIMESTAMP + 299) == ID


@pytest.mark.parametrize(
    ("body", "changed", "secret", "now"),
    [
        (BODY + b" ", {}, SECRET, TIMESTAMP),
        (BODY, {"id": "msg_other"}, SECRET, TIMESTAMP),
        (BODY, {"timestamp": str(TIMESTAMP + 1)}, SECRET, TIMESTAMP),
        (BODY, {"timestamp": "soon"}, SECRET, TIMESTAMP),
        (BODY, {"timestamp": "9" * 30}, SECRET, TIMESTAMP),
        (BODY, {"signature": ""}, SECRET, TIMESTAMP),
        (BODY, {"signature": SIGNATURE.replace("v1", "v2")}, SECRET, TIMESTAMP),
        (BODY, {"signature": "v1,äöü v1,"}, SECRET, TIMESTAMP),
        (BODY, {}, OTHER, TIMESTAMP),
        (BODY, {}, SECRET, TIMESTAMP + 301),
        (BODY, {}, SECRET, TIMESTAMP - 301),
    ],
)
def test_what_is_not_signed_is_refused(
    body: bytes, changed: dict[str, str], secret: str, now: float
) -> None:
    with pytest.raises(WebhookSignatureError):
        verify(body, headers(**changed), secret, now=now)


def test_a_secret_that_is_none_is_named() -> None:
    with pytest.raises(ValidationError, match="whsec_"):
        verify(BODY, headers(), "hunter2!", now=TIMESTAMP)


@given(st.text(), st.text(), st.text(), st.binary())
def test_no_header_breaks_it(webhook_id: str, timestamp: str, signature: str, body: bytes) -> None:
    sent = headers(id=webhook_id, timestamp=timestamp, signature=signature)
    with pytest.raises(WebhookSignatureError):
        verify(body, sent, SECRET, now=TIMESTAMP)


# -- the file of secrets -------------------------------------------------------------------------


def test_the_secret_of_an_owner_stays_and_is_no_other_owners(tmp_path: Path) -> None:
    path = tmp_path / "webhook-secrets"
    secrets = WebhookSecrets(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert secrets.of("acme") == WebhookSecrets(path).of("acme")
    assert len({*secrets.of("acme"), *secrets.of("other"), *secrets.of("")}) == 3
    sent = signatures(ID, TIMESTAMP, BODY, secrets.of("acme"))
    (shown,) = secrets.of("acme")
    assert verify(BODY, headers(signature=sent), shown, now=TIMESTAMP) == ID


def test_while_a_secret_is_replaced_both_are_good(tmp_path: Path) -> None:
    running, operator = (WebhookSecrets(tmp_path / "secrets") for _ in range(2))
    (first,) = running.of("acme")
    operator.rotate()
    second, still = running.of("acme")
    assert still == first
    sent = headers(signature=signatures(ID, TIMESTAMP, BODY, running.of("acme")))
    for secret in (first, second):
        assert verify(BODY, sent, secret, now=TIMESTAMP) == ID
    operator.rotate()
    third, still = running.of("acme")
    assert still == second
    assert third not in (first, second)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    secrets = WebhookSecrets(path)
    for content in ("", "xyz\n", "abcd\n"):
        path.write_text(content)
        with pytest.raises(FatalError, match="secrets"):
            WebhookSecrets(path)
    path.unlink()
    with pytest.raises(FatalError, match="bring back a copy"):
        secrets.of("acme")
