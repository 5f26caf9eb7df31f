"""Files a handler stores, written for real below a directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any, cast

import pytest

from gen_worker.context import OutputWriter, RequestContext
from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.context.outputs import MAX_INLINE_BYTES, MAX_OUTPUT_BYTES
from gen_worker.errors import CanceledError, OutputTooLargeError
from gen_worker.events import Emitted, Telemetry
from gen_worker.ports import Ports, SaveOptions

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
INLINE = {"output_format": "inline"}


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that contexts without a host write to."""
    directory = tmp_path / "outputs"
    monkeypatch.setenv("GEN_WORKER_LOCAL_OUTPUT_DIR", str(directory))
    return directory


class Recorder:
    def __init__(self) -> None:
        self.events: list[Telemetry] = []

    def emit(self, event: Telemetry) -> None:
        self.events.append(event)

    def payloads(self) -> list[dict[str, Any]]:
        return [event.payload for event in self.events if isinstance(event, Emitted)]


def hosted(directory: Path, events: Recorder, **keywords: Any) -> RequestContext:
    files = cast("Any", LocalOutputs(str(directory)))
    ports = Ports(files=files, events=events, models=cast("Any", None), run=run_blocking)
    return RequestContext("t", ports=ports, **keywords)


def fail_within(out: OutputWriter[Any]) -> None:
    with out:
        out.write(b"abc")
        raise KeyError


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*.part")]


# Whole files


def test_bytes_are_stored_under_their_ref(outputs: Path) -> None:
    asset = RequestContext("t").save_bytes("a/b.png", PNG)

    assert asset.ref == "jobs/t/outputs/a/b.png"
    assert asset.local_path == str(outputs / "jobs/t/outputs/a/b.png")
    assert Path(asset).read_bytes() == PNG
    assert asset.size_bytes == len(PNG)
    assert asset.sha256 == hashlib.sha256(PNG).hexdigest()
    assert asset.mime_type == "image/png"
    assert asset.inline_bytes is None
    assert leftovers(outputs) == []


def test_without_configuration_outputs_are_below_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEN_WORKER_LOCAL_OUTPUT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)

    RequestContext("t").save_bytes("x.txt", b"x")

    assert (tmp_path / ".gen-worker-run/outputs/jobs/t/outputs/x.txt").read_bytes() == b"x"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), b""])
def test_anything_like_bytes_is_stored(outputs: Path, data: Any) -> None:
    assert RequestContext("t").save_bytes("x", data).read_bytes() == bytes(data)


@pytest.mark.parametrize("data", ["text", None, 3, [1]])
def test_what_is_not_bytes_is_refused(outputs: Path, data: Any) -> None:
    with pytest.raises(TypeError, match="data must be bytes, not"):
        RequestContext("t").save_bytes("x", data)


def test_a_second_save_replaces_the_first(outputs: Path) -> None:
    ctx = RequestContext("t")
    ctx.save_bytes("x", b"first, longer")

    assert ctx.save_bytes("x", b"second").read_bytes() == b"second"


def test_create_refuses_to_replace(outputs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"file")
    ctx = RequestContext("t")
    ctx.save_bytes_create("x", b"first")
    ctx.save_file_create("y", source)

    for save in (
        lambda: ctx.save_bytes_create("x", b"second"),
        lambda: ctx.save_file_create("x", source),
        lambda: ctx.open_output_stream("y", create=True),
    ):
        with pytest.raises(FileExistsError):
            save()
    assert (outputs / "jobs/t/outputs/x").read_bytes() == b"first"
    assert leftovers(outputs) == []


