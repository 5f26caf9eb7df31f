"""Input files on a laptop: where they come from, what is accepted, when they go."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker.context import ConversionContext, RequestContext
from gen_worker.context.local import run_blocking
from gen_worker.errors import (
    ArtifactTransferError,
    InputTooLargeError,
    ResourceError,
    ValidationError,
    classify,
)
from gen_worker.ports import FileLimits, SaveOptions
from gen_worker.runtime.local import LocalFiles, local_ports
from gen_worker.types import Asset, AudioAsset, ImageAsset, Tensors, VideoAsset

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00\x00\x00\x40\x00\x00\x00\x20" + bytes(8)
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24)
MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(16)
ANY = FileLimits()
IMAGE = FileLimits(mime_prefix="image/")
AUDIO = FileLimits(mime_prefix="audio/")


class Silent:
    def emit(self, event: object) -> None: ...


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(str(tmp_path / "outputs"), cas_dir=str(tmp_path / "cas"))


def take(files: LocalFiles, value: Any, limits: FileLimits = ANY) -> Any:
    return run_blocking(files.materialize(value, limits, request_id="r"))


# Where a file comes from


def test_a_path_is_used_where_it_is(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    asked = ImageAsset(ref=str(path))

    asset = take(files, asked, IMAGE)

    assert type(asset) is ImageAsset
    assert asset.local_path == str(path)
    assert asset.ref == str(path)
    assert (asset.mime_type, asset.size_bytes) == ("image/png", len(PNG))
    assert asset.sha256 == hashlib.sha256(PNG).hexdigest()
    assert asked.local_path is None


def test_a_relative_path_begins_here(
    files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")

    assert take(files, Asset(ref="a.txt")).local_path == str(tmp_path / "a.txt")


def test_a_file_url_is_a_path(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "größer als.txt"
    path.write_text("x")

    for url in (path.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        assert take(files, Asset(ref=url)).local_path == str(path)


def test_an_output_of_another_call_can_be_an_input(files: LocalFiles) -> None:
    stored = run_blocking(files.save("jobs/a/outputs/x.txt", b"x", SaveOptions(), request_id="a"))

    assert take(files, Asset(ref=stored.ref)).local_path == stored.local_path


def test_bytes_in_the_payload_become_a_file_of_the_request(files: LocalFiles) -> None:
    asset = take(files, ImageAsset(ref="cat.png", inline_bytes=PNG), IMAGE)
    other = take(files, Asset(ref="", inline_bytes=b"text"))

    path = Path(asset.local_path)
    assert path.read_bytes() == PNG
    assert path.suffix == ".png"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert Path(other.local_path).read_bytes() == b"text"
    run_blocking(files.release("another"))
    assert path.exists()
    run_blocking(files.release("r"))
    assert not path.parent.exists()
    run_blocking(files.release("r"))


def test_an_empty_default_is_no_file(files: LocalFiles) -> None:
    empty = Asset(ref="")

    assert take(files, empty, IMAGE) is empty


def test_weights_are_files_too(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights")

    tensors = take(files, Tensors(ref=str(path)))

    assert (type(tensors), tensors.format, tensors.size_bytes) == (Tensors, "safetensors", 7)
    assert take(files, Tensors(ref=str(path), format="bin")).format == "bin"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("https://example.com/cat.png", "is a URL, which only a worker downloads"),
        ("HTTP://example.com/cat.png", "is a URL, which only a worker downloads"),
        ("s3://bucket/cat.png", "must be a path or a file:// URL"),
        ("file://elsewhere/cat.png", "must be a path or a file:// URL"),
        ("/no/such/file.png", "No such file"),
        ("/", "is not a file"),
        ("a\x00b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("/dev/null", "is not a file"),
        ("jobs/../../etc/passwd", "leaves its directory"),
    ],
)
def test_what_is_no_file_of_this_machine_is_the_callers_mistake(
    files: LocalFiles, ref: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        take(files, Asset(ref=ref))
    assert classify(caught.value, origin="input").exit_code == 2


def test_a_host_may_refuse_files_of_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    files = LocalFiles(str(tmp_path), allow_local_files=False)

    for ref in (str(path), path.as_uri(), "secret.txt"):
        with pytest.raises(ValidationError, match="send the content inline"):
            take(files, Asset(ref=ref))
    assert run_blocking(files.find_directory(str(tmp_path), request_id="r")) is None
    assert take(files, Asset(ref="x", inline_bytes=b"y")).read_bytes() == b"y"


def test_a_local_path_in_the_payload_is_not_believed(files: LocalFiles, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")

    asset = take(files, Asset(ref="x", inline_bytes=b"mine", local_path=str(secret)))

    assert asset.read_bytes() == b"mine"


def test_a_directory_or_a_file_of_weights_is_found_by_its_path(
    files: LocalFiles, tmp_path: Path
) -> None:
    def find(ref: str) -> str | None:
        return run_blocking(files.find_directory(ref, request_id="r"))

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"w")
    assert find(str(tmp_path)) == str(tmp_path)
    assert find(str(weights)) == str(weights)
    dataset = files.find_directory(str(weights), request_id="r", is_dataset=True)
    assert run_blocking(dataset) is None
    with pytest.raises(ValidationError, match="is a file and no checkpoint '7'"):
        run_blocking(files.find_directory(str(weights), request_id="r", checkpoint_id="7"))
    assert find(str(tmp_path / "none")) is None
    assert find("https://example.com/") is None
    assert find("owner/repo") is None


def test_an_event_loop_is_not_held_up(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(100_000))

    async def main() -> Any:
        asset = await files.materialize(Asset(ref=str(path)), ANY, request_id="r")
        await files.release("r")
        return asset

    assert asyncio.run(main()).size_bytes == 100_000


# What is accepted


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_file_over_the_limit_is_refused(
    files: LocalFiles, tmp_path: Path, is_inline: bool
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    asset = Asset(ref="x", inline_bytes=b"12345") if is_inline else Asset(ref=str(path))

    assert take(files, asset, FileLimits(max_bytes=5)).size_bytes == 5
    with pytest.raises(InputTooLargeError) as caught:
        take(files, asset, FileLimits(max_bytes=4))
    assert (caught.value.size_bytes, caught.value.max_bytes) == (5, 4)


@pytest.mark.parametrize(
    ("content", "name", "prefix", "declared", "expected"),
    [
        (PNG, "x.png", "image/", None, "image/png"),
        (PNG, "x", "image/", "application/octet-stream", "image/png"),
        (PNG, "x.jpg", "image/", "image/jpeg; q=1", "image/png"),
        (WAV, "x", "audio/", None, "audio/wav"),
        (b"svg", "x.svg", "image/", None, "image/svg+xml"),
        (b"raw", "x", "image/", "image/x-raw", "image/x-raw"),
        (MP4, "x.mp4", "video/", None, "video/mp4"),
        (MP4, "x.m4a", "audio/", None, "audio/mp4"),
        (MP4, "x", "audio/", "audio/mp4", "audio/mp4"),
        (b"text", "x.txt", "", None, "text/plain"),
        (b"text", "x", "", None, None),
    ],
)
def test_the_type_is_told_by_content_then_name_then_caller(
    files: LocalFiles,
    content: bytes,
    name: str,
    prefix: str,
    declared: str | None,
    expected: str | None,
) -> None:
    asset = Asset(ref=name, inline_bytes=content, mime_type=declared)

    assert take(files, asset, FileLimits(mime_prefix=prefix)).mime_type == expected


@pytest.mark.parametrize(
    ("content", "name", "limits", "declared", "message"),
    [
        (WAV, "x.png", IMAGE, None, r"must be 'image/\*', not 'audio/wav'"),
        (b"text", "x", IMAGE, None, "and is of no type that is known"),
        (PNG, "x", ANY, "text/plain", "declared as 'text/plain', but its content is 'image/png'"),
        (PNG, "x", FileLimits(allowed_mime_types=("image/webp",)), None, "one of image/webp"),
        (MP4, "x.mp4", AUDIO, None, r"must be 'audio/\*', not 'video/mp4'"),
        (b"?", "x", FileLimits(allowed_mime_types=("text/csv",)), None, "not 'unknown'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "x.png", IMAGE, None, "and is of no type that is known"),
        (b"<svg/>", "x", IMAGE, "image/webp", "and is of no type that is known"),
    ],
)
def test_another_type_is_refused(
    files: LocalFiles,
    content: bytes,
    name: str,
    limits: FileLimits,
    declared: str | None,
    message: str,
) -> None:
    with pytest.raises(ValidationError, match=message):
        take(files, Asset(ref=name, inline_bytes=content, mime_type=declared), limits)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (FileLimits(max_width=63), "64 wide where 63 is allowed"),
        (FileLimits(max_height=31), "32 high where 31 is allowed"),
        (FileLimits(max_pixels=2047), "2048 pixels large where 2047 is allowed"),
    ],
)
def test_a_large_image_is_refused_by_its_header(
    files: LocalFiles, limits: FileLimits, message: str
) -> None:
    with pytest.raises(InputTooLargeError, match=message):
        take(files, ImageAsset(ref="x.png", inline_bytes=PNG), limits)
    take(
        files,
        ImageAsset(ref="x.png", inline_bytes=PNG),
        FileLimits(max_width=64, max_height=32, max_pixels=2048),
    )


def test_an_image_whose_size_cannot_be_told_is_refused_where_it_matters(files: LocalFiles) -> None:
    svg = ImageAsset(ref="x.svg", inline_bytes=b"<svg/>")

    take(files, svg, IMAGE)
    with pytest.raises(ValidationError, match=r"width and height of 'x\.svg' cannot be read"):
        take(files, svg, FileLimits(mime_prefix="image/", max_width=10))


def test_a_promised_digest_is_kept(files: LocalFiles) -> None:
    digest = hashlib.sha256(b"x").hexdigest()

    assert take(files, Asset(ref="x", inline_bytes=b"x", sha256=digest.upper())).sha256 == digest
    with pytest.raises(ValidationError, match="the payload says"):
        take(files, Asset(ref="x", inline_bytes=b"y", sha256=digest))


def test_a_promised_blake3_digest_is_kept_too(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package is optional here; any hash does.
    monkeypatch.setitem(sys.modules, "blake3", SimpleNamespace(blake3=hashlib.sha3_256))
    digest = hashlib.sha3_256(b"x").hexdigest()
    assert take(files, Asset(ref="x", inline_bytes=b"x", blake3=digest)).blake3 == digest
    with pytest.raises(ValidationError, match="blake3"):
        take(files, Asset(ref="x", inline_bytes=b"y", blake3=digest))


def test_a_blake3_digest_that_cannot_be_verified_is_dropped(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    assert take(files, Asset(ref="x", inline_bytes=b"x", blake3="ab" * 32)).blake3 is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.touch()
    os.mkfifo(pipe)
    ask = os.stat
    monkeypatch.setattr(os, "stat", lambda path: ask(file if path == str(pipe) else path))
    with pytest.raises(ValidationError, match="is not a file"):
        take(files, Asset(ref=str(pipe)))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")
def test_a_file_that_has_more_than_it_says_is_refused(files: LocalFiles) -> None:
    """A file that grows while it is read does the same."""
    assert os.path.getsize("/proc/self/status") == 0
    with pytest.raises(InputTooLargeError):
        take(files, Asset(ref="/proc/self/status"), FileLimits(max_bytes=10))


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc")
def test_a_file_that_cannot_be_read_is_the_callers_mistake(files: LocalFiles) -> None:
    with pytest.raises(ValidationError, match=r"'/proc/self/mem' cannot be read: "):
        take(files, Asset(ref="/proc/self/mem"))


def test_a_full_disk_is_no_mistake_of_the_caller(
    files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", no_space)
    with pytest.raises(ResourceError, match="No space left"):
        take(files, Asset(ref="x", inline_bytes=b"x"))


@pytest.mark.parametrize("cls", [VideoAsset, AudioAsset])
def test_the_class_survives(files: LocalFiles, cls: Any) -> None:
    assert type(take(files, cls(ref="x", inline_bytes=b"x"))) is cls


# Blobs of the content store


def blob(root: Path, content: bytes, *, is_flat: bool = True, name: str = "") -> str:
    digest = name or hashlib.sha256(content).hexdigest()
    path = root / "blobs" / digest
    if not is_flat:
        path = root / "blobs/sha256" / digest[:2] / digest[2:4] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"sha256:{digest}"


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_context_takes_blobs_from_the_store(tmp_path: Path, is_flat: bool) -> None:
    digest = blob(tmp_path / "cas", b"weights", is_flat=is_flat)
    ports = local_ports(
        events=Silent(), output_dir=str(tmp_path / "out"), cas_dir=str(tmp_path / "cas")
    )

    path = ConversionContext("t", ports=ports).materialize_blob(digest, tmp_path / "x/model.bin")

    assert path.read_bytes() == b"weights"


def test_a_damaged_blob_is_refused(files: LocalFiles, tmp_path: Path) -> None:
    digest = blob(tmp_path / "cas", b"damaged", name="ab" * 32)

    with pytest.raises(ArtifactTransferError, match="is damaged"):
        take(files, Tensors(ref="x", blob_digest=digest))


def test_a_missing_blob_is_not_found(files: LocalFiles) -> None:
    with pytest.raises(FileNotFoundError, match="is not in the content store"):
        take(files, Tensors(ref="x", blob_digest="blake3:" + "ab" * 32))


@pytest.mark.parametrize("digest", ["blake3:../../etc/passwd", "ab" * 32, "sha256:" + "AB" * 32])
def test_a_digest_cannot_lead_out_of_the_store(files: LocalFiles, digest: str) -> None:
    with pytest.raises(ValidationError, match="is no digest"):
        take(files, Tensors(ref="x", blob_digest=digest))


# Outputs


def test_an_output_that_was_never_finished_is_gone_with_its_request(
    files: LocalFiles, tmp_path: Path
) -> None:
    def start(request_id: str) -> Any:
        ref = f"jobs/{request_id}/outputs/x"
        return run_blocking(files.open_output(ref, SaveOptions(), request_id=request_id))

    forgotten, other, finished = start("r"), start("s"), start("r")
    forgotten.write(b"x")
    finished.finalize()

    run_blocking(files.release("r"))

    assert (forgotten.is_open, other.is_open) == (False, True)
    assert os.listdir(tmp_path / "outputs/jobs/r/outputs") == ["x"]
    other.abort()


def test_contexts_store_below_the_directory_of_the_host(tmp_path: Path) -> None:
    ports = local_ports(events=Silent(), output_dir=str(tmp_path))

    asset = RequestContext("t", ports=ports).save_bytes("x.txt", b"x")

    assert asset.local_path == str(tmp_path / "jobs/t/outputs/x.txt")


def test_an_async_handler_may_save_both_ways(tmp_path: Path) -> None:
    async def main() -> list[bytes]:
        ctx = RequestContext("t", ports=local_ports(events=Silent(), output_dir=str(tmp_path)))
        return [
            ctx.save_bytes("a", b"a").read_bytes(),
            (await ctx.asave_bytes("b", b"b")).read_bytes(),
        ]

    assert asyncio.run(main()) == [b"a", b"b"]
