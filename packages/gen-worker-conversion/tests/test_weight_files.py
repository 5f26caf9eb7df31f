"""Which files count as a model's weights, and which are refused; no tensor is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.weight_sets import holds_weights, variant_of, weight_set_of
from gen_worker.models.formats import DamagedFileError, DamagedIndexError, UnsafeFileFormat

if TYPE_CHECKING:
    from pathlib import Path


def weights(path: Path, *names: str, dtype: str = "F32", **metadata: str) -> None:
    """Write a file with tensors of two elements."""
    size = {"F32": 8, "BF16": 4, "F16": 4}[dtype]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for index, name in enumerate(names):
        offsets = [index * size, (index + 1) * size]
        header[name] = {"dtype": dtype, "shape": [2], "data_offsets": offsets}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size * len(names)))


def index(path: Path, **weight_map: str) -> None:
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_one_file(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "b", "a", format="pt", kind="x")
    for place in (tmp_path, tmp_path / "model.safetensors", str(tmp_path)):
        found = open_checkpoint(place)
        assert list(found) == ["b", "a"]
        assert found.metadata == {"format": "pt", "kind": "x"}
        assert found.files == (str(tmp_path / "model.safetensors"),)
        assert (found["a"].dtype, found["a"].shape, found["a"].size_bytes) == ("F32", (2,), 8)


def test_without_an_index_every_file_counts(tmp_path: Path) -> None:
    weights(tmp_path / "one.safetensors", "a")
    weights(tmp_path / "two.safetensors", "b")
    assert set(open_checkpoint(tmp_path)) == {"a", "b"}
    assert set(open_checkpoint([tmp_path / "two.safetensors"])) == {"b"}


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    weights(tmp_path / "model-00001-of-00002.safetensors", "a", format="pt")
    weights(tmp_path / "model-00002-of-00002.safetensors", "b", other="y")
    weights(tmp_path / "consolidated.safetensors", "c")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index(tmp_path / "model.safetensors.index.json", **names)
    for place in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert set(open_checkpoint(place)) == {"a", "b"}
        assert open_checkpoint(place).metadata == {"format": "pt", "other": "y"}


@pytest.mark.parametrize(
    "name", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"]
)
def test_variants(tmp_path: Path, name: str) -> None:
    weights(tmp_path / "model.safetensors", "a")
    weights(tmp_path / "model.fp16-00001-of-00001.safetensors", "a", dtype="F16")
    index(tmp_path / name, a="model.fp16-00001-of-00001.safetensors")
    assert open_checkpoint(tmp_path)["a"].dtype == "F32"
    assert open_checkpoint(tmp_path, variant="fp16")["a"].dtype == "F16"
    with pytest.raises(ConversionInputError, match=r"there are '', 'fp16'"):
        open_checkpoint(tmp_path, variant="bf16")


def test_of_variants_the_most_precise_is_taken(tmp_path: Path) -> None:
    weights(tmp_path / "x.fp16.safetensors", "a", dtype="F16")
    weights(tmp_path / "x.bf16.safetensors", "a", dtype="BF16")
    assert open_checkpoint(tmp_path)["a"].dtype == "BF16"
    weights(tmp_path / "x.fp32.safetensors", "a")
    assert open_checkpoint(tmp_path)["a"].dtype == "F32"


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", ""),
        ("model.fp16.safetensors", "fp16"),
        ("model-00001-of-00002.bf16.safetensors", "bf16"),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "fp16"),
        ("flux1.dev.safetensors", ""),
        ("v1-5.ema.safetensors", ""),
        ("MODEL.FP16.SAFETENSORS", "fp16"),
    ],
)
def test_the_variant_is_in_the_name(name: str, variant: str) -> None:
    assert variant_of(name) == variant


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    weights(tmp_path / "one.safetensors", "a", "b")
    weights(tmp_path / "two.safetensors", "b")
    with pytest.raises(DamagedIndexError, match=r"'b' is in 'one\.safetensors'") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code == "duplicate"
    index(tmp_path / "model.safetensors.index.json", a="one.safetensors", b="two.safetensors")
    with pytest.raises(DamagedIndexError, match=r"'b' is in 'two\.safetensors'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a": "model.safetensors", "z": "model.safetensors"}, "shard_tensors"),
        ({"a": "model.safetensors", "b": "gone.safetensors"}, "shard_missing"),
        ({"a": "../../etc/passwd.safetensors"}, "shard_path"),
        ({"a": "/etc/passwd.safetensors"}, "shard_path"),
        ({"a": "model.bin"}, "shard_path"),
        ({}, "header_count"),
    ],
)
def test_an_index_that_lies_is_refused(
    tmp_path: Path, weight_map: dict[str, str], code: str
) -> None:
    weights(tmp_path / "model.safetensors", "a")
    index(tmp_path / "model.safetensors.index.json", **weight_map)
    with pytest.raises(DamagedIndexError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.code == code


def test_headers_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights(path, "a", "b")
    whole = path.read_bytes()
    for wrong in (
        whole[:-1],
        whole + b"\0",
        whole[:20],
        whole.replace(b"[8, 16]", b"[4, 12]"),
        whole.replace(b'"b"', b'"a"'),
        whole.replace(b'"F32"', b'"F99"'),
        whole.replace(b"[2]", b"[3]"),
    ):
        assert wrong != whole
        path.write_bytes(wrong)
        with pytest.raises(DamagedFileError):
            open_checkpoint(tmp_path)


def test_pickles_are_refused_by_name_and_the_directory_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    (tmp_path / "config.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UnsafeFileFormat, match=r"'pytorch_model.bin'.*safe_serialization=True"):
        open_checkpoint(tmp_path)
    with pytest.raises(UnsafeFileFormat, match=r"pytorch_model\.bin"):
        open_checkpoint(tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UnsafeFileFormat, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionInputError, match="has no weights"):
        weight_set_of(str(tmp_path))
    assert not holds_weights(str(tmp_path))
    weights(tmp_path / "sub" / "model.safetensors", "a")
    assert not holds_weights(str(tmp_path))
    assert holds_weights(str(tmp_path / "sub"))


def test_of_several_indexes_that_of_a_library_is_taken(tmp_path: Path) -> None:
    weights(tmp_path / "x.safetensors", "a")
    weights(tmp_path / "y.safetensors", "b")
    index(tmp_path / "one.safetensors.index.json", a="x.safetensors")
    index(tmp_path / "two.safetensors.index.json", b="y.safetensors")
    with pytest.raises(ConversionInputError, match="several indexes"):
        open_checkpoint(tmp_path)
    index(tmp_path / "model.safetensors.index.json", b="y.safetensors")
    assert set(open_checkpoint(tmp_path)) == {"b"}