def test_a_file_is_copied(outputs: Path, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    content = os.urandom(3 * 1024 * 1024 + 17)
    source.write_bytes(content)

    asset = RequestContext("t").save_file("clip.mp4", source)
    source.write_bytes(b"changed")

    assert asset.read_bytes() == content
    assert asset.sha256 == hashlib.sha256(content).hexdigest()
    assert asset.mime_type == "video/mp4"


def test_a_file_that_is_in_its_place_already_stays(outputs: Path) -> None:
    ctx = RequestContext("t")
    first = ctx.save_bytes("x.txt", b"content")

    again = ctx.save_file("x.txt", str(first.local_path))

    assert again == first
    assert again.read_bytes() == b"content"


def test_an_output_that_was_stored_and_is_returned_is_not_read_again(tmp_path: Path) -> None:
    outputs, options = LocalOutputs(str(tmp_path)), SaveOptions()

    def save(source: bytes | Path) -> Any:
        return run_blocking(outputs.save("x", source, options, request_id="r"))

    first = save(b"content")
    path = Path(first.local_path)
    facts = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert save(path) == first  # only its size and time were looked at

    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert save(path).sha256 == hashlib.sha256(b"CONTENT").hexdigest()
    run_blocking(outputs.release("r"))
    assert save(path).sha256 == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_missing_file_and_a_directory_are_refused(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RequestContext("t").save_file("x", tmp_path / "missing")
    with pytest.raises(ValueError, match="is not a file"):
        RequestContext("t").save_file("x", tmp_path)


def test_the_limit_is_checked_before_anything_is_copied(outputs: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "huge"
    with sparse.open("wb") as file:
        file.truncate(MAX_OUTPUT_BYTES + 1)

    with pytest.raises(OutputTooLargeError) as caught:
        RequestContext("t").save_file("huge", sparse)
    assert caught.value.size_bytes == MAX_OUTPUT_BYTES + 1
    assert not outputs.exists()


# Inline


def test_a_caller_may_ask_for_the_bytes_themselves(outputs: Path, tmp_path: Path) -> None:
    ctx = RequestContext("t", hints=INLINE)
    source = tmp_path / "x.png"
    source.write_bytes(PNG)

    for asset in (ctx.save_bytes("x.png", PNG), ctx.save_file("x.png", source)):
        assert asset.inline_bytes == PNG
        assert asset.ref == "jobs/t/outputs/x.png"
        assert asset.local_path is None
        assert (asset.mime_type, asset.size_bytes) == ("image/png", len(PNG))
        assert asset.sha256 == hashlib.sha256(PNG).hexdigest()
    assert not outputs.exists()


@pytest.mark.parametrize(("size", "is_inline"), [(0, True), (1, False)])
def test_too_much_for_inline_is_stored(outputs: Path, size: int, is_inline: bool) -> None:
    ctx = RequestContext("t", hints=INLINE)

    asset = ctx.save_bytes("x", bytes(MAX_INLINE_BYTES + size))

    assert (asset.inline_bytes is not None) == is_inline
    assert (asset.local_path is not None) == (not is_inline)


def test_inline_outputs_fit_into_one_answer_together(outputs: Path) -> None:
    ctx = RequestContext("t", hints=INLINE)

    half = bytes(MAX_INLINE_BYTES // 2)
    saved = [ctx.save_bytes(name, half) for name in ("a", "b", "c")]
    small = ctx.save_bytes("d", b"")

    assert [asset.inline_bytes is not None for asset in (*saved, small)] == [
        True,
        True,
        False,
        True,
    ]


def test_an_inline_ref_is_checked_too(outputs: Path) -> None:
    with pytest.raises(ValueError, match="leaves its directory"):
        RequestContext("t", hints=INLINE).save_bytes("../x", b"")


# Checkpoints


@pytest.mark.parametrize(
    ("ref", "path", "given", "stored"),
    [
        ("m.safetensors", "w", None, "safetensors"),
        ("m", "w.pth", None, "pth"),
        ("m", "w", None, "unknown"),
        ("m.GGUF", "w", None, "unknown"),
        ("m.safetensors", "w", "bin", "bin"),
    ],
)
def test_a_checkpoint_has_a_format(
    outputs: Path, tmp_path: Path, ref: str, path: str, given: str | None, stored: str
) -> None:
    weights = tmp_path / path
    weights.write_bytes(b"weights")

    tensors = RequestContext("t").save_checkpoint(ref, weights, given, step_number=3)

    assert tensors.format == stored
    assert tensors.read_bytes() == b"weights"
    assert (tensors.size_bytes, tensors.sha256) == (7, hashlib.sha256(b"weights").hexdigest())


def test_checkpoint_metadata_reaches_the_host(tmp_path: Path) -> None:
    seen = []

    class Files(LocalOutputs):
        async def save(self, ref: Any, source: Any, options: Any, *, request_id: Any) -> Any:
            seen.append(options)
            return await super().save(ref, source, options, request_id=request_id)

    ctx = RequestContext(
        "t",
        ports=Ports(
            files=cast("Any", Files(str(tmp_path))),
            events=Recorder(),
            models=cast("Any", None),
            run=run_blocking,
        ),
    )
    ctx.save_checkpoint_bytes(
        "m.safetensors", b"w", step_number=0, flavor="bf16", attributes={"a": 1}, epoch_number=None
    )

    assert seen[0].checkpoint_format == "safetensors"
    assert seen[0].metadata == {"step_number": 0, "flavor": "bf16", "attributes": {"a": 1}}
    assert seen[0].expected_size_bytes == 1


def test_an_unknown_checkpoint_field_is_named(outputs: Path) -> None:
    with pytest.raises(TypeError, match=r"no keywords \['setp_number'\]"):
        cast("Any", RequestContext("t")).save_checkpoint_bytes("m", b"", setp_number=3)


# Piece by piece


def test_a_stream_is_stored_when_its_block_is_left(outputs: Path) -> None:
    with RequestContext("t").open_output_stream("v.bin") as out:
        assert out.write(b"abc") == 3
        assert out.write(memoryview(b"defg")) == 4
        out.flush()
        assert (out.ref, out.bytes_written) == ("jobs/t/outputs/v.bin", 7)
        assert not (outputs / out.ref).exists()
    asset = out.finalize()

    assert asset is out.finalize()
    assert asset.read_bytes() == b"abcdefg"
    assert asset.sha256 == hashlib.sha256(b"abcdefg").hexdigest()
    assert out.bytes_uploaded == 7
    assert leftovers(outputs) == []


def test_a_stream_leaves_nothing_behind_when_its_block_fails(outputs: Path) -> None:
    out = RequestContext("t").open_output_stream("v.bin")
    with pytest.raises(KeyError):
        fail_within(out)
    assert list((outputs / "jobs/t/outputs").iterdir()) == []
    with pytest.raises(RuntimeError, match="discarded already"):
        out.finalize()


def test_a_closed_stream_is_discarded_and_a_stored_one_stays(outputs: Path) -> None:
    ctx = RequestContext("t")
    out = ctx.open_output_stream("dropped")
    out.write(b"x")
    out.close()
    out.close()
    kept = ctx.save_output_stream("kept")
    kept.finalize()
    kept.close()

    assert [path.name for path in (outputs / "jobs/t/outputs").iterdir()] == ["kept"]


def test_a_stream_cannot_be_written_after_its_end(outputs: Path) -> None:
    out = RequestContext("t").open_output_stream("x")
    out.finalize()

    with pytest.raises(RuntimeError, match="stored already"):
        out.write(b"more")
    with pytest.raises(RuntimeError, match="stored already"):
        out.flush()


def test_a_canceled_call_cannot_write(outputs: Path) -> None:
    ctx = RequestContext("t")
    out = ctx.open_output_stream("x")
    ctx.cancel()

    with pytest.raises(CanceledError):
        out.write(b"more")
    with pytest.raises(CanceledError):
        ctx.open_output_stream("y")
    out.close()
    assert leftovers(outputs) == []


def test_a_stream_that_outgrows_the_limit_stops(outputs: Path) -> None:
    out = RequestContext("t").open_output_stream("x")
    cast("Any", out)._stream.bytes_written = MAX_OUTPUT_BYTES - 1
    out.write(b"1")

    with pytest.raises(OutputTooLargeError):
        out.write(b"2")
    out.close()
    with pytest.raises(OutputTooLargeError):
        RequestContext("t").open_output_stream("y", expected_size_bytes=MAX_OUTPUT_BYTES + 1)


def test_text_cannot_be_written(outputs: Path) -> None:
    with RequestContext("t").open_output_stream("x") as out, pytest.raises(TypeError):
        out.write(cast("Any", "text"))


def test_a_create_stream_loses_to_a_faster_one(outputs: Path) -> None:
    ctx = RequestContext("t")
    slow = ctx.open_output_stream("x", create=True)
    slow.write(b"slow")
    ctx.save_bytes_create("x", b"fast")

    with pytest.raises(FileExistsError):
        slow.finalize()
    assert (outputs / "jobs/t/outputs/x").read_bytes() == b"fast"
    assert leftovers(outputs) == []


def test_a_checkpoint_stream_ends_as_tensors(outputs: Path) -> None:
    with RequestContext("t").open_checkpoint_stream("m.safetensors", step_number=1) as out:
        out.write(b"weights")

    assert out.finalize().format == "safetensors"


def test_followers_see_an_upload_at_most_five_times_a_second(tmp_path: Path) -> None:
    recorder, now = Recorder(), 0.0
    ctx = hosted(tmp_path, recorder, clock=lambda: now)
    with ctx.open_output_stream("v.bin") as out:
        for _ in range(100):
            out.write(b"x" * 10)
            now += 0.01
    stages = [payload["stage"] for payload in recorder.payloads()]

    assert stages == ["stream_write"] * 5 + ["stream_finalized"]
    assert {event.type for event in recorder.events if isinstance(event, Emitted)} == {
        "request.upload_progress"
    }
    last = recorder.payloads()[-1]
    assert last["ref"] == "jobs/t/outputs/v.bin"
    assert last["stream_mode"] == "local_fallback"
    assert (last["bytes_written"], last["bytes_uploaded"], last["chunks_written"]) == (
        1000,
        1000,
        100,
    )
    assert last["chunks_uploaded"] == 1
    assert last["elapsed_s"] == pytest.approx(1.0)
    assert last["upload_bps"] == pytest.approx(1000.0)
    assert last["finalize_elapsed_s"] == 0.0
    assert out.average_upload_bps == pytest.approx(1000.0)
    now = 50.0
    assert out.elapsed_s == pytest.approx(1.0)


def test_followers_see_why_an_upload_ended(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(KeyError):
        fail_within(hosted(tmp_path, recorder).open_output_stream("v"))
    last = recorder.payloads()[-1]

    assert (last["stage"], last["error_class"]) == ("stream_aborted", "KeyError")


# Async handlers


def test_every_save_has_an_awaitable_twin(outputs: Path, tmp_path: Path) -> None:
    source = tmp_path / "w.safetensors"
    source.write_bytes(b"weights")

    async def main() -> list[bytes]:
        ctx = RequestContext("t")
        stored = [
            await ctx.asave_bytes("a", b"a"),
            await ctx.asave_file("b", source),
            await ctx.asave_checkpoint("c", source),
            await ctx.asave_checkpoint_bytes("d", b"d"),
            ctx.save_bytes("e", b"e"),  # blocks the loop, but works
        ]
        with pytest.raises(FileExistsError):
            await ctx.asave_bytes("a", b"", create=True)
        return [file.read_bytes() for file in stored]

    assert asyncio.run(main()) == [b"a", b"weights", b"weights", b"d", b"e"]


def test_names_of_the_twins_are_complete() -> None:
    blocking = {"save_bytes", "save_file", "save_image", "save_checkpoint", "save_checkpoint_bytes"}

    assert {f"a{name}" for name in blocking} <= set(dir(RequestContext))
