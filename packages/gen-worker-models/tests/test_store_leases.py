"""A leased snapshot stays, whoever else is at work; what a dead process held is void."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gen_worker.models.store import ContentStore, SnapshotNotFoundError
from gen_worker.models.store.heartbeat import touch_all
from gen_worker.models.store.leases import Claim, Leases
from gen_worker.models.store.owners import PATIENCE_S, is_alive, this_process
from gen_worker.models.store.places import Places

if TYPE_CHECKING:
    from pathlib import Path

HEX = "ab" * 32
ELSEWHERE = "other-host~feedbeef~4026531836~17~99"

HOLDER = """
import sys
from gen_worker.models.store import ContentStore
with ContentStore(sys.argv[1]).lease(sys.argv[2]) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path)
    os.makedirs(places.snapshot(HEX))
    return places


@pytest.fixture
def leases(places: Places) -> Leases:
    return Leases(places)


def files_of(places: Places) -> list[str]:
    path = places.leases_of(HEX)
    return os.listdir(path) if os.path.isdir(path) else []


def put_lease(places: Places, owner: str, *, kind: str = "use", age_s: float = 0.0) -> str:
    os.makedirs(places.leases_of(HEX), exist_ok=True)
    path = os.path.join(places.leases_of(HEX), f"{kind}~{owner}~00")
    with open(path, "w"):
        os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_lease_gives_the_directory_and_ends(places: Places, leases: Leases) -> None:
    with leases.hold(HEX) as path:
        assert path == places.snapshot(HEX)
        assert Leases(places).leased() == {HEX}
    assert Leases(places).leased() == frozenset()
    assert files_of(places) == []


def test_leases_are_counted(places: Places, leases: Leases) -> None:
    with leases.hold(HEX):
        with leases.hold(HEX):
            assert len(files_of(places)) == 1
        assert leases.is_in_use(HEX)
    assert not leases.is_in_use(HEX)


def test_a_lease_ends_with_an_exception_too(leases: Leases) -> None:
    with pytest.raises(KeyError), leases.hold(HEX):
        raise KeyError
    assert not leases.is_in_use(HEX)


def test_what_is_not_here_cannot_be_leased(places: Places, leases: Leases) -> None:
    with pytest.raises(SnapshotNotFoundError, match="fetch it again"), leases.hold("cd" * 32):
        pytest.fail("it is not here")
    assert not leases.is_in_use("cd" * 32)


def test_an_evictor_sees_the_leases_of_others(places: Places, leases: Leases) -> None:
    with leases.hold(HEX), Leases(places).evicting(HEX) as may_go:
        assert not may_go
    with Leases(places).evicting(HEX) as may_go:
        assert may_go
    assert not os.path.exists(places.leases_of(HEX))


def test_a_reader_waits_for_an_eviction_under_way(places: Places, leases: Leases) -> None:
    entered = threading.Event()

    def read() -> str:
        entered.set()
        with leases.hold(HEX):
            return "read"

    with ThreadPoolExecutor(1) as pool:
        with Leases(places).evicting(HEX) as may_go:
            assert may_go
            reader = pool.submit(read)
            assert entered.wait(60)
            os.rename(places.snapshot(HEX), places.root + "/gone")
        with pytest.raises(SnapshotNotFoundError):
            reader.result(60)


def test_a_lease_of_a_killed_process_is_void(places: Places, leases: Leases) -> None:
    command = [sys.executable, "-c", HOLDER, places.root, HEX]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == places.snapshot(HEX)
        assert leases.is_in_use(HEX)
        holder.kill()
        holder.wait(60)
        assert not leases.is_in_use(HEX)
        assert files_of(places) == []


def test_a_killed_process_that_nobody_waited_for_is_dead(places: Places, leases: Leases) -> None:
    command = [sys.executable, "-c", HOLDER, places.root, HEX]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        assert not leases.is_in_use(HEX)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # Python 3.12
def test_a_forked_child_does_not_end_its_parents_lease(places: Places, leases: Leases) -> None:
    with leases.hold(HEX):
        pid = os.fork()
        if pid == 0:
            held = leases.hold(HEX)
            with held:
                code = len(files_of(places))
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
        assert leases.is_in_use(HEX)
        assert len(files_of(places)) == 1


