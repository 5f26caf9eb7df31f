"""Tokens of workers: issued and checked by the scheduler, and by workers with its public key."""

from __future__ import annotations

import http.server
import json
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from gen_worker.errors import ValidationError
from gen_worker.runtime.auth import TokenRefusedError, TokenVerifier, read_claims
from gen_worker.runtime.scheduler.worker_tokens import ISSUER, KEY_NAME, WorkerTokens
from gen_worker.runtime.worker.identity import identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Clock

RELEASE = "r" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture
def tokens(folder: Path, clock: Clock) -> WorkerTokens:
    return WorkerTokens(folder, now=clock)


def test_a_worker_is_who_its_token_says(tokens: WorkerTokens) -> None:
    token = tokens.issue(release_id=RELEASE, owner="acme", worker_id="w1", ttl_s=60)
    claims = tokens.verify(token)
    assert (claims.subject, claims.release_id, claims.issuer) == ("w1", RELEASE, ISSUER)
    assert read_claims(token) == claims
    assert identity_of(token)[:2] == ("w1", RELEASE)


def test_a_worker_without_a_name_gets_one_that_nobody_else_has(tokens: WorkerTokens) -> None:
    names = {tokens.verify(tokens.issue(release_id=RELEASE, ttl_s=60)).subject for _ in range(3)}
    assert len(names) == 3


def test_a_token_ends(tokens: WorkerTokens, clock: Clock) -> None:
    token = tokens.issue(release_id=RELEASE, worker_id="w1", ttl_s=60)
    clock.now += 59
    tokens.verify(token)
    clock.now += 1
    with pytest.raises(TokenRefusedError, match="expired") as refusal:
        tokens.verify(token)
    assert refusal.value.reason == "expired"


def test_the_key_is_private_and_outlives_the_process(
    tokens: WorkerTokens, folder: Path, clock: Clock
) -> None:
    token = tokens.issue(release_id=RELEASE, worker_id="w1", ttl_s=60)
    assert stat.S_IMODE(os.stat(folder / KEY_NAME).st_mode) == 0o600
    assert os.listdir(folder) == [KEY_NAME]
    assert WorkerTokens(folder, now=clock).verify(token).subject == "w1"


def test_threads_that_need_the_key_first_make_one(tmp_path: Path, clock: Clock) -> None:
    places = [WorkerTokens(tmp_path / "new", now=clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda one: one.issue(release_id=RELEASE, ttl_s=60), places))
    assert all(one.verify(token) for one in places for token in made)


@pytest.mark.parametrize(
    "fields",
    [
        {"release_id": ""},
        {"release_id": RELEASE, "worker_id": "w" * 257},
        {"release_id": RELEASE, "ttl_s": 0},
        {"release_id": RELEASE, "ttl_s": float("inf")},
        {"release_id": RELEASE, "ttl_s": float("nan")},
    ],
)
def test_what_makes_no_token_is_refused(tokens: WorkerTokens, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tokens.issue(**{"ttl_s": 60, **fields})


def test_tokens_of_others_are_refused(tokens: WorkerTokens, tmp_path: Path, clock: Clock) -> None:
    other = WorkerTokens(tmp_path, now=clock).issue(release_id=RELEASE, ttl_s=60)
    good = tokens.issue(release_id=RELEASE, worker_id="w1", ttl_s=60)
    claims = jwt.decode(good, options={"verify_signature": False})
    public = tokens.jwks()["keys"][0]["n"]
    head, body, _ = good.split(".")
    hostile = {
        "another key": other,
        "no signature": f"{head}.{body}.",
        "none": jwt.encode(claims, "", algorithm="none"),
        "symmetric": jwt.encode(claims, public, algorithm="HS256"),
        "no JWT": "dev",
        "empty": "",
    }
    for name, token in hostile.items():
        with pytest.raises(TokenRefusedError):
            raise AssertionError(f"{name}: {tokens.verify(token)}")


def test_a_worker_checks_its_own_token_with_the_published_key(folder: Path) -> None:
    tokens = WorkerTokens(folder)
    document = json.dumps(tokens.jwks()).encode()

    with serving(document) as url:
        verifier = TokenVerifier(url, issuer=ISSUER)
        token = tokens.issue(release_id=RELEASE, worker_id="w1", ttl_s=60)
        assert verifier.verify(token).subject == "w1"
        with pytest.raises(TokenRefusedError):
            verifier.verify(token[:-8] + "AAAAAAAA")
    assert b'"d"' not in document, "nothing of the private key is published"


@contextmanager
def serving(document: bytes) -> Iterator[str]:
    """Answer every request with the same JSON."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, *arguments: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        finally:
            server.shutdown()
            thread.join()
