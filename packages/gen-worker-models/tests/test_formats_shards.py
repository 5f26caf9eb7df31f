"""The index of a sharded model names files below it that are all there and hold what it says."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.models.formats import (
    DamagedFileError,
    DamagedIndexError,
    DamagedSafetensorsError,
    UnsafeFileFormat,
    read_index,
)


def shard(path: Path, **sizes: int) -> None:
    header, position = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(position))


def index(tmp_path: Path, weight_map: object) -> str:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return str(path)


def test_every_shard_is_read(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", x=3, y=1)
    shard(tmp_path / "b.safetensors", z=5, unlisted=2)
    read = read_index(index(tmp_path, {"z": "b.safetensors", "x": "a.safetensors"}))
    a, b = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    assert list(read.shards) == [a, b]
    assert read.weight_map == {"z": b, "x": a}
    assert read.size_bytes == 11


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/a.safetensors", "C:a.safetensors", "a\\b.safetensors", "", "x/.."],
)
def test_a_shard_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DamagedIndexError) as caught:
        read_index(index(tmp_path, {"x": name}))
    assert caught.value.code == "shard_path"


def test_a_pickle_as_shard_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(DamagedIndexError, match="convert the weights"):
        read_index(index(tmp_path, {"x": "a.bin"}))
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(UnsafeFileFormat):
        read_index(index(tmp_path, {"x": "a.safetensors"}))


def test_all_missing_shards_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", x=1)
    weight_map = {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}
    with pytest.raises(DamagedIndexError, match=r"'b.safetensors', 'c.safetensors' of its 3"):
        read_index(index(tmp_path, weight_map))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", x=1)
    with pytest.raises(DamagedIndexError, match="'y', 'z' are not in") as caught:
        read_index(index(tmp_path, dict.fromkeys("xyz", "a.safetensors")))
    assert caught.value.code == "shard_tensors"


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "a.safetensors", x=10)
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-1])
    with pytest.raises(DamagedSafetensorsError, match=r"a\.safetensors"):
        read_index(index(tmp_path, {"x": "a.safetensors"}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"weight_map":{}}',
        b'{"weight_map":{"a":1}}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_a_malformed_index_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text)
    with pytest.raises(DamagedIndexError):
        read_index(str(path))


def test_an_index_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    with path.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(DamagedIndexError, match="at most"):
        read_index(str(path))


NAMES = st.sampled_from(["a.safetensors", "A.safetensors", "x/../a.safetensors"]) | st.text(
    max_size=9
)
JSON = st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)


@settings(max_examples=150, deadline=None)
@given(
    weight_map=st.dictionaries(st.sampled_from("xyz"), NAMES | JSON) | JSON, cut=st.integers(0, 9)
)
def test_any_index_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, weight_map: object, cut: int
) -> None:
    root = tmp_path_factory.mktemp("index")
    shard(root / "a.safetensors", x=1, y=2)
    path = index(root, weight_map)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) - cut])
    try:
        read = read_index(path)
    except DamagedFileError:
        return
    assert read.weight_map == dict.fromkeys(read.weight_map, str(root / "a.safetensors"))
