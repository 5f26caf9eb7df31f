"""Files in payloads are fetched under the author's limits; files in results are stored."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from gen_worker import (
    Asset,
    AssetLimits,
    ImageAsset,
    RequestContext,
    Tensors,
    inference_function,
)
from gen_worker.errors import ArtifactTransferError, ValidationError
from gen_worker.testing import EndpointTester

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+M8AAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
WAYS = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "loop"])


class In(msgspec.Struct):
    file: Asset
    more: list[Asset] = []
    small: Annotated[Asset, AssetLimits(max_bytes=4)] | None = None
    image: ImageAsset | None = None


class Content(msgspec.Struct):
    content: str
    more: list[str] = []
    kind: str = ""


@inference_function
def read(ctx: RequestContext, payload: In) -> Content:
    kind = type(payload.image).__name__ if payload.image else ""
    return Content(
        payload.file.read_bytes().decode(), [f.read_bytes().decode() for f in payload.more], kind
    )


@inference_function
async def read_async(ctx: RequestContext, payload: In) -> Content:
    return Content(payload.file.read_bytes().decode())


@WAYS
@pytest.mark.parametrize("function", [read, read_async])
def test_a_handler_finds_its_files_on_disk(function: Any, is_inline: bool) -> None:
    with EndpointTester(function, is_inline=is_inline) as tester:
        ref = tester.files.add("a.txt", b"hello")
        assert tester.run(function, {"file": {"ref": ref}}).value.content == "hello"
        inline = {"ref": "b.txt", "inline_bytes": base64.b64encode(b"bytes").decode()}
        payload = msgspec.json.encode({"file": inline})
        assert tester.run(function, payload).value.content == "bytes"
        assert tester.files.released == ["test-1", "test-2"]


def test_every_file_is_fetched_and_keeps_its_class() -> None:
    with EndpointTester(read) as tester:
        refs = [{"ref": tester.files.add(f"{n}.txt", str(n).encode())} for n in range(3)]
        image = {"ref": tester.files.add("i.png", PNG)}
        value = tester.run(read, {"file": refs[0], "more": refs, "image": image}).value
        assert value == Content("0", ["0", "1", "2"], "ImageAsset")


def test_limits_come_from_the_annotation_and_never_from_the_caller() -> None:
    with EndpointTester(read) as tester:
        ok = tester.files.add("ok.txt", b"1234")
        large = tester.files.add("large.txt", b"12345")
        file = {"ref": ok}
        assert tester.run(read, {"file": file, "small": {"ref": ok}}).failure is None
        greedy = {"ref": large, "url_max_bytes": 10**9}
        failure = tester.run(read, {"file": file, "small": greedy}).failure
        assert failure is not None
        assert (failure.exception, failure.http_status) == ("InputTooLargeError", 413)
        wrong = tester.run(read, {"file": file, "image": {"ref": ok}}).failure
        assert wrong is not None
        assert wrong.error_type == "validation"


def test_a_refused_file_is_named_by_its_place_in_the_payload() -> None:
    with EndpointTester(read) as tester:
        good, bad = ({"ref": tester.files.add(name, b"12345")} for name in ("a", "b"))
        tester.fail("files.materialize", ValidationError("it is no picture"))
        failure = tester.run(read, {"file": good}).failure
        assert failure is not None
        assert (failure.path, failure.http_status) == ("$.file", 400)
        failure = tester.run(read, {"file": good, "more": [good, {"ref": "nowhere"}]}).failure
        assert failure is not None
        assert failure.path == "$.more[1]"
        failure = tester.run(read, {"file": good, "small": bad}).failure
        assert failure is not None
        assert failure.path == "$.small"


def test_a_path_in_the_payload_is_not_believed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    with EndpointTester(read) as tester:
        ref = tester.files.add("a.txt", b"public")
        file = {"ref": ref, "local_path": str(secret)}
        assert tester.run(read, {"file": file}).value.content == "public"


@WAYS
def test_a_failed_fetch_fails_the_call_before_its_handler(is_inline: bool) -> None:
    with EndpointTester(read, is_inline=is_inline) as tester:
        error = ArtifactTransferError("connection lost", retryable=True)
        tester.fail("files.materialize", error)
        result = tester.run(read, {"file": {"ref": tester.files.add("a", b"a")}})
        assert result.failure is not None
        assert (result.failure.error_type, result.failure.retryable) == ("artifact_transfer", True)
        assert not result.events
        assert tester.files.released == ["test-1"], "what was begun is forgotten"


class Ask(msgspec.Struct):
    count: int = 1


class Written(msgspec.Struct):
    file: Asset
    others: list[Asset] = []
    weights: Tensors | None = None


def written(directory: Path, name: str, content: str) -> str:
    path = directory / name
    path.write_text(content)
    return str(path)


@pytest.fixture
def functions(tmp_path: Path) -> list[Any]:
    def answer() -> Written:
        return Written(
            Asset(ref="", local_path=written(tmp_path, "first.txt", "1")),
            [
                Asset(ref="sub/named.txt", local_path=written(tmp_path, "second.txt", "2")),
                Asset(ref="", local_path=written(tmp_path, "third.txt", "3")),
                Asset(ref="https://example.com/elsewhere"),
            ],
            Tensors(ref="", local_path=written(tmp_path, "w.safetensors", "4")),
        )

    @inference_function
    def write(ctx: RequestContext, payload: Ask) -> Written:
        return answer()

    @inference_function
    async def write_async(ctx: RequestContext, payload: Ask) -> Written:
        return answer()

    @inference_function
    def write_items(ctx: RequestContext, payload: Ask) -> Iterator[Written]:
        yield answer()

    @inference_function
    async def write_items_async(ctx: RequestContext, payload: Ask) -> AsyncIterator[Written]:
        yield answer()

    @inference_function
    def write_bare(ctx, payload: Ask):  # type: ignore[no-untyped-def]  # unannotated on purpose
        return answer()

    return [write, write_async, write_items, write_items_async, write_bare]


@WAYS
@pytest.mark.parametrize("index", range(5))
def test_local_files_of_a_result_are_stored(
    functions: list[Any], index: int, is_inline: bool
) -> None:
    function = functions[index]
    with EndpointTester(function, is_inline=is_inline) as tester:
        result = tester.run(function)
        value = result.deltas[0] if result.deltas else result.value
        root = "jobs/test-1/outputs"
        assert value.file.ref == f"{root}/auto/000000-first.txt"
        assert [other.ref for other in value.others] == [
            f"{root}/sub/named.txt",
            f"{root}/auto/000001-third.txt",
            "https://example.com/elsewhere",
        ]
        assert value.weights.ref == f"{root}/auto/000002-w.safetensors"
        assert isinstance(value.weights, Tensors)
        assert value.weights.format == "safetensors"
        contents = [tester.files.read(ref) for ref in tester.files.refs]
        assert sorted(contents) == [b"1", b"2", b"3", b"4"]
        assert tester.files.released == ["test-1"]


@WAYS
def test_a_failed_save_fails_the_call(functions: list[Any], is_inline: bool) -> None:
    with EndpointTester(functions[0], is_inline=is_inline) as tester:
        tester.fail("files.save", OSError("disk full"))
        failure = tester.run(functions[0]).failure
        assert failure is not None
        assert (failure.error_type, failure.origin) == ("internal", "handler")


def test_an_input_that_is_handed_back_is_stored_as_an_output() -> None:
    class Back(msgspec.Struct):
        file: Asset

    @inference_function
    def back(ctx: RequestContext, payload: In) -> Back:
        return Back(payload.file)

    with EndpointTester(back) as tester:
        value = tester.run(back, {"file": {"ref": tester.files.add("in.txt", b"in")}}).value
        assert value.file.ref == "jobs/test-1/outputs/auto/000000-in.txt"
        assert tester.files.read(value.file.ref) == b"in"


def test_what_the_context_saves_is_stored_and_released() -> None:
    @inference_function
    def save(ctx: RequestContext, payload: Ask) -> Written:
        return Written(ctx.save_bytes("a.bin", b"abc"))

    with EndpointTester(save) as tester:
        value = tester.run(save).value
        assert value.file.ref == "jobs/test-1/outputs/a.bin"
        assert tester.files.read(value.file.ref) == b"abc"
        assert tester.files.released == ["test-1"]


def test_a_call_without_files_releases_nothing() -> None:
    @inference_function
    def plain(ctx: RequestContext, payload: Ask) -> Ask:
        return payload

    with EndpointTester(plain) as tester:
        assert tester.run(plain).failure is None
        assert tester.files.released == []


def test_a_failing_release_does_not_fail_the_call(caplog: pytest.LogCaptureFixture) -> None:
    with EndpointTester(read) as tester:
        tester.fail("files.release", OSError("busy"))
        payload = {"file": {"ref": tester.files.add("a.txt", b"hello")}}
        assert tester.run(read, payload).value.content == "hello"
        tester.close()
    assert "could not be cleaned up" in caplog.text
