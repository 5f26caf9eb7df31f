"""Releases and tags over HTTP: published by upload, promoted, rolled back; hostile uploads."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.runtime.scheduler.releases import ReleaseLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from conftest import ApiHost, RunApi

WHERE = {"owner": "acme", "endpoint": "paint", "environment": "cpu"}


async def upload(host: ApiHost, content: bytes, **query: str) -> httpx.Response:
    return await host.http.post("/v1/releases", params=WHERE | query, content=content)


def project_of(host: ApiHost, text: bytes = b"one", *functions: str, mode: str = "w") -> bytes:
    lock = host.lock_of(*(functions or ("draw",)))
    return host.tar_of({"src/paint.py": text}, lock, mode)


async def test_a_release_is_published_shown_promoted_and_rolled_back(run_api: RunApi) -> None:
    async with run_api(is_published=False) as host:
        first = await upload(host, project_of(host), tag="prod")
        assert first.status_code == 201
        one = first.json()
        assert (one["is_new"], one["tags"], one["functions"]) == (True, ["prod"], ["draw"])
        assert [move["to_release"] for move in one["change"]["moves"]] == [one["release_id"]]
        again = await upload(host, project_of(host, mode="w:gz"), tag="prod")
        assert (again.status_code, again.json()["is_new"]) == (200, False)
        two = (await upload(host, project_of(host, b"two"), tag="prod")).json()
        assert (two["is_new"], two["tags"], two["change"]) == (True, [], None)
        listed = (await host.http.get("/v1/releases", params={"owner": "acme"})).json()["releases"]
        assert [row["release_id"] for row in listed] == [two["release_id"], one["release_id"]]
        assert all(row["source"] is None for row in listed)
        shown = (await host.http.get(f"/v1/releases/acme/paint/{one['release_id']}")).json()
        assert (shown["environment"], shown["created_at"] > 0) == ("cpu", True)
        with open(f"{shown['source']}/src/paint.py", "rb") as file:
            assert file.read() == b"one"

        move = {"owner": "acme", "endpoint": "paint", "reason": "better", "by": "ann"}
        promote = move | {"action": "promote", "release_id": two["release_id"]}
        moved = (await host.http.post("/v1/tags", json=promote)).json()
        assert (moved["change"]["reason"], moved["change"]["changed_by"]) == ("better", "ann")
        assert moved["moves"] == [
            {"function": "draw", "from_release": one["release_id"], "to_release": two["release_id"]}
        ]
        assert (await host.http.post("/v1/tags", json=promote)).json() == {
            "change": None,
            "moves": [],
        }
        back = await host.http.post("/v1/tags", json=move | {"action": "rollback"})
        assert back.json()["moves"][0]["to_release"] == one["release_id"]
        none = await host.http.post("/v1/tags", json=move | {"action": "rollback"})
        assert (none.status_code, none.json()["error"]) == (409, "no_other_release")
        await host.http.post("/v1/tags", json=move | {"action": "forward"})
        tags = (await host.http.get("/v1/tags", params={"endpoint": "paint"})).json()["tags"]
        assert tags == [
            {
                "owner": "acme",
                "endpoint": "paint",
                "tag": "prod",
                "function": "draw",
                "release_id": two["release_id"],
            }
        ]
        history = (await host.http.get("/v1/tags/history")).json()["changes"]
        assert [change["action"] for change in history] == [
            "forward",
            "rollback",
            "promote",
            "promote",
        ]


async def test_a_release_that_is_needed_is_not_deleted(run_api: RunApi) -> None:
    async with run_api(is_published=False) as host:
        one = await host.publish(b"one")
        two = await host.publish(b"two")
        found = await host.http.delete(f"/v1/releases/acme/paint/{one}")
        assert (found.status_code, found.json()["error"]) == (409, "release_in_use")
        assert (await host.http.delete(f"/v1/releases/acme/paint/{two}")).status_code == 200
        found = await host.http.delete(f"/v1/releases/acme/paint/{two}")
        assert (found.status_code, found.json()["error"]) == (404, "release_not_found")
        found = await host.http.get(f"/v1/releases/acme/paint/{two}")
        assert found.status_code == 404


async def test_a_call_means_what_its_tag_means_when_it_comes(run_api: RunApi) -> None:
    async with run_api(is_published=False) as host:
        one, two = await host.publish(b"one"), await host.publish(b"two")
        move = {"owner": "acme", "endpoint": "paint", "action": "promote", "release_id": two}
        body = {"function": "paint/draw", "payload": {}}
        before = (await host.http.post("/v1/requests", json=body)).json()
        await host.http.post("/v1/tags", json=move)
        after = (await host.http.post("/v1/requests", json=body)).json()
        assert (before["release_id"], after["release_id"]) == (one, two)
        assert (await host.hands.take()).record.release_id in (one, two)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"owner": "///"}, 400),
        ({"endpoint": "///"}, 400),
        ({"environment": "../../x"}, 400),
        ({"environment": "\0"}, 400),
        ({"tag": "No Tag"}, 400),
    ],
)
async def test_a_name_that_is_none_is_refused(
    run_api: RunApi, query: dict[str, str], status: int
) -> None:
    async with run_api(is_published=False) as host:
        found = await upload(host, project_of(host), **query)
        assert found.status_code == status, found.text
        assert (await host.http.get("/v1/releases")).json() == {"releases": []}


# -- what no project is ----------------------------------------------------------------------------


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.size = len(data)
    for field, value in fields.items():
        setattr(found, field, value)
    return found, data


def packed(host: ApiHost, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    lock = member(".tensorhub/endpoint.lock", host.lock_of("draw"))
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in (lock, member("src/paint.py", b"one"), *members):
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


LINK, HARD = {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "absolute": [member("/tmp/evil", b"x")],
    "up": [member("../evil", b"x")],
    "up inside": [member("a/../../evil", b"x")],
    "null": [member("a\x01b", b"x"), member("con\x00trol", b"x")],
    "link out": [member("a", linkname="/etc/passwd", **LINK)],
    "link up": [member("a/b", linkname="../../evil", **LINK)],
    "link then file": [member("d", linkname="src", **LINK), member("d/x", b"x")],
    "link over file": [member("src/paint.py", linkname="x", **LINK)],
    "file behind link": [member("l", linkname="l2/x", **LINK), member("l2", linkname=".", **LINK)],
    "link to nothing": [member("a", linkname="nothing", **LINK)],
    "circle": [member("a", linkname="b", **LINK), member("b", linkname="a", **LINK)],
    "link of bytes": [member("a", linkname="\udcff", **LINK)],
    "name of bytes": [member("\udcff", b"x")],
    "hard link": [member("a", linkname="src/paint.py", **HARD)],
    "device": [member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block": [member("a", type=tarfile.BLKTYPE)],
    "fifo": [member("a", type=tarfile.FIFOTYPE)],
    "twice": [member("src/paint.py", b"two")],
    "file as folder": [member("src/paint.py/x", b"x")],
    "folder as file": [member("src", b"x")],
    "long name": [member("x" * 300, b"x")],
    "huge header": [member("x" * 3_000_000, b"x")],
    "deep": [member("/".join(["d"] * 5000), b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_no_project_has_is_refused(run_api: RunApi, tmp_path: Path, name: str) -> None:
    async with run_api(is_published=False) as host:
        found = await upload(host, packed(host, *HOSTILE[name]))
        assert found.status_code in (400, 413), found.text
        assert str(tmp_path) not in found.text
        assert (await host.http.get("/v1/releases")).json() == {"releases": []}
        assert not list((tmp_path / "uploads").iterdir()), "nothing is left"
    assert not (tmp_path.parent / "evil").exists()
    assert not (tmp_path / "evil").exists()


LIMITS = ReleaseLimits(max_files=10, max_file_bytes=10_000, max_bytes=50_000)


def too_many(host: ApiHost) -> bytes:
    return packed(host, *(member(f"f{index}", b"x") for index in range(30)))


def too_large_a_file(host: ApiHost) -> bytes:
    return packed(host, member("big", b"x" * 20_000))


def too_large_in_all(host: ApiHost) -> bytes:
    return packed(host, *(member(f"f{index}", b"x" * 9_000) for index in range(8)))


def too_large_a_body(host: ApiHost) -> bytes:
    return packed(host) + bytes(200_000)


def bomb(_host: ApiHost) -> bytes:
    return gzip.compress(bytes(300_000_000), 1)


@pytest.mark.parametrize(
    "make", [too_many, too_large_a_file, too_large_in_all, too_large_a_body, bomb]
)
async def test_what_is_too_large_is_refused_before_it_is_there(
    run_api: RunApi, tmp_path: Path, make: Callable[[ApiHost], bytes]
) -> None:
    async with run_api(is_published=False, release_limits=LIMITS) as host:
        found = await upload(host, make(host))
        assert found.status_code in (400, 413), found.text
        assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", b"\x1f\x8bxxxxxxxx", bytes(1024)])
async def test_what_is_no_tar_file_is_refused(run_api: RunApi, content: bytes) -> None:
    async with run_api(is_published=False) as host:
        found = await upload(host, content)
        assert (found.status_code, found.json()["error"]) == (400, "invalid_tar")


@pytest.mark.chaos
async def test_a_damaged_tar_file_breaks_nothing(run_api: RunApi, seed: int) -> None:
    chance = random.Random(seed)
    async with run_api(is_published=False) as host:
        whole = packed(host, member("a/b", b"x" * 600), member("a/l", linkname="b", **LINK))
        for _ in range(30):
            damaged = bytearray(whole)
            for _ in range(chance.randrange(1, 6)):
                kind, at = chance.choice("fcid"), chance.randrange(len(damaged))
                if kind == "f":
                    damaged[at] = chance.randrange(256)
                elif kind == "c":
                    del damaged[at : at + chance.randrange(600)]
                elif kind == "i":
                    damaged[at:at] = chance.randbytes(chance.randrange(600))
                else:
                    damaged[at:at] = damaged[at : at + 512]
                damaged = damaged or bytearray(b"x")
            body = bytes(damaged)
            found = await upload(host, gzip.compress(body) if chance.random() < 0.3 else body)
            assert found.status_code < 500, found.text


async def test_an_upload_that_breaks_off_leaves_nothing(run_api: RunApi, tmp_path: Path) -> None:
    async with run_api(is_published=False) as host:
        _, writer = await asyncio.open_connection("127.0.0.1", host.port)
        writer.write(
            b"POST /v1/releases?owner=acme&endpoint=paint HTTP/1.1\r\nhost: localhost\r\n"
            b"content-length: 1000000\r\n\r\nxxxx"
        )
        await writer.drain()
        async with asyncio.timeout(60):
            while not list(tmp_path.glob("uploads/*")):
                await asyncio.sleep(0.005)
            writer.close()
            while list(tmp_path.glob("uploads/*")):
                await asyncio.sleep(0.005)
        assert (await upload(host, project_of(host))).status_code == 201


@pytest.mark.parametrize(
    ("number", "status", "error"),
    [(errno.ENOSPC, 507, "disk_full"), (errno.EROFS, 503, "resource")],
)
async def test_a_disk_that_takes_nothing_is_told(
    run_api: RunApi, monkeypatch: pytest.MonkeyPatch, number: int, status: int, error: str
) -> None:
    def fail(*_given: object) -> bytes:
        raise OSError(number, "it fails")

    monkeypatch.setattr("gen_worker.runtime.scheduler.api.release_routes.unpack", fail)
    async with run_api(is_published=False) as host:
        found = await upload(host, project_of(host))
        assert (found.status_code, found.json()["error"]) == (status, error)


async def test_a_project_that_cannot_be_published_says_why(run_api: RunApi) -> None:
    async with run_api(is_published=False) as host:
        found = await upload(host, host.tar_of({"a.py": b"x"}))
        assert (found.status_code, found.json()["error"]) == (400, "invalid_tar")
        assert "endpoint.lock" in found.json()["message"]
        found = await upload(host, host.tar_of({"a.py": b"x"}, b"no lock"))
        assert found.status_code == 400
        found = await upload(host, host.tar_of({"a.py": b"x"}, host.lock_of()))
        assert (found.status_code, found.json()["error"]) == (400, "release_refused")
        assert found.json()["problems"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "promote", "endpoint": "paint"}, 400),
        ({"action": "fly", "endpoint": "paint"}, 400),
        ({"action": "promote"}, 400),
        ({"action": "promote", "endpoint": "paint", "release_id": "r-nope"}, 404),
        ({"action": "rollback", "endpoint": "nope"}, 404),
        ({"action": "promote", "endpoint": "///", "release_id": "r"}, 400),
        ({"action": "promote", "endpoint": "x" * 600, "release_id": "r"}, 400),
        ({"action": "remove", "endpoint": "paint", "tag": "nope"}, 200),
        ([], 400),
    ],
)
async def test_a_move_that_makes_no_sense_is_refused(
    run_api: RunApi, body: Any, status: int
) -> None:
    async with run_api() as host:
        if isinstance(body, dict):
            body = {"owner": "acme"} | body
        found = await host.http.post("/v1/tags", json=body)
        assert found.status_code == status, found.text
