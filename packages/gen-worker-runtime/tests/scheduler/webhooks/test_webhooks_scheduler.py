"""A whole scheduler tells receivers what becomes of requests that came over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from gen_worker.manifest import dump_lock
from gen_worker.runtime.scheduler import Scheduler, SchedulerSettings
from gen_worker.runtime.scheduler.webhooks import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TIMEOUT_S = 60.0
FUNCTION = {"name": "draw", "module": "paint", "output_mode": "single"}


@asynccontextmanager
async def serving(folder: Path, project: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Have a scheduler with one function and no worker, and a client of it."""
    places = {"http": "127.0.0.1:0", "workers": "127.0.0.1:0"}
    scheduler = await Scheduler.open(SchedulerSettings(data_dir=str(folder), **(places | settings)))
    lock = {"lock_version": 1, "endpoint_name": "paint", "functions": [FUNCTION]}
    await scheduler.releases.publish(
        project,
        lock=dump_lock(lock).encode(),
        environment="default",
        owner="acme",
        first_tag="prod",
    )
    token = settings.get("token", "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx.AsyncClient(
            base_url=scheduler.url, headers=headers, trust_env=False, timeout=TIMEOUT_S
        ) as client:
            yield client
    finally:
        await scheduler.close()


def asked(url: str, **more: Any) -> dict[str, Any]:
    hook = {"url": url, "events": ["completed"]}
    return {"function": "acme/paint/draw", "payload": {"n": 1}, "webhook": hook} | more


async def test_the_end_of_a_request_is_told_as_it_is_shown(
    folder: Path, make_project: Any, receiver: Any
) -> None:
    async with serving(folder, make_project()) as client:
        request = asked(receiver.url, request_id="r-1", owner="acme")
        assert (await client.post("/v1/requests", json=request)).status_code == 202
        assert (await client.delete("/v1/requests/r-1")).json()["canceled"] is True
        got = await asyncio.to_thread(receiver.next)
        (secret,) = (await client.get("/v1/webhooks/secrets?owner=acme")).json()["secrets"]
        assert verify(got.body, got.headers, secret) == got.webhook_id
        shown = (await client.get("/v1/requests/r-1")).json()
        assert got.json == shown | {"event": "completed"}
        assert shown["status"] == "canceled"
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                (row,) = (await client.get("/v1/requests/r-1/webhooks")).json()["deliveries"]
                if row["state"] == "delivered":
                    break
                await asyncio.sleep(0.01)
        assert (row["webhook_id"], row["attempts"]) == (got.webhook_id, 1)
        figures = (await client.get("/metrics")).text
        assert 'gen_worker_scheduler_webhooks_total{outcome="delivered"} 1.0' in figures
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"/v1/requests/{id}/webhooks", "/v1/webhooks/secrets"} <= paths.keys()


async def test_a_webhook_outlives_the_scheduler(
    folder: Path, make_project: Any, receiver: Any
) -> None:
    project = make_project()
    async with serving(folder, project) as client:
        request = asked(receiver.url, request_id="r-1")
        assert (await client.post("/v1/requests", json=request)).status_code == 202
    async with serving(folder, project) as client:
        assert (await client.delete("/v1/requests/r-1")).json()["canceled"] is True
        assert (await asyncio.to_thread(receiver.next)).json["request_id"] == "r-1"


async def test_whom_others_can_reach_sends_nothing_to_private_addresses(
    folder: Path, make_project: Any, receiver: Any
) -> None:
    own = f"http://127.0.0.1:{receiver.port}/"
    project = make_project()
    async with serving(folder, project, token="t0ken") as client:
        for url in (own, "http://10.1.2.3/", "ftp://example.com/"):
            answer = await client.post("/v1/requests", json=asked(url))
            assert answer.status_code == 400, answer.text
            assert "webhook" in answer.json()["message"]
    async with serving(folder, project, token="t0ken", webhook_urls=(own,)) as client:
        request = asked(own, request_id="r-1")
        assert (await client.post("/v1/requests", json=request)).status_code == 202
        await client.delete("/v1/requests/r-1")
        assert (await asyncio.to_thread(receiver.next)).json["request_id"] == "r-1"
