"""What of an upload is tried again, how often, and after which pauses."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.errors import ArtifactTransferError
from gen_worker.models.hub import Clock, grants
from gen_worker.models.hub.parts import send_parts
from gen_worker.models.hub.progress import UploadProgress
from gen_worker.models.hub.uploading import file_facts
from gen_worker.models.hub.wire import TransferGrant, UploadTicket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Asked, ScriptedServer
    from gen_worker.models.hub.uploading import FileFacts

GRANT = TransferGrant(
    endpoint_url="http://127.0.0.1:1",
    bucket="b",
    key="k",
    access_key_id="id",
    secret_access_key="secret",
)


class Waits:
    """A clock that does not wait."""

    def __init__(self, chance: float = 0.0) -> None:
        self.waits: list[float] = []
        self.clock = Clock(
            now=lambda: 0.0, sleep=lambda s, _token: self.waits.append(s), random=lambda: chance
        )


@pytest.fixture
def file(tmp_path: Path) -> FileFacts:
    (tmp_path / "w").write_bytes(os.urandom(3000))
    return file_facts(tmp_path / "w")


def send(server: ScriptedServer, file: FileFacts, waits: Waits) -> list[dict[str, Any]]:
    urls = tuple(server.url(f"/{number}?sig=secret") for number in (1, 2, 3))
    ticket = UploadTicket(upload_id="u", part_urls=urls, part_size=1000)
    progress = UploadProgress(None, "w", file.size_bytes, waits.clock)
    return send_parts(ticket, file, progress=progress, clock=waits.clock, cancel=None)


def answer(status: int, **headers: str) -> Callable[[Asked], None]:
    return lambda asked: asked.head(status, Content_Length=0, **headers)


def test_a_part_that_fails_for_a_while_is_sent_again(
    server: ScriptedServer, file: FileFacts
) -> None:
    server.default = lambda asked: asked.head(200, Content_Length=0, ETag=f'"{asked.path}"')
    server.plan("/2", answer(503), lambda asked: asked.cut(), answer(429), answer(500))
    waits = Waits(chance=0.999999)
    parts = send(server, file, waits)
    assert parts == [{"part_number": n, "etag": f'"/{n}"'} for n in (1, 2, 3)]
    assert len(server.asked_for("/2")) == 5
    assert [round(wait, 2) for wait in waits.waits] == [1.5, 4.5, 13.5, 20.0]
    with open(file.path, "rb") as content:
        data = content.read()
    assert server.asked_for("/2")[-1].body == data[1000:2000]
    assert server.asked_for("/3")[0].headers["connection"] == "close"


def test_after_five_attempts_it_is_given_up(server: ScriptedServer, file: FileFacts) -> None:
    server.default = answer(503)
    with pytest.raises(ArtifactTransferError) as failed:
        send(server, file, Waits())
    assert (failed.value.phase, failed.value.retryable) == ("put", True)
    assert max(len(server.asked_for(f"/{n}")) for n in (1, 2, 3)) == 5
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("behaviour", [answer(400), answer(403), answer(307), answer(200)])
def test_what_will_not_get_better_is_not_sent_again(
    server: ScriptedServer, file: FileFacts, behaviour: Callable[[Asked], None]
) -> None:
    """Refusals, redirects, and a success without an ETag."""
    server.default = lambda asked: asked.head(200, Content_Length=0, ETag='"e"')
    server.plan("/2", behaviour)
    with pytest.raises(ArtifactTransferError) as failed:
        send(server, file, Waits())
    assert not failed.value.retryable
    assert len(server.asked_for("/2")) == 1


def test_urls_that_do_not_hold_the_file_are_refused(
    server: ScriptedServer, file: FileFacts
) -> None:
    short = UploadTicket(upload_id="u", part_urls=(server.url("/1"),), part_size=1000)
    progress = UploadProgress(None, "w", file.size_bytes, Waits().clock)
    with pytest.raises(ArtifactTransferError) as refused:
        send_parts(short, file, progress=progress, clock=Waits().clock, cancel=None)
    assert (refused.value.phase, server.asked) == ("create", [])


def test_a_grant_is_tried_with_fewer_and_fewer_threads(
    file: FileFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    threads: list[int] = []

    def fail(_grant: object, _facts: object, count: int, sent: Any) -> None:
        threads.append(count)
        sent(10)
        raise ConnectionResetError

    monkeypatch.setattr(grants, "_upload", fail)
    waits = Waits()
    progress = UploadProgress(None, "w", file.size_bytes, waits.clock)
    with pytest.raises(ArtifactTransferError) as failed:
        grants.send_with_grant(GRANT, file, progress=progress, clock=waits.clock, cancel=None)
    assert (threads, waits.waits) == ([10, 5, 1, 1], [1.0, 2.0, 4.0])
    assert (failed.value.phase, failed.value.retryable) == ("sdk_upload", True)
    assert "secret" not in str(failed.value)


def test_a_missing_library_is_named(file: FileFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setitem(sys.modules, "boto3.exceptions", None)
    waits = Waits()
    progress = UploadProgress(None, "w", file.size_bytes, waits.clock)
    with pytest.raises(ArtifactTransferError, match=r"install \"gen-worker\[s3\]\"") as missing:
        grants.send_with_grant(GRANT, file, progress=progress, clock=waits.clock, cancel=None)
    assert not missing.value.retryable
