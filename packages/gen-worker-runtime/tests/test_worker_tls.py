"""A worker process that encrypts its connection and checks its token: what its operator sees."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from gen_worker.testing.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey as PrivateKey

    from conftest import Issuer

CODE = """
import msgspec
from gen_worker import RequestContext, inference_function

class Order(msgspec.Struct):
    text: str = ""

@inference_function
def sell(ctx: RequestContext, payload: Order) -> Order:
    return Order(payload.text.upper())
"""
LOCK = 'lock_version = 1\n[[functions]]\nname = "sell"\nmodule = "shop"\n'
TIMEOUT_S = 60.0


def signed(key: PrivateKey, name: str = "one", **claims: Any) -> str:
    body = {"sub": "w-1", "release_id": "rel-1", "aud": "workers", "exp": time.time() + 600}
    return jwt.encode({**body, **claims}, key, algorithm="RS256", headers={"kid": name})


def certified(key: PrivateKey, address: str) -> bytes:
    """Return a certificate that this key signed for itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "orchestrator")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def secure(key: PrivateKey, certificate: bytes) -> Orchestrator:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Orchestrator(credentials=grpc.ssl_server_credentials([(private, certificate)]))


class Start(Protocol):
    """Starts a worker; keyword arguments are its environment."""

    def __call__(self, address: str, **environment: str) -> subprocess.Popen[str]: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "shop.py").write_text(CODE)
    (tmp_path / "endpoint.lock").write_text(LOCK)
    processes: list[subprocess.Popen[str]] = []

    def start(address: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "gen_worker.entrypoint"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "GEN_WORKER_LOCK": "endpoint.lock",
                "ORCHESTRATOR_PUBLIC_ADDR": address,
                "WORKER_JWT": "dev-worker-jwt",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def fatal_line(log: str) -> dict[str, Any]:
    (line,) = [line for line in log.splitlines() if "worker.fatal " in line]
    found: dict[str, Any] = json.loads(line.partition("worker.fatal ")[2])
    return found


async def ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a worker and return what it wrote."""
    _, log = await asyncio.to_thread(process.communicate, timeout=TIMEOUT_S)
    return log


async def check_works(start: Start, orchestrator: Orchestrator, **environment: str) -> str:
    """Have a worker run a job, and end it; return the id it has."""
    process = start(f"grpcs://{orchestrator.address}", **environment)
    worker = await orchestrator.connected(timeout_s=TIMEOUT_S)
    job = worker.submit("sell", {"text": "tea"})
    assert await job.output(timeout_s=TIMEOUT_S) == {"text": "TEA"}
    assert worker.metadata["authorization"] == f"Bearer {environment['WORKER_JWT']}"
    process.terminate()
    log = await ended(process)
    assert process.returncode == 0, log
    orchestrator.workers.clear()
    return worker.worker_id


async def test_a_worker_over_tls_whose_token_is_checked(
    start: Start, tmp_path: Path, issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    certificate = certified(keys[0], "127.0.0.1")
    (tmp_path / "roots.pem").write_bytes(certificate)
    checked = {
        "SSL_CERT_FILE": str(tmp_path / "roots.pem"),
        "SCHEDULER_JWKS_URL": issuer.url,
        "SCHEDULER_JWT_AUDIENCE": "workers",
    }
    async with secure(keys[0], certificate) as orchestrator:
        first = signed(keys[0], sub="w-one")
        assert await check_works(start, orchestrator, **checked, WORKER_JWT=first) == "w-one"
        issuer.keys.clear()
        issuer.publish(keys[1], "two")  # and whoever starts from now on has a token of it
        second = signed(keys[1], "two", sub="w-two")
        assert await check_works(start, orchestrator, **checked, WORKER_JWT=second) == "w-two"


async def test_a_token_that_is_not_good_stops_the_worker_before_it_dials(
    start: Start, issuer: Issuer, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    cases = {
        signed(keys[1]): "its signature is not the issuer's",
        signed(keys[1], "two"): "its key is not among the issuer's published keys",
        signed(keys[0], aud="others"): "it is meant for another audience",
    }
    checked = {"SCHEDULER_JWKS_URL": issuer.url, "SCHEDULER_JWT_AUDIENCE": "workers"}
    async with Orchestrator() as orchestrator:
        processes = {
            token: start(orchestrator.address, **checked, WORKER_JWT=token) for token in cases
        }
        for token, process in processes.items():
            log = await ended(process)
            fatal = fatal_line(log)
            assert (process.returncode, fatal["exit_code"]) == (1, 1)
            assert fatal["phase_context"] == "settings_load"
            assert "WORKER_JWT" in fatal["exception_message"]
            assert f"the token is refused: {cases[token]}" in fatal["exception_message"]
            assert token not in log
            assert "TOPSECRET" not in log
        assert orchestrator.workers == {}


async def test_keys_that_are_out_of_reach_stop_the_worker(
    start: Start, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    url = "http://127.0.0.1:1/jwks.json?secret=TOPSECRET"
    token = signed(keys[0])
    process = start("127.0.0.1:1", SCHEDULER_JWKS_URL=url, WORKER_JWT=token)
    log = await ended(process)
    fatal = fatal_line(log)
    assert (process.returncode, fatal["phase_context"]) == (1, "settings_load")
    problem = "the keys of http://127.0.0.1:1/jwks.json could not be read"
    assert problem in fatal["exception_message"]
    assert "TOPSECRET" not in log
    assert token not in log


async def test_an_orchestrator_whose_certificate_is_not_good_is_not_talked_to(
    start: Start, tmp_path: Path, keys: tuple[PrivateKey, PrivateKey]
) -> None:
    """One that nobody here knows, and one that is for another address."""
    good, other = certified(keys[0], "127.0.0.1"), certified(keys[1], "127.0.0.2")
    (tmp_path / "other.pem").write_bytes(other)
    async with (
        secure(keys[0], good) as known,
        secure(keys[1], other) as elsewhere,
    ):
        processes = [
            start(
                f"grpcs://{orchestrator.address}",
                SSL_CERT_FILE=str(tmp_path / roots),
                MAX_RECONNECT_ATTEMPTS="2",
            )
            for orchestrator, roots in (
                (known, "other.pem"),
                (elsewhere, "other.pem"),
            )
        ]
        logs = [await ended(process) for process in processes]
        assert [process.returncode for process in processes] == [1, 1]
        for log in logs:
            assert '"phase":"scheduler_connect_failed"' in log
            assert "2 attempts in a row failed, the last to grpcs://127.0.0.1:" in log
            assert log.count("cannot connect to grpcs://127.0.0.1:") == 1
            assert "connection lost" not in log
            assert "dev-worker-jwt" not in log
        assert "CERTIFICATE_VERIFY_FAILED" in logs[0]
        assert all(not one.workers for one in (known, elsewhere))
