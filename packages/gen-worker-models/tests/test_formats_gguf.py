"""A GGUF header is read as the gguf package reads it, or refused with a typed error."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.models.formats import (
    DamagedFileError,
    DamagedGgufError,
    GgufTensor,
    UnsafeFileFormat,
    WrongFormatError,
    read_gguf_header,
)
from gen_worker.models.formats.gguf import GgufArray
from gen_worker.models.formats.gguf_types import BLOCKS

if TYPE_CHECKING:
    from pathlib import Path

gguf: Any = pytest.importorskip("gguf")
numpy: Any = pytest.importorskip("numpy")


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def field(key: str, type_id: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + value


def tensor(name: str, shape: tuple[int, ...], type_id: int, offset: int) -> bytes:
    numbers = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + numbers + struct.pack("<IQ", type_id, offset)


def file_of(
    fields: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    tensor_count, field_count = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, field_count)
    head += b"".join((*fields, *tensors))
    return head + bytes(-len(head) % 32) + bytes(data)


def saved(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return str(path)


def written(path: Path) -> str:
    """Write a small model with the gguf package."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_name("tiny")
    writer.add_bool("tiny.flag", True)
    writer.add_array("tiny.sizes", [1, 2, 3])
    writer.add_token_list([f"token{index}" for index in range(3000)])
    writer.add_token_scores([0.5] * 3000)
    random = numpy.random.default_rng(0)
    weights = random.standard_normal((4, 64)).astype(numpy.float32)
    writer.add_tensor("blk.0.weight", weights)
    writer.add_tensor("half", weights.astype(numpy.float16)[:3])
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_the_table_of_types_is_that_of_the_package() -> None:
    theirs = {
        kind.value: (kind.name, *sizes) for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()
    }
    assert {key: tuple(block) for key, block in BLOCKS.items()} == theirs


def test_a_file_of_the_package_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "model.gguf")
    header = read_gguf_header(path)
    reader = gguf.GGUFReader(path)

    assert (header.version, header.alignment) == (3, reader.alignment)
    assert header.data_start == reader.data_offset
    assert {
        name: (info.type_name, info.shape, header.data_start + info.start, info.end - info.start)
        for name, info in header.tensors.items()
    } == {
        row.name: (row.tensor_type.name, tuple(map(int, row.shape)), row.data_offset, row.n_bytes)
        for row in reader.tensors
    }
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.context_length"] == 2048
    assert header.metadata["tiny.flag"] is True
    assert header.metadata["tiny.sizes"].values == (1, 2, 3)
    assert header.metadata["tokenizer.ggml.tokens"] == GgufArray(8, 3000, None)
    assert set(header.metadata) == {name for name in reader.fields if not name.startswith("GGUF.")}


def test_nested_arrays_and_version_2(tmp_path: Path) -> None:
    inner = struct.pack("<IQ", 4, 2) + struct.pack("<II", 7, 8)
    nested = field("n", 9, struct.pack("<IQ", 9, 2) + inner + inner)
    header = read_gguf_header(saved(tmp_path, file_of((nested,), version=2)))
    row = GgufArray(4, 2, (7, 8))
    assert header.metadata["n"] == GgufArray(9, 2, (row, row))
    assert header.version == 2


def test_metadata_alone_is_sound(tmp_path: Path) -> None:
    content = file_of((field("a", 8, text("b")),)).rstrip(b"\0") + b""
    assert dict(read_gguf_header(saved(tmp_path, content)).tensors) == {}


def array(type_id: int, count: int, body: bytes = b"") -> bytes:
    return field("a", 9, struct.pack("<IQ", type_id, count) + body)


