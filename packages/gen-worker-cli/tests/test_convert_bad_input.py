"""`gen-worker convert` of what cannot be converted: one line, an exit code, and all as before."""

from __future__ import annotations

import json
import os
import shutil
import struct
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Cli

SHARD = "model-00001-of-00002.safetensors"


def write_model(folder: Path) -> None:
    header = {"layer.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}
    text = json.dumps(header).encode()
    folder.mkdir()
    content = struct.pack("<Q", len(text)) + text + bytes(256)
    (folder / "model.safetensors").write_bytes(content)


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 200)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def duplicate(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")


def without_a_shard(folder: Path) -> None:
    index = {"weight_map": {"layer.weight": SHARD}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def leading_elsewhere(folder: Path) -> None:
    index = {"weight_map": {"layer.weight": "../../passwd.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def everything_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (truncated, "model.safetensors"),
        (pickled, "pytorch_model.bin"),
        (duplicate, "layer.weight"),
        (without_a_shard, SHARD),
        (leading_elsewhere, "passwd"),
    ],
)
def test_a_bad_source_is_refused_in_one_line(
    cli: Cli, spoil: Callable[[Path], None], named: str
) -> None:
    write_model(cli.folder / "model")
    spoil(cli.folder / "model")
    before = everything_below(cli.folder)

    done = cli("convert", "model", "--to", "bf16", "--out", "new/out")

    assert done.code == 2
    lines = done.stderr.splitlines()
    assert named in lines[0]
    assert all(line.startswith("gen-worker convert: ") for line in lines)
    assert everything_below(cli.folder) == before
    assert os.listdir(cli.folder) == ["model"]


def test_a_place_that_cannot_be_is_named(cli: Cli) -> None:
    write_model(cli.folder / "model")
    (cli.folder / "file").write_text("mine")
    before = everything_below(cli.folder)

    done = cli("convert", "model", "--to", "bf16", "--out", "file/out")

    assert done.code == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gen-worker convert: ")
    assert f"{str(cli.folder / 'file')!r} is no directory" in line
    assert everything_below(cli.folder) == before
