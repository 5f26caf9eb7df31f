"""Inputs that are kept: when they are used again, and what has to go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gen_worker.context.local import run_blocking
from gen_worker.ports import FileLimits
from gen_worker.runtime.files import JobScope
from gen_worker.runtime.files.cache import Entry, InputCache
from gen_worker.types import Asset

if TYPE_CHECKING:
    from conftest import Asked, MakeFiles, WebServer
    from gen_worker.runtime.files import WorkerFiles

ANY = FileLimits()


def take(files: WorkerFiles, **asset: Any) -> Any:
    return run_blocking(files.materialize(Asset(**asset), ANY, request_id="r"))


@pytest.fixture
def files(web: WebServer, make_files: MakeFiles) -> WorkerFiles:
    files = make_files(trusted_urls=(web.origin,))
    files.enter("r", JobScope())
    return files


def inode(asset: Asset) -> int:
    return os.stat(str(asset.local_path)).st_ino


def changing(web: WebServer, **headers: Any) -> str:
    """Serve another content each time, or 304 to whoever has it."""
    counts = iter(range(100))

    def behave(asked: Asked) -> None:
        if "if-none-match" in asked.headers or "if-modified-since" in asked.headers:
            asked.head(304, **headers)
        else:
            asked.answer(f"content {next(counts)}".encode(), **headers)

    return web.page(f"/changing-{os.urandom(4).hex()}.txt", behave)


@pytest.mark.parametrize(
    ("headers", "asks"),
    [
        ({"ETag": '"1"'}, 2),
        ({"Last_Modified": "Sun, 22 Nov 2026 11:00:00 GMT"}, 2),
        ({"Cache_Control": "public, max-age=60"}, 1),
        ({"ETag": '"1"', "Cache_Control": "max-age=60, no-cache"}, 2),
        ({"ETag": '"1"', "Cache_Control": "max-age=60", "Age": "100"}, 2),
    ],
)
def test_a_server_says_whether_a_file_is_still_right(
    files: WorkerFiles, web: WebServer, headers: dict[str, Any], asks: int
) -> None:
    url = changing(web, **headers)
    first, second = take(files, ref=url), take(files, ref=url)
    assert first.read_bytes() == second.read_bytes() == b"content 0"
    assert first.local_path != second.local_path
    assert inode(first) == inode(second)
    assert (second.mime_type, second.sha256) == (first.mime_type, first.sha256)
    assert web.count() == asks


@pytest.mark.parametrize("headers", [{}, {"ETag": '"1"', "Cache_Control": "no-store"}])
def test_what_nobody_vouches_for_is_fetched_again(
    files: WorkerFiles, web: WebServer, headers: dict[str, Any]
) -> None:
    url = changing(web, **headers)
    assert take(files, ref=url).read_bytes() == b"content 0"
    assert take(files, ref=url).read_bytes() == b"content 1"


def test_a_file_that_changed_is_fetched(files: WorkerFiles, web: WebServer) -> None:
    url = web.script(
        "/new",
        lambda asked: asked.answer(b"old", ETag='"1"'),
        lambda asked: asked.answer(b"new", ETag='"2"'),
    )
    assert take(files, ref=url).read_bytes() == b"old"
    assert take(files, ref=url).read_bytes() == b"new"
    assert web.asked[1].headers["if-none-match"] == '"1"'


def test_a_digest_that_the_payload_promises_needs_no_question(
    files: WorkerFiles, web: WebServer
) -> None:
    url = changing(web)
    first = take(files, ref=url)
    assert take(files, ref=url, sha256=first.sha256).read_bytes() == b"content 0"
    assert web.count() == 1


def test_what_a_token_opened_is_for_that_token(files: WorkerFiles, web: WebServer) -> None:
    url = changing(web, Cache_Control="max-age=60")
    contents = [
        take(files, ref=url, **asset).read_bytes()
        for asset in (
            {"download_token": "a"},
            {"download_token": "b"},
            {},
            {"url_validation_context": "c"},
            {"download_token": "a"},
        )
    ]
    assert contents == [b"content 0", b"content 1", b"content 2", b"content 3", b"content 0"]


def test_a_handler_that_writes_to_its_input_spoils_no_other(
    files: WorkerFiles, web: WebServer
) -> None:
    url = changing(web, Cache_Control="max-age=60")
    first = take(files, ref=url)
    assert os.stat(first.local_path).st_mode & 0o222 == 0
    os.chmod(first.local_path, 0o600)
    Path(first.local_path).write_bytes(b"CONTENT 0")
    assert take(files, ref=url).read_bytes() == b"content 1"


def test_a_cache_of_nothing_keeps_nothing(web: WebServer, make_files: MakeFiles) -> None:
    files = make_files(trusted_urls=(web.origin,), cache_bytes=0)
    url = changing(web, Cache_Control="max-age=60")
    assert take(files, ref=url).read_bytes() == b"content 0"
    assert take(files, ref=url).read_bytes() == b"content 1"


def test_another_disk_is_copied_to(
    web: WebServer, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: str, **_options: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    files = make_files(trusted_urls=(web.origin,))
    url = changing(web, Cache_Control="max-age=60")
    assert take(files, ref=url).read_bytes() == take(files, ref=url).read_bytes() == b"content 0"


# The directory itself


def keep(cache: InputCache, folder: Path, key: str, size: int = 100) -> Entry:
    path = folder / f"{key}-{os.urandom(4).hex()}"
    path.write_bytes(bytes(size))
    entry = Entry(sha256="s", blake3="b", size_bytes=size)
    cache.add(key, str(path), entry)
    return entry


def found(cache: InputCache, keys: str) -> str:
    return "".join(key for key in keys if cache.find(key) is not None)


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    cache = InputCache(str(tmp_path / "cache"), 350)
    for age, key in enumerate("abc"):
        keep(cache, tmp_path, key)
        os.utime(tmp_path / "cache" / f"{key}.json", (age, age))
    entry = cache.find("a")
    assert entry is not None
    assert cache.take("a", entry, str(tmp_path / "taken"))
    keep(cache, tmp_path, "d")
    assert found(cache, "abcd") == "acd"
    keep(cache, tmp_path, "e", size=351)
    assert found(cache, "abcde") == "acd"
    assert (tmp_path / "taken").read_bytes() == bytes(100)


def test_what_killed_processes_left_goes_in_time(tmp_path: Path) -> None:
    cache = InputCache(str(tmp_path / "cache"), 100)
    keep(cache, tmp_path, "a")
    for name in ("x.tmp", "y.data"):
        (tmp_path / "cache" / name).write_bytes(b"left")
    keep(cache, tmp_path, "b")
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert {"x.tmp", "y.data"} < names  # they may be just being made


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"sha256": 1}', None])
def test_a_damaged_record_is_none(tmp_path: Path, damage: bytes | None) -> None:
    cache = InputCache(str(tmp_path / "cache"), 1000)
    keep(cache, tmp_path, "a")
    if damage is None:
        (tmp_path / "cache" / "a.data").unlink()
    else:
        (tmp_path / "cache" / "a.json").write_bytes(damage)
    assert cache.find("a") is None


def test_content_that_is_gone_meanwhile_is_not_taken(tmp_path: Path) -> None:
    cache = InputCache(str(tmp_path / "cache"), 1000)
    keep(cache, tmp_path, "a")
    entry = cache.find("a")
    assert entry is not None
    other = msgspec.structs.replace(entry, identity=(1, 2, 3))
    assert not cache.take("a", other, str(tmp_path / "x"))
    (tmp_path / "cache" / "a.data").unlink()
    assert not cache.take("a", entry, str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    cache = InputCache(str(tmp_path / "cache"), 1000)
    keep(cache, tmp_path, "a")
    assert cache.find("a") is None


def test_processes_share_a_cache_without_a_lock(tmp_path: Path) -> None:
    """Whatever is found has the content that its record says, and the bound holds."""
    folder, script = tmp_path / "cache", str(Path(__file__).with_name("worker_process.py"))
    workers = [
        subprocess.Popen([sys.executable, script, "cache", str(folder), str(tmp_path / n), n])
        for n in "123"
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (
        sum(path.stat().st_size for path in folder.glob("*.data")) <= 2000 + 3 * 2000 // 8 + 3 * 400
    )
    assert not list(folder.glob("*.tmp"))


def test_threads_share_it_too(web: WebServer, files: WorkerFiles) -> None:
    url = web.page("/shared", b"shared", ETag='"1"')
    contents: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: contents.append(take(files, ref=url).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == [b"shared"] * 8
