"""Releases are published, called by name, promoted, rolled back and deleted."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gen_worker.errors import UnknownFunctionError, ValidationError, classify
from gen_worker.manifest import LockError, dump_lock
from gen_worker.runtime.scheduler import Ending, Ledger, LedgerWriteError, NewEvent
from gen_worker.runtime.scheduler.releases import (
    DamagedReleaseError,
    Move,
    NoOtherReleaseError,
    RefusedReleaseError,
    ReleaseInUseError,
    Releases,
    UnknownReleaseError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Opened(Protocol):
    def __call__(self) -> AbstractAsyncContextManager[tuple[Releases, Ledger]]: ...


@pytest.fixture
def opened(folder: Path, clock: Any) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Releases, Ledger]]:
        ledger = await Ledger.open(folder, clock=clock)
        try:
            releases = await Releases.open(folder / "releases", ledger)
            yield releases, ledger
            await releases.close()
        finally:
            await ledger.close()

    return opened


def lock_of(*functions: str, endpoint: str = "paint") -> bytes:
    """Return an endpoint.lock with these functions."""
    found = [{"name": name, "module": "paint", "label": "Draws"} for name in functions]
    return dump_lock({"lock_version": 1, "endpoint_name": endpoint, "functions": found}).encode()


async def publish(
    releases: Releases,
    project: Path,
    text: str,
    *functions: str,
    owner: str = "acme",
    endpoint: str = "",
    first_tag: str = "",
) -> str:
    """Publish a project whose source is this text; return the release's id."""
    (project / "src/paint.py").write_text(text)
    published = await releases.publish(
        project,
        lock=lock_of(*(functions or ("draw", "erase"))),
        environment="cpu",
        owner=owner,
        endpoint=endpoint,
        by="ada",
        first_tag=first_tag,
    )
    return published.record.release_id


def ids_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "releases/releases"))


