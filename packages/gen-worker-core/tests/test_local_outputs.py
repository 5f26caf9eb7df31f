"""What keeps outputs on disk whole, and in their place, whatever happens around them."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gen_worker.context import RequestContext, local, outputs
from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.errors import ArtifactTransferError, OutputTooLargeError, ResourceError
from gen_worker.ports import SaveOptions

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links, limits and signals of POSIX")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that contexts without a host write to."""
    directory = tmp_path / "outputs"
    monkeypatch.setenv("GEN_WORKER_LOCAL_OUTPUT_DIR", str(directory))
    return directory


def names_below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir())


def test_a_link_below_the_outputs_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "jobs/t/outputs").mkdir(parents=True)
    (root / "jobs/t/outputs/link").symlink_to(outside)
    (root / "jobs/u").symlink_to(outside)
    for context, ref in ((RequestContext("t"), "link/x"), (RequestContext("u"), "x")):
        with pytest.raises(ValueError, match="symbolic link"):
            context.save_bytes(ref, b"x")
        with pytest.raises(ValueError, match="symbolic link"):
            context.open_output_stream(ref)
    assert names_below(outside) == []


def test_a_link_in_the_place_of_an_output_is_replaced(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (root / "jobs/t/outputs").mkdir(parents=True)
    (root / "jobs/t/outputs/x").symlink_to(victim)
    stored = RequestContext("t").save_file("x", victim)
    assert (root / "jobs/t/outputs/x").read_bytes() == b"mine"
    assert not os.path.islink(str(stored.local_path))
    assert stored.sha256 == hashlib.sha256(b"mine").hexdigest()


def test_the_directory_of_all_outputs_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    root.symlink_to(tmp_path / "large-disk")
    assert RequestContext("t").save_bytes("a/x", b"x").read_bytes() == b"x"


def test_outputs_and_directories_do_not_share_a_name(root: Path) -> None:
    context = RequestContext("t")
    context.save_bytes("a/b", b"x")
    with pytest.raises(ValueError, match="is a directory"):
        context.save_bytes("a", b"x")
    with pytest.raises(ValueError, match="lies below a file"):
        context.save_bytes("a/b/c", b"x")


@pytest.fixture
def small_files() -> Any:
    """No file may grow beyond 100,000 bytes, which is what a full disk looks like."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def fill(context: RequestContext, ref: str) -> None:
    with context.open_output_stream(ref) as out:
        for _ in range(1000):
            out.write(b"x" * 1000)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_said_and_leaves_nothing_behind(root: Path) -> None:
    context = RequestContext("t")
    with pytest.raises(ResourceError, match=r"output 'jobs/t/outputs/a' cannot be stored"):
        context.save_bytes("a", b"x" * 1_000_000)
    with pytest.raises(ResourceError, match="too large"):
        fill(context, "b")
    with pytest.raises(ResourceError), context.open_output_stream("c") as out:
        out.write(b"x" * 100_001)  # short enough for a buffer on most machines
    assert names_below(root) == []


def test_a_place_that_cannot_be_written_is_a_failed_transfer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = LocalOutputs(str(tmp_path / "file"))
    with pytest.raises((ArtifactTransferError, ValueError), match="'a'"):
        run_blocking(files.save("a", b"x", SaveOptions(), request_id="t"))


def test_a_file_that_grows_while_it_is_copied_stops_at_the_limit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"x" * 50)
    monkeypatch.setattr(outputs, "MAX_OUTPUT_BYTES", 100)
    monkeypatch.setattr(local, "_CHUNK_BYTES", 10)
    sizes = iter([60])  # what it has by the time it is opened

    def grow(path: object, *_: object) -> int:
        with open(source, "ab") as file:
            file.write(b"x" * next(sizes))
        return 50

    monkeypatch.setattr(local, "file_size", grow)
    with pytest.raises(OutputTooLargeError):
        RequestContext("t").save_file("log", source)
    assert names_below(root) == []


@pytest.mark.parametrize("source", ["/dev/zero", "."])
def test_only_files_are_copied(root: Path, source: str) -> None:
    files = LocalOutputs(str(root))
    with pytest.raises(ValueError, match="is not a file"):
        run_blocking(files.save("a", Path(source), SaveOptions(), request_id="t"))


def test_writers_of_one_ref_never_mix(root: Path) -> None:
    contents = [bytes([number]) * 300_000 for number in range(8)]
    files = LocalOutputs(str(root))
    start = threading.Barrier(len(contents))
    records: dict[int, Any] = {}

    def write(number: int) -> None:
        start.wait()
        saving = files.save("jobs/t/outputs/a", contents[number], SaveOptions(), request_id="t")
        records[number] = run_blocking(saving)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (root / "jobs/t/outputs/a").read_bytes()
    assert content in contents
    for number, record in records.items():
        assert record.sha256 == hashlib.sha256(contents[number]).hexdigest()
    again = files.save("a", root / "jobs/t/outputs/a", SaveOptions(), request_id="t")
    assert run_blocking(again).sha256 == hashlib.sha256(content).hexdigest()


KILLED = """
import os, signal, sys
from gen_worker import RequestContext
out = RequestContext("t").open_output_stream("a")
out.write(b"new" * 1000)
out.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_while_it_writes_leaves_the_old_output(root: Path) -> None:
    RequestContext("t").save_bytes("a", b"old")
    process = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert process.returncode == -signal.SIGKILL
    assert (root / "jobs/t/outputs/a").read_bytes() == b"old"
    (left,) = (root / ".incomplete").iterdir()
    RequestContext("u").save_bytes("b", b"x")
    assert left.exists(), "it is too new to tell it from one that is just made"
    _let_it_be_old(left)
    RequestContext("v").save_bytes("c", b"x")
    assert list((root / ".incomplete").iterdir()) == []


def test_what_a_living_process_writes_is_left_alone_however_old(root: Path) -> None:
    stream = RequestContext("t").open_output_stream("a")
    stream.write(b"slow")
    (incomplete,) = (root / ".incomplete").iterdir()
    _let_it_be_old(incomplete)
    for number in range(2):
        RequestContext(f"other-{number}").save_bytes("b", b"x")
    stream.finalize()
    assert (root / "jobs/t/outputs/a").read_bytes() == b"slow"


def test_where_files_cannot_be_locked_age_decides(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    incomplete = root / ".incomplete/a.part"
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(b"left")
    _let_it_be_old(incomplete, age_s=1800)
    RequestContext("u").save_bytes("b", b"x")
    assert incomplete.exists()
    _let_it_be_old(incomplete)
    RequestContext("v").save_bytes("c", b"x")
    assert not incomplete.exists()


def test_only_what_was_made_here_is_removed(root: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.part"
    victim.write_bytes(b"mine")
    (root / ".incomplete").mkdir(parents=True)
    (root / ".incomplete/link.part").symlink_to(victim)
    _let_it_be_old(victim)
    RequestContext("t").save_bytes("a", b"x")
    assert victim.read_bytes() == b"mine"
    elsewhere = root.parent / "elsewhere"
    (root / ".incomplete").rename(elsewhere)
    (root / ".incomplete").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="symbolic link"):
        RequestContext("u").save_bytes("a", b"x")


def _let_it_be_old(path: Path, age_s: float = 7200) -> None:
    then = time.time() - age_s
    os.utime(path, (then, then))
