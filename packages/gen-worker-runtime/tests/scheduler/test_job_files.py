"""Files at the scheduler: who may touch which, through the real store and the real client."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from gen_worker.errors import AuthError
from gen_worker.models.hub import HubAuthError, HubClient, LocalHub
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.runtime.http import HttpServer, open_listener, url_of
from gen_worker.runtime.ndjson.address import TcpAddress
from gen_worker.runtime.scheduler.files import FileSweep, JobAuthority, Passes, SchedulerFiles
from gen_worker.runtime.scheduler.values import Ending, NewEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from conftest import Clock, MakeSubmission, OpenLedger
    from gen_worker.runtime.scheduler import Ledger

DAY_S = 86_400.0
OUTPUT = "jobs/r1/outputs/a.png"


class Live(NamedTuple):
    seq: int
    worker_id: str


class Place:
    """A store that is served, with a ledger and what is said to be live."""

    def __init__(self, ledger: Ledger, store: LocalHub, passes: Passes, url: str) -> None:
        self.ledger = ledger
        self.store = store
        self.room = SchedulerFiles(store)
        self.passes = passes
        self.url = url
        self.live: dict[str, Live] = {}

    async def submit(
        self, make: MakeSubmission, request_id: str, payload: Any = None, *, owner: str = "acme"
    ) -> int:
        data = msgspec.msgpack.encode(payload or {})
        kept = await self.ledger.submit(make(request_id, payload=data, owner=owner))
        self.live[request_id] = Live(kept.record.seq, "w1")
        return kept.record.seq

    def token(self, request_id: str, *, worker_id: str = "w1", owner: str = "acme") -> str:
        return self.passes.issue(
            seq=self.live[request_id].seq,
            request_id=request_id,
            worker_id=worker_id,
            owner=owner,
            ttl_s=60.0,
        )

    async def as_worker(self, token: str, act: Callable[[HubClient], Any]) -> Any:
        """Do something as a worker does, in a thread of its own."""

        def work() -> Any:
            with HubClient(self.url, token, owner="acme") as client:
                return act(client)

        return await asyncio.to_thread(work)


@pytest.fixture
def place(open_ledger: OpenLedger, tmp_path: Path, clock: Clock) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Place]:
        async with open_ledger() as ledger:
            listener = open_listener(TcpAddress("127.0.0.1", 0))
            passes = Passes(b"k" * 32, now=clock)
            live: dict[str, Live] = {}
            authority = JobAuthority(passes, live.get, ledger.call)
            with LocalHub(tmp_path / "files", authority=authority, now=clock) as store:
                server, ready = HttpServer(store.app, listener, grace_s=1.0), asyncio.Event()
                place = Place(ledger, store, passes, url_of(listener))
                place.live = live
                serving = asyncio.create_task(server.serve(ready.set))
                await ready.wait()
                try:
                    yield place
                finally:
                    server.stop()
                    await serving

    return opened


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def upload(here: Place, name: str, owner: str | None) -> str:
    """Send a file as a client does; return its ref."""
    file = here.room.new_upload(name, owner)
    with open(file.path, "xb") as out:
        out.write(name.encode())
    file.keep()
    return file.ref


def test_a_worker_stores_outputs_that_clients_then_read(
    place: Any, submission: MakeSubmission, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with place() as here:
            await here.submit(submission, "r1")
            source = written(tmp_path / "out", b"picture")
            sent = await here.as_worker(
                here.token("r1"),
                lambda client: client.upload_media(source, OUTPUT, content_type="image/png"),
            )
            found = await asyncio.to_thread(here.room.find, OUTPUT, "acme")
            assert (sent.ref, found.mime_type) == (OUTPUT, "image/png")
            with open(found.path, "rb") as file:
                assert file.read() == b"picture"
            with pytest.raises(Refusal, match="no such file"):
                here.room.find(OUTPUT, "somebody-else")
            assert here.room.find(OUTPUT, None) == found

    asyncio.run(scene())


@pytest.mark.parametrize(
    "ref",
    ["jobs/r2/outputs/a.png", "jobs/r1/inputs/a", "jobs/r11/outputs/a", "../jobs/r1/outputs/a"],
)
def test_a_job_writes_nothing_but_its_own_outputs(
    place: Any, submission: MakeSubmission, tmp_path: Path, ref: str
) -> None:
    async def scene() -> None:
        async with place() as here:
            await here.submit(submission, "r1")
            await here.submit(submission, "r2")
            source = written(tmp_path / "out", b"x")
            with pytest.raises(HubAuthError):
                await here.as_worker(
                    here.token("r1"), lambda client: client.upload_media(source, ref)
                )

    asyncio.run(scene())


def test_a_job_reads_the_uploads_and_outputs_that_its_payload_names_and_no_others(
    place: Any, submission: MakeSubmission
) -> None:
    async def scene() -> None:
        async with place() as here:
            refs = {}
            owners = {"own": "acme", "nobodys": None, "other": "acme", "alien": "zoo"}
            for name, owner in owners.items():
                refs[name] = upload(here, f"{name}.txt", owner)
            named = {"ref": refs["own"]}, {"ref": refs["nobodys"]}
            payload = {"deep": [named], "alien": refs["alien"]}
            await here.submit(submission, "r1", payload)
            token = here.token("r1")

            async def facts(ref: str) -> Any:
                return await here.as_worker(token, lambda client: client.file_facts(ref))

            assert await facts(refs["own"])
            assert await facts(refs["nobodys"])
            for name in ("other", "alien"):
                with pytest.raises(HubAuthError):
                    await facts(refs[name])

    asyncio.run(scene())


def test_a_token_ends_with_its_job_and_with_its_worker(
    place: Any, submission: MakeSubmission, tmp_path: Path, clock: Clock
) -> None:
    async def scene() -> None:
        async with place() as here:
            seq = await here.submit(submission, "r1")
            source, token = written(tmp_path / "out", b"x"), here.token("r1")

            async def send() -> Any:
                return await here.as_worker(
                    token, lambda client: client.upload_media(source, OUTPUT)
                )

            here.live["r1"] = Live(seq, "")  # it was lost, and may be back
            await send()
            here.live["r1"] = Live(seq, "w2")
            with pytest.raises(HubAuthError):
                await send()
            here.live["r1"] = Live(seq + 1, "w1")  # another request with the same id
            with pytest.raises(HubAuthError):
                await send()
            here.live["r1"] = Live(seq, "w1")
            clock.now += 61
            with pytest.raises(HubAuthError):
                await send()

    asyncio.run(scene())


def test_nobody_else_is_let_in(place: Any, submission: MakeSubmission) -> None:
    async def scene() -> None:
        async with place() as here:
            await here.submit(submission, "r1")
            good = here.token("r1")
            forged = Passes(b"f" * 32).issue(
                seq=1, request_id="r1", worker_id="w1", owner="acme", ttl_s=60
            )
            flipped = good[:-6] + ("A" if good[-6] != "A" else "B") + good[-5:]
            for token in ("", forged, flipped, "gwj1.", "gwj1.!!!!", "x.y.z", good[:20]):
                with pytest.raises(HubAuthError):
                    await here.as_worker(token, lambda client: client.file_facts(OUTPUT))

    asyncio.run(scene())


def test_a_token_says_nothing_readable_and_reads_back() -> None:
    passes = Passes(b"k" * 32, now=lambda: 100.0)
    token = passes.issue(seq=7, request_id="r1", worker_id="w1", owner="acme", ttl_s=1)
    found = passes.read(token)
    assert found is not None
    assert (found.seq, found.worker_id) == (7, "w1")
    assert token.count(".") == 1, "a worker would take three parts for a JWT"
    with pytest.raises(AuthError, match="expired"):
        Passes(b"k" * 32, now=lambda: 101.0).read(token)


def test_files_go_with_their_requests_and_uploads_in_time(
    place: Any, submission: MakeSubmission, clock: Clock
) -> None:
    """But an upload stays, however old, while an unfinished request names it."""

    async def scene() -> None:
        async with place() as here:
            uploads = [upload(here, name, None) for name in ("named.txt", "unnamed.txt")]
            known = await here.submit(submission, "r1", {"ref": uploads[0]})
            await here.submit(submission, "r2")
            for request_id in ("r1", "r2", "r%2F3"):
                path = written(Path(here.store.media.new_path()), request_id.encode())
                ref = f"jobs/{request_id}/outputs/a.png"
                here.store.media.keep(path, owner="acme", ref=ref, mime_type="")
            sweep = FileSweep(here.store, here.ledger, keep_uploads_s=7 * DAY_S, now=clock)
            assert await sweep.sweep() == 0, "all of it is young"

            clock.now += 2 * DAY_S
            assert await sweep.sweep() == 1, "of a request that nobody knows"
            assert here.room.find(OUTPUT, None)

            clock.now += 8 * DAY_S
            assert await sweep.sweep() == 1
            assert here.room.find(uploads[0], None)
            with pytest.raises(Refusal):
                here.room.find(uploads[1], None)

            ending = Ending(status="canceled")
            await here.ledger.end(known, ending, NewEvent(b"error", json.dumps({}).encode()))
            assert await sweep.sweep() == 1
            with pytest.raises(Refusal):
                here.room.find(uploads[0], None)
            assert here.room.find(OUTPUT, None), "its request is kept"

    asyncio.run(scene())


def test_of_a_payload_only_what_may_be_a_ref_is_held(
    place: Any, submission: MakeSubmission
) -> None:
    """The rest may be as long as payloads are."""

    async def scene() -> None:
        async with place() as here:
            payload = {"image": {"ref": "jobs/upload-1/inputs/a"}, "text": "x" * 100_000, "jobs": 1}
            seq = await here.submit(submission, "r1", payload)
            authority = JobAuthority(here.passes, here.live.get, here.ledger.call)
            job = here.passes.read(here.token("r1"))
            assert job.seq == seq
            named = await asyncio.to_thread(authority.named_by, job)
            assert named == {"jobs/upload-1/inputs/a"}

    asyncio.run(scene())


def test_a_sweep_that_fails_is_made_again(
    place: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the reason: a disk that is full needs it most."""
    for name in ("_FIRST_S", "_EVERY_S"):
        monkeypatch.setattr(f"gen_worker.runtime.scheduler.files.sweep.{name}", 0.0)

    async def scene() -> None:
        async with place() as here:
            sweep = FileSweep(here.store, here.ledger, keep_uploads_s=DAY_S)
            outcomes: list[Exception | None] = [sqlite3.OperationalError("disk is full"), None]
            swept = asyncio.Event()

            async def once() -> int:
                if outcomes and (error := outcomes.pop(0)) is not None:
                    raise error
                swept.set()
                return 0

            monkeypatch.setattr(sweep, "sweep", once)
            running = asyncio.create_task(sweep.run())
            async with asyncio.timeout(60):
                await swept.wait()
            running.cancel()
            await asyncio.wait((running,))

    asyncio.run(scene())
    assert "disk is full" in caplog.text
