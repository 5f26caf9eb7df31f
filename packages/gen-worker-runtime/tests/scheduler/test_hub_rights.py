"""Which token of the model hub a job gets: for what its payload names, and no more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub import HubClient, LocalHub
from gen_worker.models.hub.capability import read_capability
from gen_worker.models.settings import ModelSettings
from gen_worker.runtime.http import HttpServer, open_listener
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler.hub_rights import HubRights, lifetime_s, permissions_of
from gen_worker.testing.loop_thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = "local-dev"


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def record(owner: str = OWN, timeout_ms: int | None = None) -> Any:
    return SimpleNamespace(request_id="r1", owner=owner, timeout_ms=timeout_ms)


@pytest.fixture
def hub_url(tmp_path: Path) -> Iterator[str]:
    hub, loop = LocalHub(tmp_path / "hub", anonymous=("admin",)), LoopThread("hub")
    listener = open_listener(TcpAddress("127.0.0.1", 0))
    server = HttpServer(hub.app, listener, grace_s=0.1)

    async def serve() -> asyncio.Task[None]:
        is_ready = asyncio.Event()
        task = asyncio.create_task(server.serve(is_ready.set))
        await is_ready.wait()
        return task

    serving = loop.wait(serve())
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def stop() -> None:
        server.stop()
        await serving

    loop.wait(stop())
    loop.close()
    hub.close()


def token(url: str, payload: bytes, owner: str = OWN, hub_token: str = "") -> str:
    async def scene() -> str:
        rights = HubRights(ModelSettings(hub_url=url, hub_token=hub_token), OWN)
        try:
            return await rights.token(record(owner), payload)
        finally:
            await rights.close()

    return asyncio.run(scene())


def test_a_job_may_publish_where_its_payload_says(hub_url: str) -> None:
    payload = packed(
        source={"ref": "acme/base:prod"},
        destination={"ref": "acme/tuned", "tags": ["prod"]},
        datasets=["acme/rows"],
    )
    found = read_capability(token(hub_url, payload))
    assert found is not None
    assert found.publish == {"acme/tuned"}
    assert found.read == {"acme/base", "acme/rows"}
    assert found.may_create("acme", "tuned")
    assert not found.may_create("acme", "other")
    assert found.owners == {"acme", OWN}


def test_what_it_may_not_do_the_hub_refuses(hub_url: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    with HubClient(hub_url, token(hub_url, packed(destination="acme/tuned"))) as client:
        revision = client.open_revision("acme", "tuned", request_id="r1", job_id="r1")
        revision.upload(str(tmp_path / "w"), "jobs/r1/outputs/w")
        client.upload_media(str(tmp_path / "w"), "jobs/r1/outputs/s", owner=OWN, request_id="r1")
        with pytest.raises(Exception, match="permission"):
            client.open_revision("acme", "other", request_id="r1", job_id="r1")
        revision.abort()


@pytest.mark.parametrize(
    ("payload", "owner", "is_own", "publish"),
    [
        (packed(destination={"ref": "acme/x"}), "acme", False, ("acme/x",)),
        (packed(destination_repo="Acme/X:v2"), "acme", False, ("acme/x",)),
        (packed(destination={"ref": "other/x"}), "acme", False, None),
        (packed(destination={"ref": "other/x"}), OWN, True, ("other/x",)),
        (packed(destination={"ref": "other/x"}), "", True, ("other/x",)),
        (packed(destination={"ref": "hf:other/x"}), OWN, True, None),
        (packed(destination={"ref": 7}), OWN, True, None),
        (packed(destination={"ref": "no ref"}), OWN, True, None),
        (packed(steps=3), OWN, True, None),
        (b"no MessagePack", OWN, True, None),
    ],
)
def test_what_a_payload_names(
    payload: bytes, owner: str, is_own: bool, publish: tuple[str, ...] | None
) -> None:
    found = permissions_of(payload, owner, is_own=is_own)
    assert (None if found is None else found.publish) == publish


def test_a_hub_that_gives_no_tokens_leaves_the_job_without(hub_url: str) -> None:
    assert token(hub_url, packed(destination="acme/x"), hub_token="not one of the hub's") == ""
    assert token("", packed(destination="acme/x")) == ""


def test_models_besides_the_source_are_read() -> None:
    payload = packed(
        source={"ref": "acme/student"},
        teacher="acme/teacher:prod",
        judge={"ref": "globex/judge"},
        note="acme/secret",
    )
    models = ("source", "teacher", "judge", "absent")
    own = permissions_of(payload, "acme", is_own=False, models=models)
    everybodys = permissions_of(payload, OWN, is_own=True, models=models)
    assert own is not None
    assert own.read == ("acme/student", "acme/teacher")
    assert everybodys is not None
    assert everybodys.read == ("acme/student", "acme/teacher", "globex/judge")


@pytest.mark.parametrize(
    ("owner", "is_given"), [("", True), (OWN, True), ("acme", True), ("bob", False)]
)
def test_who_gets_a_token(hub_url: str, owner: str, is_given: bool) -> None:
    assert bool(token(hub_url, packed(destination="acme/x"), owner)) == is_given


def test_a_hub_that_is_away_is_worth_another_try() -> None:
    listener = open_listener(TcpAddress("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with pytest.raises(ArtifactTransferError) as caught:
        token(url, packed(destination="acme/x"))
    assert caught.value.retryable


def test_a_token_holds_an_hour_longer_than_its_job_may_take() -> None:
    assert lifetime_s(record(timeout_ms=1000)) == 3601
    assert lifetime_s(record()) == 7 * 86_400
