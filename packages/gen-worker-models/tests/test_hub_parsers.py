"""What the hub reads byte by byte: ranges, framed bodies, signatures, headers of weights."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.formats import DTYPE_BITS
from gen_worker.models.hub.local.asgi import Call, _range_of
from gen_worker.models.hub.local.aws_chunks import AwsChunks
from gen_worker.models.hub.local.facts import file_facts
from gen_worker.models.hub.local.refusals import Refusal
from gen_worker.models.hub.local.routing import Route, Router
from gen_worker.models.hub.local.sigv4 import is_signed, read_credential

if TYPE_CHECKING:
    from pathlib import Path


def asked_range(text: str, size: int) -> tuple[int, int] | None:
    scope: dict[str, Any] = {
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"range", text.encode())],
    }
    return _range_of(Call(scope, None), '"tag"', size)  # type: ignore[arg-type]  # not received from


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    found = asked_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found is None
        return
    assert found is not None
    start, end = found
    assert data[start:end] == data[first : last + 1]
    assert (start < end) == (first < size)


@given(st.integers(0, 50), st.integers(0, 60))
def test_a_suffix_is_what_slicing_gives(size: int, count: int) -> None:
    data = bytes(range(size))
    found = asked_range(f"bytes=-{count}", size)
    assert found is not None
    assert data[found[0] : found[1]] == (data[-count:] if count else b"")


@given(st.text(max_size=30))
def test_no_range_raises(text: str) -> None:
    found = asked_range(text.encode("ascii", "replace").decode(), 10)
    assert found is None or 0 <= found[0] <= found[1] <= 10


def framed(pieces: list[bytes], trailer: bytes) -> bytes:
    lines = [b"%x;chunk-signature=abc\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join(lines) + b"0;chunk-signature=abc\r\n" + trailer + b"\r\n"


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    st.lists(st.integers(0, 200), max_size=6),
    st.sampled_from([b"", b"x-amz-checksum-crc32:AAAAAA==\r\n"]),
)
def test_frames_are_taken_off_wherever_the_body_is_cut(
    pieces: list[bytes], cuts: list[int], trailer: bytes
) -> None:
    body = framed(pieces, trailer)
    marks = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    decode = AwsChunks()
    content = b"".join(decode(body[a:b]) for a, b in pairwise(marks))
    assert content == b"".join(pieces)


@pytest.mark.parametrize("body", [b"zz\r\n", b"-5\r\nabcde", b"\r\n", b"1" * 10_000])
def test_what_is_not_framed_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        AwsChunks()(body)


def test_a_signature_is_the_one_of_the_published_example() -> None:
    """The GET of Amazon's own documentation of Signature Version 4 for S3."""
    headers = {
        "host": "examplebucket.s3.amazonaws.com",
        "range": "bytes=0-9",
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
    }
    credential = read_credential(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert credential is not None
    assert credential.access_key_id == "AKIAIOSFODNN7EXAMPLE"
    request: dict[str, Any] = {
        "method": "GET",
        "raw_path": "/test.txt",
        "raw_query": "",
        "headers": headers,
        "now": 1369353600.0,
    }
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert is_signed(credential, secret, **request)
    assert not is_signed(credential, "other", **request)
    assert not is_signed(credential, secret, **{**request, "now": 1369353600.0 + 901})
    assert not is_signed(credential, secret, **{**request, "method": "PUT"})
    assert not is_signed(credential, secret, **{**request, "headers": {"host": "x"}})


@pytest.mark.parametrize("text", ["", "Bearer x", "AWS4-HMAC-SHA256 Credential=a/b"])
def test_what_is_no_signature(text: str) -> None:
    assert read_credential(text) is None


def test_routes_are_found_by_their_longest_literal() -> None:
    table = [
        Route("GET", "/a/{x}", "nothing", print),
        Route("GET", "/a/b|c/{y}", "nothing", print),
        Route("PUT", "/f/{rest*}", "nothing", print),
    ]
    router = Router(table)
    assert router.find("GET", ["a", "z"]) == (table[0], {"x": "z"})
    assert router.find("GET", ["a", "c", "{}"]) == (table[1], {"y": "{}"})
    assert router.find("PUT", ["f", "1", "2"]) == (table[2], {"rest": "1/2"})
    for method, path, status in (("PUT", "a/z", 405), ("GET", "a", 404), ("GET", "x", 404)):
        with pytest.raises(Refusal) as refused:
            router.find(method, path.split("/"))
        assert refused.value.status == status


def safetensors(**tensors: tuple[str, int]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, count) in tensors.items():
        size = count * DTYPE_BITS[dtype] // 8
        offsets = [position, position + size]
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": offsets}
        position += size
    text = msgspec.json.encode(header)
    return struct.pack("<Q", len(text)) + text + bytes(position)


def facts_of(folder: Path, files: dict[str, bytes]) -> Any:
    listed = []
    for number, (path, data) in enumerate(files.items()):
        (folder / str(number)).write_bytes(data)
        listed.append((path, str(number), len(data)))
    return file_facts(listed, lambda digest: str(folder / digest))


def test_a_checkpoint_is_told_by_its_files(tmp_path: Path) -> None:
    found = facts_of(
        tmp_path,
        {
            "model_index.json": b'{"_class_name": "FluxPipeline"}',
            "vae/a.safetensors": safetensors(small=("F32", 10)),
            "unet/b.safetensors": safetensors(large=("BF16", 100), other=("F32", 8)),
        },
    )
    assert msgspec.to_builtins(found) == {
        "dtype": "bf16",
        "file_layout": "diffusers",
        "file_type": "safetensors",
        "pipeline_class": "FluxPipeline",
    }


@pytest.mark.parametrize(
    ("files", "layout", "kind"),
    [
        ({"config.json": b"{}", "m.gguf": b"GGUF"}, "transformers", "gguf"),
        ({"m.safetensors": b""}, "singlefile", "safetensors"),
        ({"a.gguf": b"", "b.safetensors": b"x" * 20}, "", ""),
        ({"readme.md": b""}, "", ""),
        ({"model_index.json": b"[1]"}, "diffusers", ""),
        ({"model_index.json": b"\xff", "w.safetensors": b"\xff" * 30}, "diffusers", "safetensors"),
        (
            {"w.safetensors": struct.pack("<Q", 2) + b"{}", "x.safetensors": safetensors()},
            "",
            "safetensors",
        ),
    ],
)
def test_files_that_tell_little(
    tmp_path: Path, files: dict[str, bytes], layout: str, kind: str
) -> None:
    found = facts_of(tmp_path, files)
    assert (found.dtype, found.file_layout, found.file_type, found.pipeline_class) == (
        "",
        layout,
        kind,
        "",
    )
