"""A job's files on its hub: outputs go there, other jobs' outputs come from there."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from blake3 import blake3

from gen_worker.cancel import CancelToken
from gen_worker.context.local import run_blocking
from gen_worker.errors import (
    ArtifactTransferError,
    AuthError,
    CanceledError,
    InputTooLargeError,
    OutputTooLargeError,
    ValidationError,
)
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.runtime.files import JobScope
from gen_worker.types import Asset, ImageAsset, Tensors

if TYPE_CHECKING:
    from conftest import Asked, Hub, MakeFiles, Told, WebServer
    from gen_worker.runtime.files import WorkerFiles

PART = 64 * 1024
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x40\x00\x00\x00\x20" + bytes(40)
ANY = FileLimits()
REF = "jobs/r/outputs/x.png"


@pytest.fixture
def files(hub: Hub, told: Told, make_files: MakeFiles) -> WorkerFiles:
    files = make_files(told=told, upload_tries=3, upload_backoff_s=0.01)
    files.enter("r", hub.scope())
    return files


def save(files: WorkerFiles, source: bytes | Path, ref: str = REF, **options: Any) -> Any:
    return run_blocking(files.save(ref, source, SaveOptions(**options), request_id="r"))


def take(files: WorkerFiles, value: Any, limits: FileLimits = ANY) -> Any:
    return run_blocking(files.materialize(value, limits, request_id="r"))


def read(hub: Hub, scope: JobScope, ref: str) -> bytes:
    answer = httpx.get(scope.file_url(ref), headers=dict(scope.credentials))
    assert answer.status_code == 200, answer.text
    return answer.content


# Outputs


@pytest.mark.parametrize("is_path", [False, True])
def test_an_output_goes_to_the_hub(
    files: WorkerFiles, hub: Hub, told: Told, tmp_path: Path, is_path: bool
) -> None:
    data = PNG + os.urandom(2 * PART)
    source: bytes | Path = data
    if is_path:
        source = tmp_path / "image.png"
        source.write_bytes(data)

    asset = save(files, source)

    assert type(asset) is Asset
    assert (asset.ref, asset.owner, asset.mime_type) == (REF, "acme", "image/png")
    assert asset.size_bytes == len(data)
    assert asset.sha256 == hashlib.sha256(data).hexdigest()
    assert asset.blake3 == blake3(data).hexdigest()
    assert asset.media_id
    assert asset.local_path is None
    assert read(hub, files.requests.get("r").scope, REF) == data
    assert told.stages()[-1] == "stream_finalized"
    assert {event.request_id for event in told.events} == {"r"}


def test_nothing_of_it_stays_on_the_worker(files: WorkerFiles) -> None:
    save(files, PNG)
    directory = files.requests.get("r").directory
    assert not any(path.is_file() for path in Path(directory).rglob("*"))


def test_bytes_that_the_hub_has_are_not_sent_again(
    hub: Hub, told: Told, make_files: MakeFiles
) -> None:
    files, data = make_files(told=told), os.urandom(2 * PART)
    files.enter("r", hub.scope(publish=["acme/model"]))
    save(files, data, "jobs/r/outputs/a")
    told.events.clear()
    again = save(files, data, "jobs/r/outputs/a")
    assert again.blake3 == blake3(data).hexdigest()
    assert told.events == []  # no byte was under way


def test_weights_come_back_as_tensors(files: WorkerFiles) -> None:
    saved = save(files, b"weights", "jobs/r/outputs/w.bin", checkpoint_format="bin")
    assert type(saved) is Tensors
    assert (saved.format, saved.size_bytes) == ("bin", 7)
    assert saved.blob_digest == f"blake3:{saved.blake3}"


def test_an_empty_output_is_one(files: WorkerFiles) -> None:
    assert save(files, b"", "jobs/r/outputs/empty.txt").size_bytes == 0


def test_an_output_that_has_to_be_new_is(files: WorkerFiles, hub: Hub) -> None:
    ref = "jobs/r/outputs/new.txt"
    save(files, b"1", ref, must_create=True)
    for source in (b"2", Path(__file__)):
        with pytest.raises(FileExistsError, match=r"new.txt' exists already"):
            save(files, source, ref, must_create=True)
    run_blocking(files.release("r"))
    files.enter("r", hub.scope())
    with pytest.raises(FileExistsError):  # an earlier attempt's
        run_blocking(files.open_output(ref, SaveOptions(must_create=True), request_id="r"))
    assert save(files, b"3", ref).size_bytes == 1


def test_the_operator_limits_outputs(hub: Hub, make_files: MakeFiles, tmp_path: Path) -> None:
    files = make_files(max_upload_bytes=10)
    files.enter("r", hub.scope())
    (tmp_path / "x").write_bytes(bytes(11))
    for source in (bytes(11), tmp_path / "x"):
        with pytest.raises(OutputTooLargeError, match="at most 10"):
            save(files, source)
    assert save(files, bytes(10)).size_bytes == 10


def test_the_token_limits_outputs(hub: Hub, make_files: MakeFiles) -> None:
    files = make_files()
    files.enter("r", hub.scope(max_bytes_per_file=10))
    with pytest.raises(ValidationError, match="the token allows 10"):
        save(files, bytes(11))


def test_a_token_for_others_is_refused(hub: Hub, make_files: MakeFiles) -> None:
    files = make_files()
    scope = msgspec.structs.replace(hub.scope(), owner="somebody")
    files.enter("r", scope)
    with pytest.raises(AuthError) as refused:
        save(files, PNG)
    assert scope.capability_token not in str(refused.value)
    assert scope.capability_token not in repr(files.requests.get("r"))


def test_a_job_without_a_hub_keeps_its_outputs_here_or_nowhere(
    make_files: MakeFiles, tmp_path: Path
) -> None:
    with pytest.raises(AuthError, match="names no hub"):
        save(make_files(), PNG)
    files = make_files(output_dir=str(tmp_path / "out"))
    saved = save(files, PNG)
    assert saved.local_path == str(tmp_path / "out" / REF)
    assert take(files, ImageAsset(ref=REF), FileLimits(mime_prefix="image/")).read_bytes() == PNG


def test_a_worker_may_have_a_hub_of_its_own(hub: Hub, make_files: MakeFiles) -> None:
    files = make_files(default=hub.scope())
    files.enter("r", JobScope(owner="acme"))
    assert save(files, PNG).ref == REF
    files.enter("s", JobScope(base_url="http://elsewhere.example"))
    assert not files.requests.get("s").scope.has_hub  # a token is for its own hub only


# Outputs piece by piece


def test_a_stream_is_sent_when_it_is_whole(files: WorkerFiles, hub: Hub, told: Told) -> None:
    data = os.urandom(3 * PART)
    stream = run_blocking(files.open_output(REF, SaveOptions(), request_id="r"))
    for start in range(0, len(data), 1000):
        assert stream.write(data[start : start + 1000]) > 0
    stream.flush()
    assert (stream.bytes_written, stream.bytes_uploaded) == (len(data), 0)

    stored = stream.finalize()

    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert (stream.bytes_uploaded, stream.stream_mode) == (len(data), "presigned")
    assert read(hub, files.requests.get("r").scope, REF) == data
    assert set(told.stages()) <= {"stream_upload"}  # whoever writes it tells of its end


def test_a_stream_that_is_given_up_leaves_nothing(files: WorkerFiles, hub: Hub) -> None:
    ref = "jobs/r/outputs/gone.txt"
    stream = run_blocking(files.open_output(ref, SaveOptions(), request_id="r"))
    stream.write(b"half")
    run_blocking(files.release("r"))
    files.enter("r", hub.scope())
    with pytest.raises(ValidationError, match="there is no file"):
        take(files, Asset(ref=ref))


@pytest.mark.usefixtures("every_report")
def test_a_cancel_ends_an_upload(hub: Hub, make_files: MakeFiles) -> None:
    token = CancelToken()

    class Canceling:
        def emit(self, event: object) -> None:
            token.cancel()

    files = make_files(told=Canceling(), progress_interval_s=0.0)
    files.enter("r", hub.scope(), token=token)
    with pytest.raises(CanceledError):
        save(files, os.urandom(40 * PART))


# Inputs


def test_an_output_of_another_job_is_an_input(
    files: WorkerFiles, hub: Hub, make_files: MakeFiles, tmp_path: Path
) -> None:
    save(files, PNG, "jobs/r/outputs/a b/ü.png")
    other = make_files(cache_dir=str(tmp_path / "cache"))
    other.enter("r", hub.scope())

    first = take(other, ImageAsset(ref="jobs/r/outputs/a b/ü.png"), FileLimits())
    second = take(other, ImageAsset(ref="jobs/r/outputs/a b/ü.png"), FileLimits())

    assert first.read_bytes() == second.read_bytes() == PNG
    assert (first.owner, first.mime_type) == ("acme", "image/png")
    assert first.sha256 == hashlib.sha256(PNG).hexdigest()
    assert os.stat(first.local_path).st_ino == os.stat(second.local_path).st_ino  # cached
    with pytest.raises(InputTooLargeError):
        take(other, Asset(ref="jobs/r/outputs/a b/ü.png"), FileLimits(max_bytes=10))


def test_what_is_cached_is_asked_for_all_the_same(
    files: WorkerFiles, hub: Hub, make_files: MakeFiles, tmp_path: Path
) -> None:
    """The hub says each time whether this job may read it."""
    ref = "jobs/r/outputs/private.txt"
    save(files, b"private", ref)
    worker = make_files(cache_dir=str(tmp_path / "cache"))
    worker.enter("r", hub.scope())
    assert take(worker, Asset(ref=ref)).read_bytes() == b"private"
    run_blocking(worker.release("r"))
    for scope in (
        hub.scope(owner="other"),
        msgspec.structs.replace(hub.scope(owner="other"), owner="acme"),
    ):
        worker.enter("r", scope)
        with pytest.raises((AuthError, ValidationError)):
            take(worker, Asset(ref=ref))
        run_blocking(worker.release("r"))


def test_a_file_that_is_not_there_is_the_callers_mistake(files: WorkerFiles) -> None:
    with pytest.raises(ValidationError, match="there is no file 'nothing'"):
        take(files, Asset(ref="nothing"))


@pytest.mark.parametrize("ref", ["../repos", "a/../../repos", "/etc/passwd", "a\\b", "\x00"])
def test_a_ref_stays_below_the_route_of_files(
    make_files: MakeFiles, web: WebServer, ref: str
) -> None:
    files = make_files()
    files.enter("r", JobScope(base_url=web.origin, capability_token="t"))
    with pytest.raises(ValidationError):
        take(files, Asset(ref=ref))
    assert web.asked == []


def test_a_hub_that_sends_other_bytes_than_it_says_is_not_believed(
    make_files: MakeFiles, web: WebServer
) -> None:
    facts = {"X_Cozy_SHA256": hashlib.sha256(b"right").hexdigest()}
    web.page("/api/v1/file/x", b"wrong", **facts)
    files = make_files(download_tries=1)
    files.enter("r", JobScope(base_url=web.origin, capability_token="secret", owner="acme"))
    with pytest.raises(ArtifactTransferError, match="another digest"):
        take(files, Asset(ref="x"))
    assert web.asked[0].headers["authorization"] == "Bearer secret"
    assert web.asked[0].headers["x-cozy-owner"] == "acme"


def test_the_job_token_stays_at_the_hub(
    make_files: MakeFiles, web: WebServer, other_web: WebServer
) -> None:
    target = other_web.page("/stored", b"bytes")
    web.page("/api/v1/file/x", lambda asked: asked.answer(b"", 302, Location=target))
    files = make_files(trusted_urls=(other_web.origin,))
    files.enter("r", JobScope(base_url=web.origin, capability_token="secret"))
    assert take(files, Asset(ref="x")).read_bytes() == b"bytes"
    assert all("authorization" not in asked.headers for asked in other_web.asked)


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_blob_is_fetched_or_linked(
    files: WorkerFiles, hub: Hub, make_files: MakeFiles, tmp_path: Path, is_stored: bool
) -> None:
    from gen_worker.models.assembly import open_store

    data, cas = os.urandom(3 * PART), str(tmp_path / "cas")
    token = hub.local.issue_token("read", "write")
    published = JobScope(base_url=hub.url, capability_token=token, owner="acme", job_id="j")
    files.enter("w", published)
    revision = files.requests.get("w").client().open_revision("acme", "model")
    (tmp_path / "w").write_bytes(data)
    digest = revision.upload(str(tmp_path / "w"), "w").blob_digest
    if is_stored:
        open_store(cas).add_file(str(tmp_path / "w"))
    worker = make_files(cas_dir=cas)
    worker.enter("r", published)
    value = Tensors(ref="w.safetensors", blob_digest=digest)

    found = take(worker, value)

    assert found.read_bytes() == data
    assert (found.size_bytes, found.format) == (len(data), "safetensors")
    assert found.blake3 == blake3(data).hexdigest()
    with pytest.raises(InputTooLargeError):
        take(worker, value, FileLimits(max_bytes=PART))
    run_blocking(worker.release("r"))
    worker.enter("r", hub.scope(owner="other"))
    with pytest.raises(AuthError):
        take(worker, value)
    revision.abort()


# What goes wrong on the way


def test_an_upload_goes_on_when_the_hub_is_back(
    make_files: MakeFiles, told: Told, web: WebServer, tmp_path: Path
) -> None:
    """Every route fails at first; what comes of it is one upload."""
    data = os.urandom(100)
    digest = blake3(data).hexdigest()
    ticket = {"upload_id": "u", "part_urls": [f"{web.origin}/part"], "part_size": 100}
    done = msgspec.json.encode({"ref": "x", "size_bytes": 100, "blake3": digest})

    def cut(asked: Asked) -> None:
        asked.stays_open = False

    def tickets(asked: Asked) -> None:
        asked.answer(msgspec.json.encode(ticket))

    web.script("/api/v1/media/acme/uploads", cut, tickets)
    web.script(
        "/part", lambda asked: asked.answer(b"", 403), lambda asked: asked.answer(b"", ETag="e")
    )
    web.script("/api/v1/media/acme/uploads/u/complete", cut, lambda asked: asked.answer(done))
    files = make_files(told=told)
    files.enter("r", JobScope(base_url=web.origin, capability_token="t", owner="acme"))

    assert save(files, data).blake3 == digest
    assert told.stages().count("stream_finalized") == 1
    assert "stream_aborted" not in told.stages()


def test_an_upload_that_fails_for_good_is_told_of(
    make_files: MakeFiles, told: Told, web: WebServer
) -> None:
    ticket = {"upload_id": "u", "part_urls": [f"{web.origin}/bad"], "part_size": 100}
    web.page("/api/v1/media/acme/uploads", msgspec.json.encode(ticket))
    web.page("/bad", lambda asked: asked.answer(b"", 400))
    files = make_files(told=told)
    files.enter("r", JobScope(base_url=web.origin, capability_token="t", owner="acme"))
    with pytest.raises(ArtifactTransferError):
        save(files, b"data")
    assert told.stages() == ["stream_aborted"]
    assert told.events[0].payload["error_class"] == "ArtifactTransferError"


def test_parallel_outputs_of_one_request(files: WorkerFiles, hub: Hub) -> None:
    saved: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda n=n: saved.append(save(files, os.urandom(PART), f"jobs/r/outputs/{n}"))
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asset.ref for asset in saved) == [f"jobs/r/outputs/{n}" for n in range(6)]
