"""Inputs of a worker: from URLs and payloads, checked while they come."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.context.local import run_blocking
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    CanceledError,
    InputTooLargeError,
    ResourceError,
    ValidationError,
)
from gen_worker.ports import FileLimits
from gen_worker.runtime.files import JobScope
from gen_worker.types import Asset, AudioAsset, ImageAsset, Tensors

if TYPE_CHECKING:
    from conftest import Asked, MakeFiles, Told, WebServer
    from gen_worker.runtime.files import WorkerFiles

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x40\x00\x00\x00\x20" + bytes(40)
ANY = FileLimits()
IMAGE = FileLimits(mime_prefix="image/")
TYPES = {"Content_Type": "application/octet-stream"}


@pytest.fixture
def files(web: WebServer, make_files: MakeFiles) -> WorkerFiles:
    files = make_files(trusted_urls=(web.origin,), download_tries=2)
    files.enter("r", JobScope())
    return files


def take(files: WorkerFiles, value: Any, limits: FileLimits = ANY) -> Any:
    return run_blocking(files.materialize(value, limits, request_id="r"))


def test_a_file_comes_with_all_that_is_known_of_it(files: WorkerFiles, web: WebServer) -> None:
    url = web.page("/cats/cat.png", PNG, Content_Type="image/png")

    asset = take(files, ImageAsset(ref=f"{url}?signature=secret"), IMAGE)

    assert type(asset) is ImageAsset
    assert asset.read_bytes() == PNG
    assert (asset.mime_type, asset.size_bytes) == ("image/png", len(PNG))
    assert asset.sha256 == hashlib.sha256(PNG).hexdigest()
    assert asset.blake3 == blake3(PNG).hexdigest()
    assert str(asset.local_path).endswith(".png")
    assert str(asset.local_path).startswith(files.policy.job_dir)
    assert web.asked[0].headers["user-agent"] == "curl/8.7.1"


def test_it_is_gone_when_the_request_is(files: WorkerFiles, web: WebServer) -> None:
    asset = take(files, Asset(ref=web.page("/a", b"a")))

    run_blocking(files.release("r"))

    assert not os.path.exists(asset.local_path)
    assert len(files.requests) == 0


def test_without_a_hub_blobs_are_those_of_the_store(make_files: MakeFiles, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    blob = tmp_path / "cas/blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    value = Tensors(ref="w", blob_digest=f"sha256:{digest}")
    host = make_files(cas_dir=str(tmp_path / "cas"), output_dir=str(tmp_path / "out"))
    host.enter("r", JobScope())
    assert Path(take(host, value).local_path).read_bytes() == b"weights"
    worker = make_files(cas_dir=str(tmp_path / "cas"))
    worker.enter("r", JobScope())
    with pytest.raises(AuthError, match="names no hub"):
        take(worker, value)


def test_bytes_of_the_payload_are_checked_alike(files: WorkerFiles) -> None:
    asset = take(files, ImageAsset(ref="x.png", inline_bytes=PNG), IMAGE)
    assert asset.local_path.startswith(files.policy.job_dir)
    with pytest.raises(ValidationError, match=r"must be 'image/\*'"):
        take(files, ImageAsset(ref="x.png", inline_bytes=b"text"), IMAGE)
    with pytest.raises(InputTooLargeError):
        take(files, Asset(ref="x", inline_bytes=b"four"), FileLimits(max_bytes=3))


def test_an_empty_default_is_no_file(files: WorkerFiles) -> None:
    empty = Asset(ref="")
    assert take(files, empty, IMAGE) is empty


@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_weights_have_their_format(files: WorkerFiles, web: WebServer, name: str) -> None:
    tensors = take(files, Tensors(ref=web.page(f"/{name}", b"weights")))
    assert tensors.format == ("safetensors" if "." in name else "unknown")


# What it is


@pytest.mark.parametrize(
    ("content", "kind", "media_type"),
    [
        (PNG, ImageAsset, "image/png"),
        (b"\xff\xd8\xff\xe0" + bytes(40), ImageAsset, "image/jpeg"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24), AudioAsset, "audio/wav"),
        (b"ID3\x04" + bytes(40), AudioAsset, "audio/mpeg"),
        (b"fLaC" + bytes(40), AudioAsset, "audio/flac"),
        (b"OggS" + bytes(40), AudioAsset, "audio/ogg"),
        (b"\x00\x00\x00\x18ftypM4A " + bytes(16), AudioAsset, "audio/mp4"),
    ],
)
def test_content_tells_what_generic_types_do_not(
    files: WorkerFiles, web: WebServer, content: bytes, kind: Any, media_type: str
) -> None:
    url = web.page("/file", content, **TYPES)
    limits = FileLimits(mime_prefix=f"{kind.media_kind}/")
    assert take(files, kind(ref=url), limits).mime_type == media_type


@pytest.mark.parametrize(
    ("served", "declared", "message"),
    [
        ("text/html", None, "is declared as 'text/html'"),
        ("text/html", "image/png", "is declared as 'text/html'"),
        ("image/png", "video/mp4", "is declared as 'video/mp4'"),
    ],
)
def test_neither_server_nor_caller_may_lie_about_it(
    files: WorkerFiles, web: WebServer, served: str, declared: str | None, message: str
) -> None:
    url = web.page("/file.png", PNG, Content_Type=served)
    with pytest.raises(ValidationError, match=message):
        take(files, Asset(ref=url, mime_type=declared))


def test_a_page_that_stands_for_an_image_is_refused(files: WorkerFiles, web: WebServer) -> None:
    url = web.page("/cat.png", b"<html>log in first</html>", Content_Type="text/html")
    with pytest.raises(ValidationError, match=r"must be 'image/\*'"):
        take(files, ImageAsset(ref=url), IMAGE)


def test_other_content_than_promised_is_refused(files: WorkerFiles, web: WebServer) -> None:
    url = web.page("/a", b"a")
    for value in (Asset(ref=url, sha256="0" * 64), Asset(ref=url, blake3="0" * 64)):
        with pytest.raises(ValidationError, match="the payload says"):
            take(files, value)


def test_a_name_may_come_with_the_answer(files: WorkerFiles, web: WebServer) -> None:
    web.page("/real/b.csv", b"1,2")
    redirect = web.page("/b", lambda asked: asked.answer(b"", 302, Location="/real/b.csv"))
    attached = web.page("/a", b"1,2", Content_Disposition='attachment; filename="../a.csv"')
    for url in (attached, redirect):
        asset = take(files, Asset(ref=url))
        assert asset.local_path.endswith(".csv")
        assert asset.mime_type == "text/csv"


# How large it is


def limited(most: int) -> FileLimits:
    return FileLimits(max_bytes=most)


def unannounced(data: bytes) -> Any:
    def behave(asked: Asked) -> None:
        asked.head(200, Connection="close")
        asked.sock.sendall(data)
        asked.stays_open = False

    return behave


def test_a_file_over_the_limit_is_not_fetched(files: WorkerFiles, web: WebServer) -> None:
    sent = []

    def announce(asked: Asked) -> None:
        sent.append(asked)  # before the answer: who reads it may be faster than this thread
        asked.head(200, Content_Length=10**12)

    url = web.page("/large", announce)
    with pytest.raises(InputTooLargeError, match="more than the 100 bytes allowed") as refused:
        take(files, Asset(ref=f"{url}?signature=secret"), limited(100))
    assert refused.value.max_bytes == 100
    assert "secret" not in str(refused.value)
    assert len(sent) == 1


def test_a_file_that_does_not_say_its_size_is_cut_off(files: WorkerFiles, web: WebServer) -> None:
    url = web.page("/large", unannounced(bytes(5000)))
    assert take(files, Asset(ref=url), limited(5000)).size_bytes == 5000
    with pytest.raises(InputTooLargeError):
        take(files, Asset(ref=url), limited(4999))


def test_a_server_that_sends_less_than_it_says_is_asked_again(
    files: WorkerFiles, web: WebServer
) -> None:
    def short(asked: Asked) -> None:
        asked.head(200, Content_Length=10)
        asked.sock.sendall(b"half")
        asked.stays_open = False

    url = web.script("/short", short, lambda asked: asked.answer(b"0123456789"))
    assert take(files, Asset(ref=url)).size_bytes == 10
    with pytest.raises(ArtifactTransferError) as broken:
        take(files, Asset(ref=web.page("/always-short", short)))
    assert broken.value.retryable


def test_compressed_bodies_are_undone_and_bombs_are_not(files: WorkerFiles, web: WebServer) -> None:
    data = os.urandom(3000) + bytes(3_000_000)
    for coding, packed in (("gzip", gzip.compress(data)), ("deflate", zlib.compress(data))):
        url = web.page(f"/{coding}", packed, Content_Encoding=coding)
        asset = take(files, Asset(ref=url))
        assert asset.sha256 == hashlib.sha256(data).hexdigest()
        with pytest.raises(InputTooLargeError):
            take(files, Asset(ref=url), limited(len(packed) + 1000))
    bomb = web.page("/bomb", gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")
    with pytest.raises(InputTooLargeError):
        take(files, Asset(ref=bomb), limited(1_000_000))
    broken = web.page("/broken", gzip.compress(data)[:-9], Content_Encoding="gzip")
    with pytest.raises(ArtifactTransferError, match="is damaged"):
        take(files, Asset(ref=broken))
    unknown = web.page("/br", b"?", Content_Encoding="br")
    with pytest.raises(ValidationError, match="Content-Encoding 'br'"):
        take(files, Asset(ref=unknown))


def png(width: int, height: int) -> bytes:
    return PNG[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + PNG[24:]


def test_an_image_is_measured_before_anybody_decodes_it(files: WorkerFiles, web: WebServer) -> None:
    huge = web.page("/huge.png", png(100_000, 100_000))
    for value, limits in ((ImageAsset(ref=huge), IMAGE), (Asset(ref=huge), ANY)):
        with pytest.raises(InputTooLargeError, match="10000000000 pixels large where 178956970"):
            take(files, value, limits)
    with pytest.raises(InputTooLargeError):
        take(files, ImageAsset(ref="x.png", inline_bytes=png(100_000, 100_000)), IMAGE)
    allowed = FileLimits(max_pixels=10**11)
    assert take(files, ImageAsset(ref=huge), allowed).mime_type == "image/png"


# The network


def test_a_server_that_is_busy_is_asked_again(files: WorkerFiles, web: WebServer) -> None:
    url = web.script(
        "/busy", lambda asked: asked.answer(b"", 503), lambda asked: asked.answer(b"here")
    )
    assert take(files, Asset(ref=url)).size_bytes == 4
    with pytest.raises(ArtifactTransferError) as refused:
        take(files, Asset(ref=web.page("/always", lambda asked: asked.answer(b"", 503))))
    assert (refused.value.status_code, refused.value.retryable) == (503, True)
    assert sum(asked.path == "/always" for asked in web.asked) == 2


@pytest.mark.parametrize(
    ("status", "error"), [(404, ValidationError), (403, AuthError), (400, ArtifactTransferError)]
)
def test_what_will_not_get_better_is_asked_once(
    files: WorkerFiles, web: WebServer, status: int, error: type[Exception]
) -> None:
    url = web.page("/no", lambda asked: asked.answer(b"", status))
    with pytest.raises(error) as refused:
        take(files, Asset(ref=f"{url}?token=secret"))
    assert web.count() == 1
    assert "secret" not in str(refused.value)


def test_a_server_that_stalls_is_given_up(web: WebServer, make_files: MakeFiles) -> None:
    def stall(asked: Asked) -> None:
        asked.head(200, Content_Length=10)
        asked.sock.sendall(b"half")
        web.released.wait()

    files = make_files(trusted_urls=(web.origin,), read_timeout_s=0.1, download_tries=1)
    with pytest.raises(ArtifactTransferError) as given:
        take(files, Asset(ref=web.page("/stall", stall)))
    assert given.value.retryable


def test_a_server_that_trickles_is_given_up(web: WebServer, make_files: MakeFiles) -> None:
    def trickle(asked: Asked) -> None:
        asked.head(200, Content_Length=10**6)
        while not web.released.wait(0.01):
            asked.sock.sendall(b"x")

    files = make_files(trusted_urls=(web.origin,), stall_window_s=0.3, download_tries=1)
    with pytest.raises(ArtifactTransferError, match="too slowly"):
        take(files, Asset(ref=web.page("/trickle", trickle)))


def test_a_cancel_ends_a_download(files: WorkerFiles, web: WebServer) -> None:
    begun, token = threading.Event(), CancelToken()

    def stall(asked: Asked) -> None:
        asked.head(200, Content_Length=10)
        begun.set()
        web.released.wait()

    def cancel() -> None:
        begun.wait()
        token.cancel()

    url = web.page("/stall", stall)
    canceling = threading.Thread(target=cancel)
    canceling.start()
    files.follow("r", token)
    with pytest.raises(CanceledError):
        take(files, Asset(ref=url))
    canceling.join()


def test_a_token_named_while_a_download_runs_ends_it_too(
    files: WorkerFiles, web: WebServer
) -> None:
    token = CancelToken()

    def cancel(asked: Asked) -> None:
        files.follow("r", token)
        token.cancel("deadline")
        asked.head(200, Content_Length=10)
        web.released.wait()

    with pytest.raises(CanceledError, match="deadline"):
        take(files, Asset(ref=web.page("/stall", cancel)))


def test_a_callers_token_stays_at_its_origin(
    web: WebServer, other_web: WebServer, make_files: MakeFiles
) -> None:
    target = other_web.page("/b", b"b")
    url = web.page("/a", lambda asked: asked.answer(b"", 302, Location=target))
    files = make_files(trusted_urls=(web.origin, other_web.origin))

    asset = take(files, Asset(ref=url, download_token="secret"))

    assert asset.read_bytes() == b"b"
    assert web.asked[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in other_web.asked[0].headers


def test_a_full_disk_is_told_as_such(
    files: WorkerFiles, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.page("/a", b"a")
    real = open

    def full(path: Any, *arguments: Any, **options: Any) -> Any:
        if "inputs" in str(path):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(ResourceError, match="No space left"):
        take(files, Asset(ref=url))


async def test_downloads_do_not_hold_up_the_loop(files: WorkerFiles, web: WebServer) -> None:
    import asyncio

    go = threading.Event()

    def wait(asked: Asked) -> None:
        go.wait(60)
        asked.answer(b"here")

    url = web.page("/wait", wait)
    asking = asyncio.ensure_future(files.materialize(Asset(ref=url), ANY, request_id="r"))
    await asyncio.sleep(0)
    go.set()  # only reached because the loop goes on
    assert (await asking).size_bytes == 4


def test_nothing_is_told_of_inputs(web: WebServer, told: Told, make_files: MakeFiles) -> None:
    take(make_files(told=told, trusted_urls=(web.origin,)), Asset(ref=web.page("/a", b"a")))
    assert told.events == []


@pytest.mark.parametrize(
    ("url", "asked", "is_header"),
    [
        ("https://civitai.com/api/download/1", "?token=a%2Fb", False),
        ("https://www.civitai.com/api/download/1?x=1", "?x=1&token=a%2Fb", False),
        ("https://notcivitai.com/1", "", True),
        ("https://civitai.com.example/1", "", True),
    ],
)
def test_one_provider_takes_its_token_in_the_query(
    files: WorkerFiles, monkeypatch: pytest.MonkeyPatch, url: str, asked: str, is_header: bool
) -> None:
    from gen_worker.models.net import Opener, UrlRefusedError

    seen: list[Any] = []

    def note(_opener: Opener, url: str, **options: Any) -> None:
        seen.append((url, dict(options["headers"])))
        raise UrlRefusedError("not here")

    monkeypatch.setattr(Opener, "open", note)
    with pytest.raises(ValidationError) as refused:
        take(files, Asset(ref=url, download_token="a/b"))
    headers = {"Authorization": "Bearer a/b"} if is_header else {}
    assert seen == [(url.partition("?")[0] + asked, headers)]
    assert "a/b" not in str(refused.value)
    assert "a%2Fb" not in str(refused.value)
