"""What an operator says reaches the scheduler: each variable, by its name."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from msgspec.structs import replace

from gen_worker.errors import SettingsError
from gen_worker.manifest import dump_lock
from gen_worker.models.settings import ModelSettings
from gen_worker.runtime.auth.claims import read_claims
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler import Scheduler, SchedulerSettings
from gen_worker.runtime.scheduler.addresses import url_towards
from gen_worker.runtime.scheduler.dispatcher import DispatchOptions
from gen_worker.runtime.scheduler.options import (
    certificate,
    dispatch_options,
    http_address,
    is_open,
    keeping,
    request_options,
    webhook_options,
)
from gen_worker.runtime.scheduler.requests import RequestOptions, RetryPolicy
from gen_worker.runtime.scheduler.retention import Keeping
from gen_worker.runtime.scheduler.waiting import WaitingLimits
from gen_worker.runtime.scheduler.webhooks import WebhookOptions
from gen_worker.settings import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from conftest import MakeProject

DAY_S = 86_400.0
TIMEOUT_S = 60.0
PREFIX = "GEN_WORKER_SCHEDULER_"


def read(**environ: str) -> SchedulerSettings:
    """Read them from an environment; names are without what they all begin with."""
    named = {PREFIX + name: value for name, value in environ.items()}
    return load(SchedulerSettings, environ=named, files=())


@asynccontextmanager
async def opened(folder: Path, **environ: str) -> AsyncIterator[Scheduler]:
    places = {
        PREFIX + "HTTP": "127.0.0.1:0",
        PREFIX + "WORKERS": "127.0.0.1:0",
        "GEN_WORKER_DATA_DIR": str(folder),
    }
    named = {PREFIX + name: value for name, value in environ.items()}
    settings = load(SchedulerSettings, environ=places | named, files=())
    scheduler = await Scheduler.open(settings, models=ModelSettings())
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def asked(
    scheduler: Scheduler, path: str, body: bytes | None = None, *, token: str = ""
) -> tuple[int, Any]:
    """Return the status and what came with it."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    question = urllib.request.Request(scheduler.url + path, body, headers)

    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(question, timeout=TIMEOUT_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return await asyncio.to_thread(ask)


async def released(scheduler: Scheduler, project: Path) -> None:
    """Have a release of one function."""
    function = {"name": "draw", "module": "paint", "output_mode": "single"}
    lock = {"lock_version": 1, "endpoint_name": "paint", "functions": [function]}
    await scheduler.releases.publish(
        project, lock=dump_lock(lock).encode(), environment="cpu", owner="acme", first_tag="prod"
    )


@pytest.mark.claims(
    "GEN_WORKER_SCHEDULER_HTTP",
    "GEN_WORKER_SCHEDULER_REQUIRES_TOKENS",
    "GEN_WORKER_SCHEDULER_TOKEN",
)
def test_where_clients_are_served_and_who_needs_a_token() -> None:
    def needs_none(**environ: str) -> bool:
        settings = read(**environ)
        return is_open(settings, http_address(settings))

    assert http_address(read()) == TcpAddress("127.0.0.1", 8787)
    assert http_address(read(HTTP="10.0.0.1:80")) == TcpAddress("10.0.0.1", 80)
    with pytest.raises(SettingsError, match="no host:port"):
        http_address(read(HTTP="unix:///tmp/socket"))
    assert needs_none()
    assert not needs_none(HTTP="10.0.0.1:80")
    assert not needs_none(TOKEN="t0ken")
    assert not needs_none(REQUIRES_TOKENS="always")
    assert needs_none(REQUIRES_TOKENS="never", TOKEN="t0ken", HTTP="0.0.0.0:80")
    assert "t0ken" not in repr(read(TOKEN="t0ken"))


@pytest.mark.claims("GEN_WORKER_SCHEDULER_WORKER_TOKEN")
async def test_a_token_that_only_starts_workers(tmp_path: Path, make_project: MakeProject) -> None:
    given = {"TOKEN": "root", "WORKER_TOKEN": "starter"}
    assert "starter" not in repr(read(**given))
    async with opened(tmp_path / "data", **given) as scheduler:
        await released(scheduler, make_project())
        body = b'{"owner": "acme", "endpoint": "paint"}'
        for path, asks in (("/v1/workers/tokens", body), ("/v1/releases", None)):
            status, _ = await asked(scheduler, path, asks, token="starter")
            assert status < 400, path
        status, _ = await asked(scheduler, "/v1/requests", token="starter")
        assert status == 403


@pytest.mark.claims(
    "GEN_WORKER_SCHEDULER_CANCEL_GRACE_S",
    "GEN_WORKER_SCHEDULER_KEEP_BYTES",
    "GEN_WORKER_SCHEDULER_KEEP_DAYS",
    "GEN_WORKER_SCHEDULER_KEEP_REQUESTS",
    "GEN_WORKER_SCHEDULER_MAX_ATTEMPTS",
    "GEN_WORKER_SCHEDULER_MAX_LOST",
    "GEN_WORKER_SCHEDULER_MAX_WAITING",
    "GEN_WORKER_SCHEDULER_MAX_WAITING_PER_FUNCTION",
    "GEN_WORKER_SCHEDULER_MAX_WAITING_PER_OWNER",
    "GEN_WORKER_SCHEDULER_RETRY_DELAY_S",
    "GEN_WORKER_SCHEDULER_RETRY_MAX_DELAY_S",
)
def test_how_much_may_wait_how_often_it_is_tried_and_how_long_it_is_kept() -> None:
    assert keeping(read()) == Keeping()
    assert request_options(read()) == RequestOptions()

    said = read(KEEP_DAYS="0.5", KEEP_REQUESTS="2", KEEP_BYTES="3")
    assert keeping(said) == Keeping(keep_s=DAY_S / 2, max_requests=2, max_bytes=3)
    said = read(
        MAX_WAITING="5",
        MAX_WAITING_PER_FUNCTION="4",
        MAX_WAITING_PER_OWNER="3",
        MAX_ATTEMPTS="6",
        MAX_LOST="7",
        RETRY_DELAY_S="0.25",
        RETRY_MAX_DELAY_S="8",
        CANCEL_GRACE_S="9",
    )
    assert request_options(said) == RequestOptions(
        waiting=WaitingLimits(max_requests=5, max_per_function=4, max_per_owner=3),
        retries=RetryPolicy(max_attempts=6, max_lost=7, first_delay_s=0.25, max_delay_s=8.0),
        cancel_grace_s=9.0,
    )
    with pytest.raises(SettingsError):
        read(MAX_WAITING="0")


@pytest.mark.claims(
    "GEN_WORKER_SCHEDULER_LOST_AFTER_S",
    "GEN_WORKER_SCHEDULER_MAX_RUNNING",
    "GEN_WORKER_SCHEDULER_MUTE_AFTER_S",
    "GEN_WORKER_SCHEDULER_MUTE_GRACE_S",
    "GEN_WORKER_SCHEDULER_WEBHOOK_URLS",
)
def test_what_becomes_of_lost_workers_full_functions_and_webhooks() -> None:
    others = DispatchOptions(processor_slots=9)
    assert dispatch_options(read(), others) == replace(others, lost_after_s=30.0)
    said = dispatch_options(read(LOST_AFTER_S="7", MAX_RUNNING="draw=3, ann/paint/draw=1"), others)
    limits = {"draw": 3, "ann/paint/draw": 1}
    assert said == replace(others, lost_after_s=7.0, max_running=limits)
    mute = dispatch_options(read(MUTE_AFTER_S="60", MUTE_GRACE_S="0"), others)
    assert mute == replace(others, mute_after_s=60.0, mute_grace_s=0.0)
    with pytest.raises(SettingsError, match="MAX_RUNNING"):
        dispatch_options(read(MAX_RUNNING="draw"), others)

    assert webhook_options(read(), is_open=True) == WebhookOptions(allow_private=True)
    trusted = webhook_options(read(WEBHOOK_URLS="http://a,http://b:1/x"), is_open=False)
    assert trusted == WebhookOptions(allow_private=False, trusted=("http://a", "http://b:1/x"))


@pytest.mark.claims("GEN_WORKER_SCHEDULER_PUBLIC_URL")
def test_under_which_url_others_reach_it() -> None:
    bound = ("127.0.0.1", 5)
    assert url_towards(read(), bound) == "http://127.0.0.1:5"
    assert url_towards(read(PUBLIC_URL="https://api.example/"), bound) == "https://api.example"


@pytest.mark.claims(
    "GEN_WORKER_SCHEDULER_PUBLIC_WORKERS",
    "GEN_WORKER_SCHEDULER_WORKERS",
    "GEN_WORKER_SCHEDULER_WORKER_TOKEN_DAYS",
)
async def test_what_workers_are_started_with(tmp_path: Path, make_project: MakeProject) -> None:
    """Also the token that is made for whoever asks for one over HTTP."""
    assert (read().workers, read().worker_token_days) == ("127.0.0.1:8788", 30.0)
    said = {"PUBLIC_WORKERS": "grpcs://api.example:443", "WORKER_TOKEN_DAYS": "2"}
    async with opened(tmp_path / "data", **said) as scheduler:
        assert scheduler.gateway.address.startswith("127.0.0.1:")
        await released(scheduler, make_project())
        wanted = json.dumps({"owner": "acme", "endpoint": "paint"}).encode()
        status, ticket = await asked(scheduler, "/v1/workers/tokens", wanted)
        assert (status, ticket["address"]) == (201, "grpcs://api.example:443")
        other = await asyncio.to_thread(scheduler.issue_worker_token, "r-1")
        for token in (ticket["token"], other):
            claims = read_claims(token)
            assert claims is not None
            assert claims.expires_at is not None
            assert DAY_S < claims.expires_at - time.time() < 3 * DAY_S


@pytest.mark.claims("GEN_WORKER_SCHEDULER_DRAIN_S")
async def test_how_long_a_stop_waits_for_answers_under_way(tmp_path: Path) -> None:
    """The caller here does not send what it has announced."""
    for patience_s in ("0.1", "10000"):
        async with opened(tmp_path, DRAIN_S=patience_s) as scheduler:
            port = int(scheduler.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/files?name=a HTTP/1.1\r\nhost: 127.0.0.1\r\n")
            writer.write(b"content-length: 9\r\nexpect: 100-continue\r\n\r\n")
            assert b" 100 " in await reader.readline(), "it has begun to read"
            closing = asyncio.create_task(scheduler.close())
            if patience_s == "10000":
                await asyncio.wait((closing,), timeout=1.0)
                assert not closing.done()
                writer.close()
            async with asyncio.timeout(TIMEOUT_S):
                await closing
            writer.close()


@pytest.mark.claims(
    "GEN_WORKER_SCHEDULER_MAX_PAYLOAD_BYTES", "GEN_WORKER_SCHEDULER_MAX_UPLOAD_BYTES"
)
async def test_how_much_a_caller_may_send(tmp_path: Path, make_project: MakeProject) -> None:
    said = {"MAX_PAYLOAD_BYTES": "100", "MAX_UPLOAD_BYTES": "1000"}
    async with opened(tmp_path / "data", **said) as scheduler:
        await released(scheduler, make_project())
        for chars, status in ((10, 202), (200, 413), (2000, 413)):
            body = {"function": "acme/paint/draw", "payload": {"text": "x" * chars}}
            answer = await asked(scheduler, "/v1/requests", json.dumps(body).encode())
            assert answer[0] == status, answer
        assert (await asked(scheduler, "/v1/files?name=a", b"x" * 1000))[0] == 201
        assert (await asked(scheduler, "/v1/files?name=a", b"x" * 1001))[0] == 413


@pytest.mark.claims("GEN_WORKER_SCHEDULER_TLS_CERTIFICATE", "GEN_WORKER_SCHEDULER_TLS_KEY")
def test_a_certificate_comes_with_its_key(tmp_path: Path) -> None:
    assert certificate(read()) is None
    paths = tmp_path / "chain.pem", tmp_path / "key.pem"
    with pytest.raises(SettingsError, match="needs its key"):
        certificate(read(TLS_CERTIFICATE=str(paths[0])))
    both = read(TLS_CERTIFICATE=str(paths[0]), TLS_KEY=str(paths[1]))
    with pytest.raises(SettingsError, match="cannot be read"):
        certificate(both)
    for path in paths:
        path.write_bytes(b"PEM")
    assert isinstance(certificate(both), grpc.ServerCredentials)
