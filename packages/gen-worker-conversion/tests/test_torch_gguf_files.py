"""GGUF files as sources: split and joined bit by bit, of any alignment, and refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf import (
    plan_gguf_copy,
    plan_gguf_file,
    plan_language_model,
    transformers_weights,
    unpacked,
    write_gguf,
)
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.formats import DamagedFileError, read_gguf_header
from gen_worker.models.tiny import tiny_llama

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf: Any = pytest.importorskip("gguf")

PART_BYTES = 8_000


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return plan_language_model(tiny_llama(tmp_path_factory.mktemp("llama")), "q4_k_m")


@pytest.fixture(scope="module")
def whole(plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "m.gguf"
    return Path(write_gguf(plan.tensors, plan.metadata, place).path)


@pytest.fixture(scope="module")
def parts(plan: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("parts") / "m.gguf"
    made = write_gguf(plan.tensors, plan.metadata, place, split_max_bytes=PART_BYTES)
    return [Path(file.path) for file in made.files]


def copied(source: Path, out: Path, split_max_bytes: int = 0) -> list[Path]:
    plan = plan_gguf_copy(source)
    made = write_gguf(plan.tensors, plan.metadata, out, split_max_bytes=split_max_bytes)
    return [Path(file.path) for file in made.files]


def test_parts_are_joined_to_the_file_that_they_were(
    whole: Path, parts: list[Path], tmp_path: Path
) -> None:
    assert len(parts) > 2
    [joined] = copied(parts[0], tmp_path / "m.gguf")
    assert joined.read_bytes() == whole.read_bytes()


def test_a_file_is_split_into_the_parts_that_it_would_have_had(
    whole: Path, parts: list[Path], tmp_path: Path
) -> None:
    made = copied(whole, tmp_path / "m.gguf", PART_BYTES)
    assert [part.read_bytes() for part in made] == [part.read_bytes() for part in parts]


def test_the_first_part_stands_for_all(whole: Path, parts: list[Path]) -> None:
    assert list(open_checkpoint(parts[0])) == list(open_checkpoint(whole))
    found, wanted = transformers_weights(parts[0]), transformers_weights(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name].tensor(), wanted[name].tensor()) for name in wanted)
    with pytest.raises(ConversionInputError, match="give the first"):
        plan_gguf_copy(parts[1])


def test_a_missing_part_is_named(parts: list[Path], tmp_path: Path) -> None:
    for part in parts:
        (tmp_path / part.name).write_bytes(part.read_bytes())
    (tmp_path / parts[1].name).unlink()
    with pytest.raises(ConversionInputError) as caught:
        open_checkpoint(tmp_path / parts[0].name)
    assert caught.value.file == str(tmp_path / parts[1].name)


def written(path: Path, alignment: int = 32, **how: Any) -> dict[str, Any]:
    """Write a file by the library, and return its values."""
    values = {name: torch.randn(3, 33 + number) for number, name in enumerate("abc")}
    writer = gguf.GGUFWriter(path, "llama", **how)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for name, value in values.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_another_alignment_is_read_and_not_promised(alignment: int, tmp_path: Path) -> None:
    values = written(tmp_path / "a.gguf", alignment)
    assert read_gguf_header(str(tmp_path / "a.gguf")).alignment == alignment
    plan = plan_gguf_file(tmp_path / "a.gguf", "f32")
    again = Path(write_gguf(plan.tensors, plan.metadata, tmp_path / "b.gguf").path)
    for file in (tmp_path / "a.gguf", again, *copied(again, tmp_path / "c.gguf")):
        made = unpacked(file)
        assert all(torch.equal(made[name].tensor(), value) for name, value in values.items())
    assert read_gguf_header(str(again)).alignment == 32


def test_metadata_are_copied_with_their_types(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    kinds = gguf.GGUFValueType
    lists = {"BOOL": [True, False], "STRING": ["a", "ä"], "FLOAT64": [0.5], "UINT16": [3]}
    for kind, values in {"UINT8": [1, 255], "UINT32": [7], "INT64": [-1 << 40], **lists}.items():
        writer.add_key_value(f"a.{kind}", values, kinds.ARRAY, sub_type=kinds[kind])
    writer.add_uint64("a.large", 1 << 40)
    writer.add_tensor("x", torch.ones(2, 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [made] = copied(tmp_path / "a.gguf", tmp_path / "b.gguf")
    before, after = (gguf.GGUFReader(path).fields for path in (tmp_path / "a.gguf", made))
    assert {key: (field.types, field.contents()) for key, field in after.items()} == {
        key: (field.types, field.contents()) for key, field in before.items()
    }


def test_version_2_is_read(tmp_path: Path) -> None:
    values = written(tmp_path / "a.gguf")
    content = bytearray((tmp_path / "a.gguf").read_bytes())
    content[4:8] = struct.pack("<I", 2)
    (tmp_path / "a.gguf").write_bytes(content)
    [made] = copied(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert read_gguf_header(str(made)).version == 3
    assert torch.equal(unpacked(made)["a"].tensor(), values["a"])


def test_big_endian_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path / "a.gguf", endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(DamagedFileError, match="big-endian"):
        plan_gguf_file(tmp_path / "a.gguf", "f16")


def test_a_type_that_is_not_known_is_refused_with_its_tensor(tmp_path: Path) -> None:
    written(tmp_path / "a.gguf")
    content = (tmp_path / "a.gguf").read_bytes()
    name = struct.pack("<Q", 1) + b"b" + struct.pack("<I2Q", 2, 34, 3)
    assert content.count(name) == 1
    place = content.index(name) + len(name)
    (tmp_path / "a.gguf").write_bytes(
        content[:place] + struct.pack("<I", 99) + content[place + 4 :]
    )
    with pytest.raises(DamagedFileError, match=r"'b' has the type 99"):
        plan_gguf_copy(tmp_path / "a.gguf")


def test_blocks_are_not_packed_again_unless_it_is_allowed(whole: Path) -> None:
    with pytest.raises(ConversionInputError, match="gguf:keep"):
        plan_gguf_file(whole, "q8_0")
    assert plan_gguf_file(whole, "q8_0", allow_requantize=True).types
