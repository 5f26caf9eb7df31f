"""A safetensors header is read as the library reads it, or refused with a typed error."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.errors import classify
from gen_worker.models.formats import (
    DTYPE_BITS,
    DamagedFileError,
    DamagedSafetensorsError,
    TensorInfo,
    UnsafeFileFormat,
    WrongFormatError,
    read_header,
)

if TYPE_CHECKING:
    from pathlib import Path

safetensors: Any = pytest.importorskip("safetensors")


def file_of(header: object, data: bytes = b"", *, pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def saved(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return str(path)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry("BF16", [2, 3], 4, 16),
        "a": entry("F32", [], 0, 4),
        "empty": entry("F8_E4M3", [0, 7], 16, 16),
    }
    content = file_of(header, bytes(16), pad=3)

    read = read_header(saved(tmp_path, content))

    assert dict(read.tensors) == {
        "a": TensorInfo("F32", (), 0, 4),
        "b": TensorInfo("BF16", (2, 3), 4, 16),
        "empty": TensorInfo("F8_E4M3", (0, 7), 16, 16),
    }
    assert next(iter(read.tensors)) == "a"
    assert read.metadata == {"format": "pt"}
    assert read.data_start == len(content) - 16
    assert read.size_bytes == len(content)
    assert read.tensors["b"].size_bytes == 12


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_has_the_size_that_the_library_gives_it(dtype: str, tmp_path: Path) -> None:
    size = 8 * DTYPE_BITS[dtype] // 8
    content = file_of({"t": entry(dtype, [8], 0, size)}, bytes(size))

    assert read_header(saved(tmp_path, content)).tensors["t"].size_bytes == size
    assert safetensors.deserialize(content)[0][1]["dtype"] == dtype


GOOD = {"a": entry("F32", [2], 0, 8), "b": entry("U8", [8], 8, 16)}
DATA = bytes(16)

DAMAGED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "truncated"),
    ("short", b"\x05\0\0\0\0\0\0\0{", "truncated"),
    ("header beyond the file", file_of(GOOD, DATA)[:40], "truncated"),
    ("data cut off", file_of(GOOD, DATA)[:-1], "truncated"),
    ("data too long", file_of(GOOD, DATA) + b"\0", "oversized"),
    ("huge header", struct.pack("<Q", 2**63) + b"{" + bytes(64), "header_size"),
    ("header over the limit", struct.pack("<Q", 100_000_001) + b"{}", "header_size"),
    ("tiny header", struct.pack("<Q", 1) + b"{}", "header_size"),
    ("no JSON", file_of(b"{nonsense}  ", DATA), "header_syntax"),
    ("a list", file_of(b"[]"), "header_syntax"),
    ("space first", file_of(b" {}"), "header_syntax"),
    ("deep", file_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"), "header_syntax"),
    ("no UTF-8", file_of(b'{"\xff":1}'), "header_syntax"),
    ("half a surrogate", file_of(rb'{"\ud800":{}}'), "header_syntax"),
    ("metadata of numbers", file_of({"__metadata__": {"a": 1}}), "header_syntax"),
    ("a field too many", file_of({"a": {**entry("U8", [1], 0, 1), "x": 1}}, b"0"), "header_syntax"),
    ("a field too few", file_of({"a": {"dtype": "U8", "shape": []}}, b"0"), "header_syntax"),
    ("real numbers", file_of({"a": entry("U8", [1.0], 0, 1)}, b"0"), "header_syntax"),  # type: ignore[list-item]
    ("unknown dtype", file_of({"a": entry("F128", [1], 0, 16)}, DATA), "tensor_dtype"),
    ("shape and size", file_of({"a": entry("F32", [3], 0, 16)}, DATA), "tensor_size"),
    ("negative shape", file_of({"a": entry("U8", [-4, -4], 0, 16)}, DATA), "tensor_shape"),
    ("shape overflows", file_of({"a": entry("U8", [2**40, 2**40], 0, 16)}, DATA), "tensor_shape"),
    ("zero hides it", file_of({"a": entry("U8", [2**40, 2**40, 0], 0, 0)}), "tensor_shape"),
    ("many dimensions", file_of({"a": entry("U8", [1] * 65, 0, 1)}, b"0"), "header_syntax"),
    ("half a byte", file_of({"a": entry("F4", [3], 0, 2)}, b"00"), "tensor_shape"),
    ("overlap", file_of({**GOOD, "c": entry("U8", [8], 4, 12)}, DATA), "tensor_offsets"),
    ("gap", file_of({"a": entry("U8", [4], 4, 8)}, bytes(8)), "tensor_offsets"),
    ("backwards", file_of({"a": entry("U8", [0], 0, -1)}), "tensor_offsets"),
    ("before the data", file_of({"a": entry("U8", [16], -16, 0)}), "tensor_offsets"),
    ("beyond the data", file_of({"a": entry("U8", [32], 0, 32)}, DATA), "truncated"),
    ("control character", file_of({"a\x1b[2J": entry("U8", [1], 0, 1)}, b"0"), "tensor_name"),
    ("long name", file_of({"a" * 5000: entry("U8", [1], 0, 1)}, b"0"), "tensor_name"),
    ("name twice", file_of(b'{"a":%s,"a":%s}' % ((json.dumps(GOOD["a"]).encode(),) * 2), bytes(8)),
     "duplicate"),
    ("key twice", file_of(b'{"a":{"dtype":"F32","dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
                          bytes(8)), "duplicate"),
    ("key twice, spelled differently",
     file_of(rb'{"__metadata__":{"a":"1","\u0061":"2"}}'), "duplicate"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "code"), [row[1:] for row in DAMAGED],
                         ids=[row[0] for row in DAMAGED])  # fmt: skip
def test_damage_is_named(content: bytes, code: str, tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DamagedSafetensorsError) as caught:
        read_header(path)
    assert caught.value.code == code
    assert caught.value.file == path
    assert "fetch it again" in str(caught.value)
    assert not classify(caught.value).retryable


def test_an_error_survives_pickling_and_says_its_code(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError) as caught:
        read_header(saved(tmp_path, file_of(GOOD, DATA)[:-1]))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, copy.expected, copy.actual) == ("truncated", 16, 15)
    failure = classify(copy)
    assert failure.code == "truncated"
    assert failure.path == ""
    assert str(tmp_path) not in failure.message


@pytest.mark.parametrize(
    ("content", "actual"),
    [
        (b"<!DOCTYPE html><html><body>403", "html"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs"),
        (b'{"error": "Repository not found"}', "json"),
        (b"GGUF\x03\0\0\0" + bytes(64), "gguf"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "gzip"),
    ],
)
def test_another_format_is_named(content: bytes, actual: str, tmp_path: Path) -> None:
    with pytest.raises(WrongFormatError) as caught:
        read_header(saved(tmp_path, content))
    assert (caught.value.expected, caught.value.actual) == ("safetensors", actual)


def test_a_pickle_under_a_safe_name_is_refused(tmp_path: Path) -> None:
    pickled = tmp_path / "model.safetensors"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeFileFormat, match="a pickle"):
        read_header(str(pickled))
    zipped = tmp_path / "zip.safetensors"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(UnsafeFileFormat, match="zip archive"):
        read_header(str(zipped))


@pytest.mark.parametrize("size", [0x8B1F, 0x0480, 0x4750, 0x7B])
def test_a_header_size_that_looks_like_another_format_is_no_mistake(
    size: int, tmp_path: Path
) -> None:
    content = struct.pack("<Q", size) + b"{}" + b" " * (size - 2)
    assert dict(read_header(saved(tmp_path, content)).tensors) == {}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    with pytest.raises(WrongFormatError, match="no plain file"):
        read_header(str(path))
    with pytest.raises((WrongFormatError, IsADirectoryError)):
        read_header(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        read_header(str(tmp_path / "absent"))


def test_a_lying_size_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 99_999_999) + b"{")
        file.truncate(50_000_000)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(DamagedSafetensorsError):
            read_header(str(path))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# -- against the library ------------------------------------------------------------------------

SHAPES = st.lists(st.integers(0, 4), max_size=3)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8)


@st.composite
def sound_files(draw: st.DrawFn) -> bytes:
    header: dict[str, Any] = {}
    position = 0
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        dtype, shape = draw(st.sampled_from(sorted(DTYPE_BITS))), draw(SHAPES)
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
        if bits % 8 or name == "__metadata__":
            continue
        header[name] = entry(dtype, shape, position, position + bits // 8)
        position += bits // 8
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(NAMES, NAMES, max_size=2))
    keys = draw(st.permutations(list(header)))
    data = draw(st.binary(min_size=position, max_size=position))
    return file_of({key: header[key] for key in keys}, data, pad=draw(st.integers(0, 9)))


@st.composite
def changed_files(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(sound_files()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "digit", "size"]))
        if kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 9))]
        elif kind == "insert":
            content[at:at] = draw(st.sampled_from([b'"', b"0", b"{", b"-", b",", b"\\u0061", b" "]))
        elif kind == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 60))]
        elif kind == "digit":
            digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57 and i > 8]
            if digits:
                content[draw(st.sampled_from(digits))] = draw(st.integers(48, 57))
        elif len(content) >= 8:
            shift = draw(st.integers(-4, 4))
            length = int.from_bytes(content[:8], "little") + shift
            content[:8] = struct.pack("<Q", length % 2**64)
    return bytes(content)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers") / "model.safetensors"


def rows_of(content: bytes, path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    header = read_header(str(path))
    data = content[header.data_start :]
    return {
        name: (info.dtype, list(info.shape), data[info.start : info.end])
        for name, info in header.tensors.items()
    }


def library_rows(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: (row["dtype"], list(row["shape"]), bytes(row["data"]))
        for name, row in safetensors.deserialize(content)
    }


@settings(max_examples=150, deadline=None)
@given(content=sound_files())
def test_a_sound_file_reads_as_the_library_reads_it(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert rows_of(content, path) == library_rows(content)


@settings(max_examples=400, deadline=None)
@given(content=changed_files())
def test_a_changed_file_reads_as_the_library_reads_it_or_is_refused(
    content: bytes, path: Path
) -> None:
    path.write_bytes(content)
    try:
        rows = rows_of(content, path)
    except (DamagedFileError, UnsafeFileFormat):
        return
    assert rows == library_rows(content)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300))
def test_noise_is_refused_or_empty(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        rows = rows_of(content, path)
    except (DamagedFileError, UnsafeFileFormat):
        return
    assert rows == library_rows(content)
