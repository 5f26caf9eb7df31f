"""What a token says is read without trusting it, and nothing in it can do harm."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.runtime.auth import Claims, read_claims


def token_of(claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{body}.c2ln"


def test_who_we_are_is_in_the_token() -> None:
    token = token_of({"sub": "w-1", "release_id": "rel-1", "iss": "hub", "exp": 5, "more": [1]})
    assert read_claims(token) == Claims(
        subject="w-1", release_id="rel-1", issuer="hub", expires_at=5
    )


@pytest.mark.parametrize("subject", ["w", "wö", "w" * 50, "??>>", " w "])
def test_every_length_and_alphabet_is_read(subject: str) -> None:
    claims = read_claims(token_of({"sub": subject}))
    assert claims is not None
    assert claims.subject == subject.strip()


@pytest.mark.parametrize(
    "claims",
    [{}, {"sub": 5, "release_id": None, "iss": ["x"], "exp": "soon"}, {"sub": "", "exp": True}],
)
def test_what_a_token_does_not_say_is_empty(claims: dict[str, Any]) -> None:
    assert read_claims(token_of(claims)) == Claims()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "dev-worker-jwt",
        "a.b",
        "a.b.c.d",
        "..",
        "e30.%%%.sig",
        "e30.ä.sig",
        token_of([1]),
        token_of("text"),
        "e30." + base64.urlsafe_b64encode(b"\xff\xfe").decode().rstrip("=") + ".sig",
        "e30." + base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=") + ".sig",
        "e30." + base64.urlsafe_b64encode(b'{"a":' * 100_000).decode().rstrip("=") + ".sig",
    ],
)
def test_what_is_no_token_says_nothing(token: str) -> None:
    assert read_claims(token) is None


@given(st.text())
def test_any_text_is_read_or_says_nothing(text: str) -> None:
    for token in (text, f"a.{text}.b"):
        assert read_claims(token) is None or isinstance(read_claims(token), Claims)


def test_reading_loads_no_cryptography() -> None:
    code = (
        "import sys; from gen_worker.runtime.auth import read_claims; read_claims('e30.e30.x')\n"
        "sys.exit(any(name in sys.modules for name in ('jwt', 'cryptography', 'ssl')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