def test_leases_of_other_machines_live_by_their_age(places: Places, leases: Leases) -> None:
    put_lease(places, ELSEWHERE, age_s=PATIENCE_S / 2)
    assert leases.is_in_use(HEX)
    path = put_lease(places, ELSEWHERE, age_s=PATIENCE_S + 60)
    assert not leases.is_in_use(HEX)
    assert not os.path.exists(path)


def test_a_reboot_voids_nothing_that_is_still_touched(places: Places, leases: Leases) -> None:
    host, boot, *rest = this_process().split("~")
    put_lease(places, "~".join((host, "0" * len(boot), *rest)))
    assert leases.is_in_use(HEX)


def test_a_process_number_that_was_given_again_is_another_process() -> None:
    fields = this_process().split("~")
    assert is_alive(this_process(), lambda: 0.0)
    assert not is_alive("~".join((*fields[:4], "1")), lambda: 0.0)
    assert not is_alive("~".join((*fields[:3], "x", "1")), lambda: 0.0)
    assert not is_alive("nonsense", lambda: 0.0)


def test_a_process_that_the_system_hides_lives_by_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    hidden = "~".join((*this_process().split("~")[:3], "999999999", "1"))
    assert is_alive(hidden, lambda: PATIENCE_S / 2)
    assert not is_alive(hidden, lambda: PATIENCE_S * 2)


def test_held_leases_are_touched(places: Places, leases: Leases) -> None:
    with leases.hold(HEX):
        (name,) = files_of(places)
        path = os.path.join(places.leases_of(HEX), name)
        os.utime(path, (0, 0))
        touch_all()
        assert os.stat(path).st_mtime > 1_000_000


def test_strange_files_are_no_leases(places: Places, leases: Leases) -> None:
    os.makedirs(places.leases_of(HEX))
    for name in (".draft", "use", "~~", "use~~", "use~x", "evict~y~z"):
        with open(os.path.join(places.leases_of(HEX), name), "w"):
            pass
    assert not leases.is_in_use(HEX)
    with leases.hold(HEX):
        pass


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    places: Places, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with leases.hold(HEX) as path:
        assert path == places.snapshot(HEX)
    with pytest.raises(SnapshotNotFoundError), leases.hold("cd" * 32):
        pytest.fail("it is not here")


def test_claims_are_seen_by_age(places: Places, leases: Leases) -> None:
    claim = Claim(blobs=((HEX, 3),), extra_bytes=4)
    with leases.claim(HEX, claim) as elder, Leases(places).claim(HEX, claim) as younger:
        assert [(name, found) for _, name, found in leases.claims()] == [
            (elder, claim),
            (younger, claim),
        ]
        assert leases.has_elder(HEX, younger)
        assert not leases.has_elder(HEX, elder)
        assert leases.is_in_use(HEX)
    assert leases.claims() == []


def test_who_claims_blobs_waits_for_a_removal_under_way(places: Places, leases: Leases) -> None:
    entered = threading.Event()

    def claim() -> bool:
        entered.set()
        with leases.claim(HEX, Claim(blobs=((HEX, 3),))):
            return os.path.exists(places.root + "/removed")

    with ThreadPoolExecutor(1) as pool:
        with Leases(places).dropping() as is_announced:
            claiming = pool.submit(claim)
            assert entered.wait(60)
            assert is_announced()
            os.mkdir(places.root + "/removed")
        assert claiming.result(60)


def test_many_threads_lease_and_evict(places: Places, leases: Leases) -> None:
    """Whoever holds a lease sees the snapshot, however often others try to take it away."""
    evictor, aside, is_over = Leases(places), places.root + "/aside", threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                with leases.hold(HEX) as path:
                    assert os.path.isdir(path)
            except SnapshotNotFoundError:
                continue

    def evict() -> None:
        for _ in range(200):
            with evictor.evicting(HEX) as may_go:
                if may_go:
                    os.rename(places.snapshot(HEX), aside)
            if may_go:
                os.rename(aside, places.snapshot(HEX))

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            evict()
        finally:
            is_over.set()
        for reader in readers:
            reader.result(60)
    assert files_of(places) == []


def test_snapshot_notes_the_last_use(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    path = os.path.join(store.root, "snapshots", HEX)
    os.makedirs(path)
    os.utime(path, (0, 0))
    assert store.snapshot(HEX) == path
    assert os.stat(path).st_mtime > 1_000_000
