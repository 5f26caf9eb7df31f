"""Tokens against keys that a real server publishes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gen_worker.errors import AuthError
from gen_worker.models.net import UrlRefusedError
from gen_worker.runtime.auth import KeysUnavailableError, TokenRefusedError, TokenVerifier

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey as PrivateKey

    from conftest import Issuer


class FakeClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def signed(key: PrivateKey, key_id: str | None = "one", **claims: Any) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    body = {"sub": "w-1", "release_id": "rel-1", **claims}
    return jwt.encode(body, key, algorithm="RS256", headers=headers)


def refusal(verifier: TokenVerifier, token: str) -> str:
    """Return why a token is refused, and see that the error repeats nothing of it."""
    with pytest.raises(TokenRefusedError) as caught:
        verifier.verify(token)
    assert isinstance(caught.value, AuthError)
    assert "rel-1" not in str(caught.value)
    assert all(part not in str(caught.value) for part in token.split(".") if len(part) > 10)
    assert caught.value.__cause__ is None
    return caught.value.reason


def test_a_token_that_the_issuer_signed_is_good(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    claims = TokenVerifier(issuer.url).verify(signed(keys[0], exp=time.time() + 60))
    assert (claims.subject, claims.release_id) == ("w-1", "rel-1")


def test_a_token_without_a_key_name_is_checked_with_the_only_key(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    verifier = TokenVerifier(issuer.url, ttl_s=0)
    assert verifier.verify(signed(keys[0], None)).subject == "w-1"
    issuer.publish(keys[1], "two")
    assert refusal(verifier, signed(keys[0], None)) == "unknown_key"


def test_keys_without_names_are_kept_apart(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    issuer.keys.clear()
    issuer.publish(keys[0], None)
    issuer.publish(keys[1], None)
    assert refusal(TokenVerifier(issuer.url), signed(keys[1], None)) == "unknown_key"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"nbf": 2**40}, "not_yet_valid"),
        ({"iss": "somebody"}, "wrong_issuer"),
        ({"aud": "something"}, "wrong_audience"),
        ({"exp": "soon"}, "malformed"),
    ],
)
def test_what_a_token_must_say_is_checked(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey], claims: dict[str, Any], reason: str
) -> None:
    verifier = TokenVerifier(issuer.url, issuer="hub", audience="workers")
    good = {"iss": "hub", "aud": "workers"}
    assert verifier.verify(signed(keys[0], **good)).subject == "w-1"
    assert refusal(verifier, signed(keys[0], **{**good, **claims})) == reason


@pytest.mark.parametrize("missing", ["iss", "aud"])
def test_a_claim_that_is_missing_is_named(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey], missing: str
) -> None:
    claims: dict[str, Any] = {"iss": "hub", "aud": ["workers", "more"]}
    verifier = TokenVerifier(issuer.url, issuer="hub", audience="workers")
    del claims[missing]
    with pytest.raises(TokenRefusedError, match=repr(missing)) as caught:
        verifier.verify(signed(keys[0], **claims))
    assert caught.value.claim == missing


def test_issuer_and_audience_do_not_matter_unless_they_are_set(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    verifier = TokenVerifier(issuer.url)
    token = signed(keys[0], iss="anybody", aud="anything", iat=2**40)
    assert verifier.verify(token).issuer == "anybody"


def test_another_signature_is_refused(issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]) -> None:
    verifier = TokenVerifier(issuer.url)
    token = signed(keys[0])
    head, body, _ = token.split(".")
    other = signed(keys[0], sub="somebody").split(".")[1]
    assert refusal(verifier, signed(keys[1])) == "bad_signature"
    assert refusal(verifier, f"{head}.{other}.{token.split('.')[2]}") == "bad_signature"
    assert refusal(verifier, f"{head}.{body}.") == "bad_signature"


@pytest.mark.parametrize("token", ["", "dev-worker-jwt", "a.b.c", "e30.e30.e30"])
def test_what_is_no_token_is_refused_before_any_key_is_asked_for(
    issuer: Issuer, token: str
) -> None:
    assert refusal(TokenVerifier(issuer.url), token) in ("malformed", "wrong_algorithm")
    assert issuer.requests == []


@pytest.mark.parametrize("algorithm", ["HS256", "none", "ES256", "RS512"])
def test_only_one_algorithm_is_taken(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey], algorithm: str
) -> None:
    public = (
        keys[0]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": algorithm, "kid": "one"}, {"sub": "w-1"})
    ]
    # The published key as the secret of a keyed hash: the oldest trick there is.
    mac = hmac.new(public, b".".join(parts), hashlib.sha256).digest()
    token = b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()
    assert refusal(TokenVerifier(issuer.url), token) == "wrong_algorithm"


def test_published_keys_of_other_kinds_are_passed_over(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    curve = jwt.algorithms.ECAlgorithm.to_jwk(
        ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True
    )
    good = issuer.keys[0]
    issuer.keys[:] = [
        {**curve, "kid": "one"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "one"},
        {"kty": "RSA", "kid": "one"},
        {"kty": "RSA", "kid": "one", "n": "!", "e": 5},
        {**good, "use": "enc"},
        {**good, "alg": "RS512"},
        "text",  # type: ignore[list-item]
        good,
    ]
    assert TokenVerifier(issuer.url).verify(signed(keys[0])).subject == "w-1"


def test_keys_are_kept_until_they_are_too_old(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    clock = FakeClock()
    verifier = TokenVerifier(issuer.url, ttl_s=300, clock=clock)
    for now, requests in ((1000, 1), (1299, 1), (1300, 2), (1301, 2)):
        clock.now = now
        verifier.verify(signed(keys[0]))
        assert len(issuer.requests) == requests


def test_an_unknown_key_makes_the_keys_be_fetched_again_once(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    verifier = TokenVerifier(issuer.url, clock=FakeClock())
    verifier.verify(signed(keys[0]))
    issuer.keys.clear()
    issuer.publish(keys[1], "two")
    assert verifier.verify(signed(keys[1], "two")).subject == "w-1"
    assert len(issuer.requests) == 2
    assert refusal(verifier, signed(keys[0], "three")) == "unknown_key"
    assert len(issuer.requests) == 3


def test_keys_just_fetched_are_not_fetched_again_for_an_unknown_key(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    assert refusal(TokenVerifier(issuer.url), signed(keys[0], "other")) == "unknown_key"
    assert len(issuer.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"no"),
        (404, b"{}"),
        (200, b""),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [1, "a", {"kty": "RSA"}]}'),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, b'{"keys": [' + b" " * 2_000_000 + b"]}"),
    ],
)
def test_keys_that_cannot_be_read_are_an_error_of_their_own(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey], status: int, body: bytes
) -> None:
    issuer.status, issuer.body = status, body
    with pytest.raises(KeysUnavailableError) as caught:
        TokenVerifier(issuer.url).verify(signed(keys[0]))
    assert "jwks.json" in str(caught.value)
    assert "TOPSECRET" not in str(caught.value)


def test_an_issuer_that_does_not_answer_is_waited_for_only_so_long(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    issuer.may_answer.clear()
    with pytest.raises(KeysUnavailableError):
        TokenVerifier(issuer.url, timeout_s=0.2).verify(signed(keys[0]))


def test_after_a_failure_the_keys_are_asked_for_again(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    verifier = TokenVerifier(issuer.url, clock=FakeClock())
    issuer.status = 503
    with pytest.raises(KeysUnavailableError):
        verifier.verify(signed(keys[0]))
    issuer.status = 200
    assert verifier.verify(signed(keys[0])).subject == "w-1"


def test_an_issuer_that_is_not_there_is_an_error_of_its_own(
    issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    verifier = TokenVerifier(issuer.url)
    issuer.close()
    with pytest.raises(KeysUnavailableError):
        verifier.verify(signed(keys[0]))


def test_a_url_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(UrlRefusedError):
        TokenVerifier("ftp://issuer.example/keys")


def test_errors_survive_pickling() -> None:
    for error in (TokenRefusedError("expired"), KeysUnavailableError("http://a", "no")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_verifier_loads_no_cryptography_before_its_first_token() -> None:
    code = (
        "import sys; from gen_worker.runtime.auth import TokenVerifier\n"
        "TokenVerifier('http://127.0.0.1:1/keys')\n"
        "sys.exit(any(name in sys.modules for name in ('jwt', 'cryptography', 'httpx')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
