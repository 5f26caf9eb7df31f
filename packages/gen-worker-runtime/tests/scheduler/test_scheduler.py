"""A whole scheduler: what it takes to open one, what it answers, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import SettingsError, WorkerError
from gen_worker.models.settings import ModelSettings
from gen_worker.runtime.auth import TokenVerifier
from gen_worker.runtime.scheduler import LedgerInUseError, Scheduler, SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def settings(folder: Path, **fields: Any) -> SchedulerSettings:
    free: dict[str, Any] = {"http": "127.0.0.1:0", "workers": "127.0.0.1:0", "drain_s": 1.0}
    return SchedulerSettings(data_dir=str(folder), **(free | fields))


@asynccontextmanager
async def opened(folder: Path, **fields: Any) -> AsyncIterator[Scheduler]:
    scheduler = await Scheduler.open(settings(folder, **fields), models=ModelSettings())
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def status(scheduler: Scheduler, path: str, token: str = "") -> int:
    """Return how a question is answered."""

    def ask() -> int:
        request = urllib.request.Request(scheduler.url + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(ask)


def test_clients_and_workers_are_served_once_it_is_open(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as scheduler:
            assert await status(scheduler, "/healthz") == 200
            assert await status(scheduler, "/v1/functions") == 200
            assert await status(scheduler, "/metrics") == 200
            assert scheduler.token_file == ""
            host, port = scheduler.worker_address.split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()

    asyncio.run(scene())


def test_workers_files_need_a_jobs_token_whatever_clients_need(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as scheduler:
            for path in ("/api/v1/file/jobs/r1/outputs/a", "/api/v1/media/uploads"):
                assert await status(scheduler, path) in (401, 405)
                assert await status(scheduler, path, "gwj1.AAAA") in (401, 405)
            assert await status(scheduler, "/api/v1/repos") == 404, "it is no hub of models"

    asyncio.run(scene())


def test_a_worker_can_check_its_token_with_the_schedulers_key(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as scheduler:
            token = await asyncio.to_thread(scheduler.issue_worker_token, "r-1", "w1")
            verifier = TokenVerifier(f"{scheduler.url}/.well-known/jwks.json")
            claims = await asyncio.to_thread(verifier.verify, token)
            assert (claims.subject, claims.release_id) == ("w1", "r-1")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fields", "without"),
    [
        ({}, 200),
        ({"token": "root"}, 401),
        ({"requires_tokens": "always"}, 401),
        ({"requires_tokens": "never", "token": "root"}, 200),
        ({"http": "0.0.0.0:0"}, 401),
        ({"http": "0.0.0.0:0", "requires_tokens": "never"}, 200),
    ],
)
def test_who_needs_a_token(tmp_path: Path, fields: dict[str, Any], without: int) -> None:
    async def scene() -> None:
        async with opened(tmp_path, **fields) as scheduler:
            assert await status(scheduler, "/v1/functions") == without
            assert await status(scheduler, "/healthz") == 200
            assert await status(scheduler, "/.well-known/jwks.json") == 200
            if without == 200:
                assert scheduler.token_file == ""
                return
            token = fields.get("token", "")
            if not token:
                assert stat.S_IMODE(os.stat(scheduler.token_file).st_mode) == 0o600
                with open(scheduler.token_file) as file:
                    token = file.read()
            assert await status(scheduler, "/v1/functions", token) == 200
            assert await status(scheduler, "/v1/functions", "other") == 401

    asyncio.run(scene())


def test_what_it_is_called_by_others_can_be_said(tmp_path: Path) -> None:
    async def scene() -> None:
        named = {"public_url": "https://api.example/", "public_workers": "grpcs://api.example:443"}
        async with opened(tmp_path, **named) as scheduler:
            assert scheduler.url == "https://api.example"
            assert scheduler.worker_address == "grpcs://api.example:443"
        async with opened(tmp_path, http="0.0.0.0:0", workers="0.0.0.0:0") as scheduler:
            assert scheduler.url.startswith("http://127.0.0.1:")
            assert scheduler.worker_address.startswith("127.0.0.1:")

    asyncio.run(scene())


def test_what_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither a lock nor an address nor a thread that the next one would meet."""

    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for fields in ({"http": address}, {"workers": address}):
                with pytest.raises(WorkerError, match="cannot listen on"):
                    await Scheduler.open(settings(tmp_path, **fields), models=ModelSettings())
        async with opened(tmp_path) as scheduler:
            with pytest.raises(LedgerInUseError) as refusal:
                await Scheduler.open(settings(tmp_path), models=ModelSettings())
            assert refusal.value.pid == os.getpid()
            assert await status(scheduler, "/readyz") == 200

    asyncio.run(scene())


@pytest.mark.parametrize(
    "fields",
    [
        {"http": "unix:///tmp/s.sock"},
        {"tls_certificate": "c.pem"},
        {"tls_certificate": "/no/such/c.pem", "tls_key": "/no/such/k.pem"},
        {"max_running": ("draw",)},
    ],
)
def test_settings_that_are_not_possible_are_refused_before_anything_is_made(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    folder = tmp_path / "data"
    with pytest.raises(SettingsError):
        asyncio.run(Scheduler.open(settings(folder, **fields), models=ModelSettings()))
    assert not folder.exists()


def test_it_is_closed_once_and_can_be_opened_again(tmp_path: Path) -> None:
    async def scene() -> None:
        scheduler = await Scheduler.open(settings(tmp_path), models=ModelSettings())
        await asyncio.gather(scheduler.close(), scheduler.close())
        await scheduler.close()
        async with asyncio.timeout(30):
            await scheduler.ended()
        async with opened(tmp_path) as again:
            assert await status(again, "/readyz") == 200

    asyncio.run(scene())


def test_nothing_in_the_folder_is_for_others_to_read(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path / "data") as scheduler:
            await asyncio.to_thread(scheduler.issue_worker_token, "r-1")

    asyncio.run(scene())
    private = [tmp_path / "data" / "scheduler", tmp_path / "data" / "files"]
    for folder in private:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for name in ("jobs.key", "worker-tokens.pem", "scheduler.db"):
        assert stat.S_IMODE((private[0] / name).stat().st_mode) == 0o600, name


def test_its_figures_are_read_by_prometheus(tmp_path: Path) -> None:
    async def scene() -> None:
        async with opened(tmp_path) as scheduler:
            url = f"{scheduler.url}/metrics"
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
            from prometheus_client.parser import text_string_to_metric_families

            names = {family.name for family in text_string_to_metric_families(text)}
            prefix = "gen_worker_scheduler_"
            wanted = "waiting oldest_wait_seconds running workers streams commits requests"
            assert {prefix + name for name in wanted.split()} <= names
            about = await asyncio.to_thread(
                lambda: json.loads(urllib.request.urlopen(f"{scheduler.url}/v1/status").read())
            )
            assert about["scheduler"]["unfinished"] == 0

    asyncio.run(scene())