async def test_publishing_moves_no_traffic(opened: Opened, make_project: Any, clock: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        one = await publish(releases, project, "one")
        with pytest.raises(UnknownFunctionError, match="none is deployed yet"):
            releases.tags.resolve("acme/paint/draw")
        change = await releases.tags.promote("acme", "paint", one, by="ada", reason="it works")
        assert change is not None
        assert (change.action, change.changed_by, change.reason) == ("promote", "ada", "it works")
        assert change.changed_at == clock.now
        assert change.moves == (Move("draw", "", one), Move("erase", "", one))
        two = await publish(releases, project, "two")
        assert releases.tags.resolve("acme/paint/draw")[:2] == (one, "draw")
        await releases.tags.promote("acme", "paint", two)
        assert releases.tags.resolve("acme/paint/draw")[:2] == (two, "draw")
        assert await releases.tags.promote("acme", "paint", two) is None
        records = await releases.releases("acme", "paint")
        assert [record.release_id for record in records] == [two, one]
        assert records[0].functions == ("draw", "erase")
        assert (records[0].created_by, records[0].environment) == ("ada", "cpu")
        assert await releases.releases("other") == ()


async def test_the_first_release_may_be_promoted_at_once(opened: Opened, make_project: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        one = await publish(releases, project, "one", first_tag="prod")
        two = await publish(releases, project, "two", first_tag="prod")
        assert one != two
        assert releases.tags.resolve("acme/paint/draw").release_id == one
        (change,) = await releases.tags.history("acme", "paint")
        assert change.reason == "the endpoint's first release"


async def test_publishing_twice_changes_nothing(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    project = make_project()
    async with opened() as (releases, _):
        first = await releases.publish(
            project, lock=lock_of("draw"), environment="cpu", owner="acme", first_tag="prod"
        )
        again = await releases.publish(
            project, lock=lock_of("draw"), environment="cpu", owner="acme", first_tag="prod"
        )
        assert (first.is_new, again.is_new, again.change) == (True, False, None)
        assert again.record == first.record
        other = await releases.publish(
            project, lock=lock_of("draw"), environment="cpu", owner="acme", endpoint="Other One"
        )
        assert other.is_new
        assert other.record.endpoint == "other-one"
        assert ids_in(folder) == [first.record.release_id] == [other.record.release_id]


async def test_everything_is_there_after_a_restart(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    project = make_project()
    async with opened() as (releases, _):
        one = await publish(releases, project, "one", first_tag="prod")
        two = await publish(releases, project, "two")
        await releases.tags.promote("acme", "paint", two, function="draw", tag="next")
    async with opened() as (releases, _):
        assert releases.tags.resolve("draw").release_id == one
        assert releases.tags.resolve("draw:next").release_id == two
        stored = await releases.stored(two)
        with open(os.path.join(stored.source, "src/paint.py")) as file:
            assert file.read() == "two"
        manifest = await releases.manifest("acme", "paint", one)
        assert [function.label for function in manifest.functions] == ["Draws", "Draws"]
        with pytest.raises(UnknownReleaseError, match="has no release 'r-0'"):
            await releases.manifest("acme", "paint", "r-0")


async def test_rollback_goes_back_and_forward_again(opened: Opened, make_project: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        tags = releases.tags
        ids = [await publish(releases, project, text) for text in ("one", "two", "three")]
        for release_id in ids:
            await tags.promote("acme", "paint", release_id)
        seen = []
        for move in (tags.rollback, tags.rollback, tags.forward, tags.rollback):
            change = await move("acme", "paint", by="bob", reason="it is slow")
            assert change is not None
            assert (change.changed_by, change.reason) == ("bob", "it is slow")
            seen.append(ids.index(tags.resolve("acme/paint/erase").release_id))
        assert seen == [1, 0, 1, 0]
        with pytest.raises(NoOtherReleaseError, match="no other release before"):
            await tags.rollback("acme", "paint")
        await tags.promote("acme", "paint", ids[2])
        with pytest.raises(NoOtherReleaseError, match="not rolled back"):
            await tags.forward("acme", "paint")
        actions = [change.action for change in await tags.history("acme", "paint")]
        assert (
            actions == ["promote", "rollback", "forward", "rollback", "rollback"] + ["promote"] * 3
        )
        assert len(await tags.history("acme", "paint", tag="prod", limit=2)) == 2
        assert await tags.history("acme", "paint", tag="next") == ()


async def test_one_function_is_moved_alone(opened: Opened, make_project: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        tags = releases.tags

        def now() -> list[int]:
            return [ids.index(tags.resolve(name).release_id) for name in ("draw", "erase")]

        ids = [await publish(releases, project, text) for text in ("one", "two", "three")]
        await tags.promote("acme", "paint", ids[0])
        await tags.promote("acme", "paint", ids[1])
        await tags.promote("acme", "paint", ids[2], function="Draw")
        assert now() == [2, 1]
        await tags.rollback("acme", "paint", function="erase")
        assert now() == [2, 0]
        await tags.rollback("acme", "paint")
        assert now() == [1, 0]
        await tags.rollback("acme", "paint")
        assert now() == [0, 0]
        await tags.forward("acme", "paint")
        assert now() == [1, 1]
        await tags.forward("acme", "paint")
        assert now() == [2, 1]
        with pytest.raises(UnknownReleaseError, match="has no function 'blur': it has draw, erase"):
            await tags.promote("acme", "paint", ids[0], function="blur")
        with pytest.raises(UnknownReleaseError, match="no tag acme/paint/blur:prod"):
            await tags.rollback("acme", "paint", function="blur")


async def test_functions_come_and_go_with_their_releases(opened: Opened, make_project: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        tags = releases.tags
        one = await publish(releases, project, "one", "draw", "erase")
        two = await publish(releases, project, "two", "draw", "blur")
        await tags.promote("acme", "paint", one)
        await tags.promote("acme", "paint", two)
        with pytest.raises(UnknownFunctionError):
            tags.resolve("acme/paint/erase")
        assert tags.resolve("acme/paint/blur").release_id == two
        with pytest.raises(NoOtherReleaseError):
            await tags.rollback("acme", "paint", function="blur")
        await tags.rollback("acme", "paint")
        assert tags.resolve("acme/paint/erase").release_id == one
        with pytest.raises(UnknownFunctionError):
            tags.resolve("acme/paint/blur")


async def test_a_release_in_use_stays(
    opened: Opened, make_project: Any, folder: Path, submission: Any
) -> None:
    project = make_project()
    async with opened() as (releases, ledger):
        one = await publish(releases, project, "one", first_tag="prod")
        with pytest.raises(ReleaseInUseError, match="stays for acme/paint/draw:prod, acme"):
            await releases.delete("acme", "paint", one)
        two = await publish(releases, project, "two")
        await releases.tags.promote("acme", "paint", two)
        record, _ = await ledger.submit(submission("r-1", release_id=one))
        with pytest.raises(ReleaseInUseError, match="request 'r-1' has not ended"):
            await releases.delete("acme", "paint", one)
        await ledger.end(record.seq, Ending(status="succeeded"), NewEvent(b"result", b"{}"))
        await releases.delete("acme", "paint", one)
        assert ids_in(folder) == [two]
        with pytest.raises(UnknownReleaseError, match=f"the latest are {two}"):
            await releases.delete("acme", "paint", one)
        with pytest.raises(NoOtherReleaseError):
            await releases.tags.rollback("acme", "paint")


async def test_a_request_that_is_on_its_way_keeps_its_release(
    opened: Opened, make_project: Any
) -> None:
    project, go = make_project(), threading.Event()
    async with opened() as (releases, ledger):
        one = await publish(releases, project, "one", first_tag="prod")
        two = await publish(releases, project, "two")
        held = ledger.transact(lambda _, __: go.wait())
        moving = asyncio.create_task(releases.tags.promote("acme", "paint", two))
        deleting = asyncio.create_task(releases.delete("acme", "paint", one))
        try:
            while ledger.statistics().pending < 2:
                await asyncio.sleep(0)
            assert releases.tags.resolve("draw").release_id == one
        finally:
            go.set()
        await held
        await moving
        with pytest.raises(ReleaseInUseError, match="only just been moved: ask again"):
            await deleting
        await releases.delete("acme", "paint", one)


async def test_a_rollback_skips_what_was_deleted(opened: Opened, make_project: Any) -> None:
    project = make_project()
    async with opened() as (releases, _):
        ids = [await publish(releases, project, text) for text in ("one", "two")]
        for release_id in (ids[0], ids[1], ids[0]):
            await releases.tags.promote("acme", "paint", release_id)
        await releases.delete("acme", "paint", ids[1])
        with pytest.raises(NoOtherReleaseError):
            await releases.tags.rollback("acme", "paint")
        assert releases.tags.resolve("draw").release_id == ids[0]


async def test_a_removed_tag_names_nothing(opened: Opened, make_project: Any) -> None:
    async with opened() as (releases, _):
        one = await publish(releases, make_project(), "one")
        await releases.tags.promote("acme", "paint", one, tag="next")
        change = await releases.tags.remove("acme", "paint", "next", by="ada")
        assert change is not None
        assert change.moves == (Move("draw", one, ""), Move("erase", one, ""))
        assert await releases.tags.remove("acme", "paint", "next") is None
        with pytest.raises(UnknownReleaseError, match="there is no tag acme/paint:next"):
            await releases.tags.rollback("acme", "paint", tag="next")
        await releases.delete("acme", "paint", one)
        assert await releases.releases() == ()


async def test_two_endpoints_share_a_folder(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    project = make_project()
    async with opened() as (releases, _):
        one = await publish(releases, project, "one", owner="acme")
        assert await publish(releases, project, "one", owner="other") == one
        await releases.delete("acme", "paint", one)
        assert ids_in(folder) == [one]
        await releases.delete("other", "paint", one)
        assert ids_in(folder) == []


async def test_many_publish_at_once(opened: Opened, make_project: Any, folder: Path) -> None:
    projects = [make_project(f"p{number}", **{"src/n.py": str(number % 3)}) for number in range(9)]
    async with opened() as (releases, _):
        found = await asyncio.gather(*(publish(releases, one, "one") for one in projects))
        assert ids_in(folder) == sorted(set(found))
        assert len(await releases.releases()) == 3


async def test_who_stops_waiting_takes_nothing_back(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    async with opened() as (releases, _):
        task = asyncio.create_task(publish(releases, make_project(), "one", first_tag="prod"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await releases.close()
        (record,) = await releases.releases()
        assert ids_in(folder) == [record.release_id]
        assert releases.tags.resolve("draw").release_id == record.release_id


async def test_a_lock_without_use_is_refused(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    project = make_project()
    async with opened() as (releases, _):

        async def refused(lock: bytes, kind: type[Exception] = RefusedReleaseError) -> str:
            with pytest.raises(kind) as caught:
                await releases.publish(project, lock=lock, environment="cpu", owner="acme")
            return str(caught.value)

        assert "no function" in await refused(lock_of())
        assert "'draw' twice" in await refused(lock_of("draw", "draw"))
        assert "'Draw', which is no slug" in await refused(lock_of("Draw"))
        assert "no name for the endpoint" in await refused(lock_of("draw", endpoint=""))
        assert "lock_version is 99" in await refused(b"lock_version = 99", LockError)
        assert ids_in(folder) == []
        with pytest.raises(ValidationError, match="owner '!!' has no letter"):
            await publish(releases, project, "one", owner="!!")
        with pytest.raises(ValidationError, match="'Prod' is no tag"):
            await publish(releases, project, "one", first_tag="Prod")


async def test_a_ledger_that_cannot_be_written_leaves_no_folder(
    opened: Opened, make_project: Any, folder: Path
) -> None:
    project = make_project()
    async with opened() as (releases, ledger):
        await ledger.transact(lambda writer, _: writer.execute("SELECT 1").fetchone())
        ledger._database.writer.execute("PRAGMA max_page_count = 1")
        lock = lock_of(*(f"draw-{number}" for number in range(500)))
        with pytest.raises(LedgerWriteError):
            await releases.publish(project, lock=lock, environment="cpu", owner="acme")
        assert ids_in(folder) == []
        ledger._database.writer.execute("PRAGMA max_page_count = 1000000")
        await publish(releases, project, "one", first_tag="prod")


async def test_a_folder_without_a_row_goes_and_a_row_without_a_folder_is_told(
    opened: Opened, make_project: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = make_project()
    async with opened() as (releases, _):
        one = await publish(releases, project, "one", first_tag="prod")
        two = await publish(releases, project, "two")
    os.rename(folder / "releases/releases" / one, folder / "releases/releases/r-orphan")
    async with opened() as (releases, _):
        assert ids_in(folder) == [two]
        assert "r-orphan" in caplog.text
        assert f"have no folder in {folder}/releases: {one}" in caplog.text
        with pytest.raises(DamagedReleaseError):
            await releases.stored(one)
        assert await publish(releases, project, "one") == one
        assert (await releases.stored(one)).release_id == one


def test_refusals_say_what_they_mean_to_a_client() -> None:
    failures = [
        (UnknownReleaseError("no"), 404, "release_not_found"),
        (ReleaseInUseError("no"), 400, "release_in_use"),
        (NoOtherReleaseError("no"), 400, "no_other_release"),
        (RefusedReleaseError("p", ["no"]), 400, "release_refused"),
    ]
    for error, status, code in failures:
        failure = classify(error, origin="input")
        assert (failure.http_status, failure.code, failure.retryable) == (status, code, False)
