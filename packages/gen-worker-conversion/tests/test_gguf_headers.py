"""Headers of GGUF files are told, and what is wrong with one has a code."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf import GgufSourceError, parse_gguf_header
from gen_worker.conversion.gguf.container import TensorEntry, gguf_header
from gen_worker.models.formats import DamagedFileError

if TYPE_CHECKING:
    from pathlib import Path

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "mine",
    "general.file_type": 15,
    "general.quantization_version": 2,
    "a.list": [1, 2],
    "a.long": list(range(2000)),
}


def file(path: Path, metadata: dict[str, Any]) -> Path:
    header = gguf_header(metadata, {"x": TensorEntry("F32", (2, 8)), "y": TensorEntry("F16", (8,))})
    path.write_bytes(header.content + bytes(header.size_bytes - len(header.content)))
    return path


def test_a_header_is_told(tmp_path: Path) -> None:
    found = parse_gguf_header(file(tmp_path / "m.gguf", METADATA))
    assert (found.version, found.tensor_count, found.kv_count) == (3, 2, 6)
    assert (found.architecture, found.name, found.quantization_version) == ("llama", "mine", 2)
    assert (found.file_type, found.file_type_label) == (15, "q4_k_m")
    assert found.kv == {**METADATA, "a.list": (1, 2), "a.long": None}
    assert list(parse_gguf_header(tmp_path / "m.gguf", max_kv_pairs=2).kv) == list(METADATA)[:2]


def test_type_0_has_a_name_and_what_is_not_said_is_empty(tmp_path: Path) -> None:
    assert (
        parse_gguf_header(file(tmp_path / "m.gguf", {"general.file_type": 0})).file_type_label
        == "f32"
    )
    found = parse_gguf_header(file(tmp_path / "m.gguf", {}))
    assert (found.architecture, found.file_type, found.file_type_label) == ("", None, "")


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda content: b"GGML" + content[4:], "gguf_invalid_magic"),
        (lambda content: content[:-20], "gguf_truncated"),
        (lambda content: content[:40], "gguf_truncated"),
        (lambda content: content[:8] + struct.pack("<Q", 1 << 60) + content[16:], "gguf_truncated"),
        (
            lambda content: content.replace(
                b"a.list" + struct.pack("<I", 9), b"a.list" + struct.pack("<I", 77)
            ),
            "gguf_unknown_kv_type",
        ),
    ],
)
def test_what_is_wrong_has_a_code(damage: Any, code: str, tmp_path: Path) -> None:
    path = file(tmp_path / "m.gguf", METADATA)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GgufSourceError, match=r"m\.gguf") as caught:
        parse_gguf_header(path)
    assert (caught.value.code, caught.value.file) == (code, str(path))


def test_other_damage_is_told_as_it_is(tmp_path: Path) -> None:
    path = file(tmp_path / "m.gguf", METADATA)
    path.write_bytes(path.read_bytes().replace(b"a.list", b"a.long"))
    with pytest.raises(DamagedFileError, match="twice"):
        parse_gguf_header(path)
