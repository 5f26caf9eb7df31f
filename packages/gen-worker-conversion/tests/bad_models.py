"""Models that are wrong in one way each, and what a conversion may leave behind: nothing."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LAYERS = 4
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def safetensors(path: Path, tensors: Mapping[str, list[float]], **header: Any) -> None:
    """Write float32 tensors of one row per value, and entries of the header as they are given."""
    entries: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        content = b"".join(struct.pack("<f", value) * 32 for value in values)
        entries[name] = {
            "dtype": "F32",
            "shape": [len(values), 32],
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps({**entries, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def weights() -> dict[str, list[float]]:
    return {f"layer.{number}.weight": [float(number), 1.0] for number in range(LAYERS)}


def whole(folder: Path) -> Path:
    """Write a sound model in one file."""
    folder.mkdir()
    safetensors(folder / "model.safetensors", weights())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def sharded(folder: Path) -> Path:
    """Write a sound model in two files."""
    folder.mkdir()
    names = list(weights().items())
    for shard, part in zip(SHARDS, (names[:2], names[2:]), strict=True):
        safetensors(folder / shard, dict(part))
    write_index(folder, {name: SHARDS[number // 2] for number, (name, _) in enumerate(names)})
    return folder


def write_index(folder: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 1024}, "weight_map": weight_map})
    (folder / INDEX).write_text(text)


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 700)


def truncated_header(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 40)


def empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def lying_length(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 50) + path.read_bytes()[8:])


def lying_offsets(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    safetensors(folder / "model.safetensors", {"a": [1.0]}, b=entry)


def lying_shape(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}
    safetensors(folder / "model.safetensors", {}, huge=entry)


def unknown_dtype(folder: Path) -> None:
    entry = {"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}
    safetensors(folder / "model.safetensors", {}, odd=entry)


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def disguised_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x02}q\x00." + bytes(64))


def error_page(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>not found</html>")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def duplicate(folder: Path) -> None:
    """Have every tensor in two files, and no index that says which counts."""
    data = (folder / "model.safetensors").read_bytes()
    (folder / "other.safetensors").write_bytes(data)


def duplicate_in_shards(folder: Path) -> None:
    safetensors(folder / SHARDS[1], dict(list(weights().items())[1:]))


def missing_shard(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()


def missing_entry(folder: Path) -> None:
    """Have an index that names a tensor which its file has not."""
    names = dict.fromkeys(weights(), SHARDS[0])
    write_index(folder, names)


def index_of_nothing(folder: Path) -> None:
    write_index(folder, {})


def index_syntax(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a"')


def path_upwards(folder: Path) -> None:
    write_index(folder, {"a": "../../etc/passwd.safetensors"})


def path_absolute(folder: Path) -> None:
    write_index(folder, {"a": "/etc/passwd.safetensors"})


class Bad(NamedTuple):
    """One way to be wrong, and what the error must name."""

    spoil: Callable[[Path], None]
    named: str
    is_sharded: bool = False

    def make(self, folder: Path) -> Path:
        """Return the model."""
        (sharded if self.is_sharded else whole)(folder)
        self.spoil(folder)
        return folder

    def weights_in(self, folder: Path) -> Path:
        """Return what is given to those who take a file or an index."""
        if self.is_sharded:
            return folder / INDEX
        return next((one for one in folder.iterdir() if "model" in one.name), folder)


BAD = (
    Bad(truncated, "model.safetensors"),
    Bad(truncated_header, "model.safetensors"),
    Bad(empty_file, "model.safetensors"),
    Bad(lying_length, "model.safetensors"),
    Bad(lying_offsets, "tensor 'a'"),
    Bad(lying_shape, "tensor 'huge'"),
    Bad(unknown_dtype, "'Q9'"),
    Bad(pickle_only, "pytorch_model.bin"),
    Bad(disguised_pickle, "model.safetensors"),
    Bad(error_page, "model.safetensors"),
    Bad(no_weights, "has no weights"),
    Bad(duplicate, "layer.0.weight"),
    Bad(duplicate_in_shards, "layer.1.weight", is_sharded=True),
    Bad(missing_shard, SHARDS[1], is_sharded=True),
    Bad(missing_entry, "layer.2.weight", is_sharded=True),
    Bad(index_of_nothing, INDEX, is_sharded=True),
    Bad(index_syntax, INDEX, is_sharded=True),
    Bad(path_upwards, "passwd", is_sharded=True),
    Bad(path_absolute, "passwd", is_sharded=True),
)


def everything_below(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of all that is there, hidden or not; of folders only the name."""
    found: dict[str, tuple[int, bytes]] = {}
    for parent, directories, names in os.walk(root):
        for name in directories:
            found[os.path.relpath(os.path.join(parent, name), root) + "/"] = (0, b"")
        for name in names:
            path = os.path.join(parent, name)
            with open(path, "rb") as file:
                content = file.read()
            found[os.path.relpath(path, root)] = (os.stat(path).st_mtime_ns, content)
    return found