ONE = tensor("t", (32,), 0, 0)
DEEP = b"".join(struct.pack("<IQ", 9, 1) for _ in range(3000))
DAMAGED: list[tuple[str, bytes, str]] = [
    ("empty", b"", "truncated"),
    ("other magic", b"GGML" + bytes(60), "wrong_format"),
    ("cut in the counts", file_of()[:20], "truncated"),
    ("version 1", file_of(version=1), "version"),
    ("version 4", file_of(version=4), "version"),
    ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version"),
    ("tensors claimed", file_of(counts=(2**63, 0)), "header_count"),
    ("fields claimed", file_of(counts=(0, 2**40)), "header_count"),
    ("one field claimed", file_of(counts=(0, 1)), "header_count"),
    ("key longer than the file", file_of((struct.pack("<Q", 2**60) + b"k" * 20,)), "truncated"),
    ("long key", file_of((field("k" * 70_000, 0, b"1"),)), "metadata"),
    ("no UTF-8", file_of((text(b"\xff") + struct.pack("<IB", 0, 1),)), "metadata"),
    ("unknown value type", file_of((field("a", 13, bytes(16)),)), "metadata"),
    ("unknown item type", file_of((array(77, 1, bytes(16)),)), "metadata"),
    ("long array", file_of((array(4, 2**62),)), "header_count"),
    ("long array of texts", file_of((array(8, 2**62),)), "header_count"),
    ("text beyond the file", file_of((field("a", 8, struct.pack("<Q", 2**63)),)), "truncated"),
    ("item beyond the file",
     file_of((array(8, 2000, struct.pack("<Q", 2**50) + bytes(20_000)),)), "truncated"),
    ("nested too deeply", file_of((field("a", 9, DEEP),)), "metadata"),
    ("key twice", file_of((field("a", 0, b"1"), field("a", 0, b"1"))), "duplicate"),
    ("odd alignment", file_of((field("general.alignment", 4, struct.pack("<I", 33)),)), "metadata"),
    ("no alignment", file_of((field("general.alignment", 4, struct.pack("<I", 0)),)), "metadata"),
    ("wide alignment",
     file_of((field("general.alignment", 4, struct.pack("<I", 2**31)),)), "metadata"),
    ("alignment of text", file_of((field("general.alignment", 8, text("32")),)), "metadata"),
    ("tensor twice", file_of((), (ONE, ONE), 256), "duplicate"),
    ("dimensions", file_of((), (tensor("t", (1,) * 5, 0, 0),), 64), "tensor_shape"),
    ("many dimensions", file_of((), (text("t") + struct.pack("<I", 2**31),), 64), "tensor_shape"),
    ("unknown type", file_of((), (tensor("t", (32,), 5, 0),), 256), "tensor_dtype"),
    ("half a block", file_of((), (tensor("t", (33,), 2, 0),), 256), "tensor_shape"),
    ("overflow", file_of((), (tensor("t", (2**62, 8), 0, 0),), 256), "tensor_shape"),
    ("overflow with a zero", file_of((), (tensor("t", (2**63, 0), 0, 0),), 256), "tensor_shape"),
    ("unaligned", file_of((), (tensor("t", (32,), 0, 8),), 256), "tensor_offsets"),
    ("overlap", file_of((), (ONE, tensor("u", (32,), 0, 96)), 512), "tensor_offsets"),
    ("offset beyond the file", file_of((), (tensor("t", (32,), 0, 2**62),), 256), "truncated"),
    ("data cut off", file_of((), (ONE,), 127), "truncated"),
    ("no data", file_of((), (ONE,), 0), "truncated"),
    ("too long", file_of((), (ONE,), 200_000), "oversized"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "code"), [row[1:] for row in DAMAGED],
                         ids=[row[0] for row in DAMAGED])  # fmt: skip
def test_damage_is_named(content: bytes, code: str, tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DamagedGgufError) as caught:
        read_gguf_header(path)
    assert caught.value.code == code
    assert caught.value.file == path


def test_a_tensor_may_be_followed_by_padding(tmp_path: Path) -> None:
    header = read_gguf_header(saved(tmp_path, file_of((), (ONE,), 160)))
    assert header.tensors["t"] == GgufTensor("F32", (32,), 0, 128)


def test_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongFormatError, match="web page"):
        read_gguf_header(saved(tmp_path, b"<html>no such file</html>"))
    with pytest.raises(UnsafeFileFormat, match="a zip archive"):
        read_gguf_header(saved(tmp_path, b"PK\x03\x04" + bytes(64)))


@pytest.mark.parametrize(
    "content",
    [
        file_of((array(8, 100_000),)),
        file_of((array(8, 4_000_001),)),
        file_of((field("a", 8, struct.pack("<Q", 900_000_000)),)),
        file_of((array(4, 200_000_000),)),
        file_of((array(9, 3_000_000, struct.pack("<IQ", 4, 70_000_000) * 1000),)),
    ],
)
def test_lying_counts_in_a_large_file_take_little(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(content)
        file.truncate(1_000_000_000)  # sparse: zeros are texts of no length
    tracemalloc.start()
    try:
        with pytest.raises(DamagedGgufError):
            read_gguf_header(str(path))
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


# -- against the package ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "changed.gguf"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "sound.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_array("sizes", [1, 2, 3])
    writer.add_array("words", ["a", "bc"])
    writer.add_tensor("x", numpy.ones((2, 32), numpy.float32))
    writer.add_tensor("y", numpy.ones((3, 2), numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


Change = tuple[str, int, int]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "drop", "insert", "set"]),
        st.integers(0, 2**16),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def changed(sound: bytes, changes: list[Change]) -> bytes:
    content = bytearray(sound)
    for kind, place, value in changes:
        at = place % max(min(len(content), 420), 1)
        if kind == "cut":
            del content[max(len(content) - value, 0) :]
        elif kind == "drop":
            del content[at : at + value % 9]
        elif kind == "insert":
            content[at:at] = bytes([value])
        elif kind == "set":
            content[at : at + 1] = bytes([value])
        elif content:
            content[at] ^= 1 << value % 8
    return bytes(content)


@settings(max_examples=300, deadline=None)
@given(changes=CHANGES)
def test_a_changed_file_reads_as_the_package_reads_it_or_is_refused(
    changes: list[Change], sound: bytes, path: Path
) -> None:
    path.write_bytes(changed(sound, changes))
    try:
        header = read_gguf_header(str(path))
    except (DamagedFileError, UnsafeFileFormat):
        return
    reader = gguf.GGUFReader(str(path))
    assert {
        name: (info.type_name, info.shape, header.data_start + info.start, info.end - info.start)
        for name, info in header.tensors.items()
    } == {
        row.name: (row.tensor_type.name, tuple(map(int, row.shape)), row.data_offset, row.n_bytes)
        for row in reader.tensors
    }
    assert set(header.metadata) == {name for name in reader.fields if not name.startswith("GGUF.")}


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_noise_is_refused(content: bytes, path: Path) -> None:
    path.write_bytes(b"GGUF" + content)
    try:
        header = read_gguf_header(str(path))
    except DamagedFileError:
        return
    assert header.size_bytes == len(content) + 4
