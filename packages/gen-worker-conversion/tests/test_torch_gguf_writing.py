"""GGUF files hold what was given, in one piece or split, the same bytes at every run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.packing import packed
from gen_worker.conversion.gguf.writing import write_gguf
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.writer import Journal
from gen_worker.errors import CanceledError
from gen_worker.models.formats import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.lazy import LazyTensor

torch: Any = pytest.importorskip("torch")
gguf: Any = pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.text": "ä",
    "a.list": ["x", "y"],
    "a.number": 7,
}
TYPES = {
    "a": "Q8_0",
    "b": "Q4_0",
    "c": "F16",
    "d": "F32",
    "e": "Q4_K",
    "f": "BF16",
    "scalar": "F32",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("source") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(30, 96, generator=generator),
        "b": torch.randn(7, 512, generator=generator).bfloat16(),
        "c": torch.randn(5, 33, generator=generator),
        "d": torch.randn(77, generator=generator).half(),
        "e": torch.randn(3, 4, 256, generator=generator),
        "f": torch.randn(11, 3, generator=generator),
        "scalar": torch.tensor(2.5),
    }
    safetensors_torch.save_file(weights, path)
    return path


def recipes(source: Path) -> Mapping[str, LazyTensor]:
    found = open_checkpoint(source)
    return {name: packed(found[name], type_name) for name, type_name in TYPES.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_file_is_what_the_package_gguf_reads_and_would_write(
    source: Path, tmp_path: Path
) -> None:
    progress: list[tuple[int, int]] = []
    written = write_gguf(
        recipes(source),
        METADATA,
        tmp_path / "model.gguf",
        progress=lambda *step: progress.append(step),
    )
    assert [Path(file.path).name for file in written.files] == ["model.gguf"]
    assert progress[-1] == (written.files[0].size_bytes,) * 2
    reader = gguf.GGUFReader(written.path)
    assert reader.get_field("a.text").contents() == "ä"
    assert reader.get_field("a.number").contents() == 7
    values = open_checkpoint(source)
    seen = []
    for tensor in reader.tensors:
        seen.append(tensor.name)
        assert tensor.tensor_type.name == TYPES[tensor.name]
        value = values[tensor.name].tensor().float()
        assert tuple(reversed(tensor.shape.tolist())) == (tuple(value.shape) or (1,))
        if tensor.name != "e":  # the package cannot make K-quants
            wanted = gguf.quants.quantize(
                value.numpy().reshape(-1, value.shape[-1] if value.ndim else 1), tensor.tensor_type
            )
            assert tensor.data.tobytes() == wanted.tobytes(), tensor.name
    assert seen == list(TYPES)
    unpacked = open_checkpoint(written.path)
    for name in TYPES:
        step = {"Q4_0": 0.3, "Q4_K": 0.3, "Q8_0": 0.02, "BF16": 0.02, "F16": 2e-3, "F32": 0}
        error = (unpacked[name].tensor().float() - values[name].tensor().float()).abs().max()
        assert float(error) <= step[TYPES[name]], name


def test_split_files_are_named_and_described_as_those_of_llama_cpp(
    source: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    written = write_gguf(
        recipes(source),
        METADATA,
        tmp_path / "model.gguf",
        split_max_bytes=3200,
        on_file=lambda file: seen.append(file.path),
    )
    count = len(written.files)
    assert count > 2
    names = [f"model-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    assert [Path(path).name for path in seen] == names == sorted(contents(tmp_path))
    whole = write_gguf(recipes(source), METADATA, tmp_path / "one" / "model.gguf")
    wanted = open_checkpoint(whole.path)
    found = open_checkpoint(seen)
    assert list(found) == list(wanted)
    for name in wanted:
        assert torch.equal(found[name].tensor(), wanted[name].tensor())
    for number, path in enumerate(seen):
        header = read_gguf_header(path)
        assert header.metadata["split.no"] == number
        assert header.metadata["split.count"] == count
        assert header.metadata["split.tensors.count"] == len(TYPES)
        assert ("a.text" in header.metadata) == (number == 0)


def test_bytes_are_the_same_at_every_run_and_after_resuming(source: Path, tmp_path: Path) -> None:
    one, other, third = (tmp_path / name for name in ("one", "other", "third"))
    for place in (one, other):
        write_gguf(recipes(source), METADATA, place / "m.gguf", split_max_bytes=3200)
    assert contents(one) == contents(other)
    token = CancelToken()
    finished: list[str] = []

    def stop_at_the_second(file: Any) -> None:
        finished.append(file.path)
        if len(finished) == 2:
            token.cancel()

    journal = tmp_path / "journal"
    with pytest.raises(CanceledError):
        write_gguf(
            recipes(source),
            METADATA,
            third / "m.gguf",
            split_max_bytes=3200,
            journal=Journal(journal),
            on_file=stop_at_the_second,
            token=token,
        )
    assert len(contents(third)) == 2
    written = write_gguf(
        recipes(source),
        METADATA,
        third / "m.gguf",
        split_max_bytes=3200,
        journal=Journal(journal),
    )
    assert written.resumed == 2
    assert contents(third) == contents(one)


def test_numbers_that_are_none_are_counted_in_the_source(tmp_path: Path) -> None:
    value = torch.zeros(4, 64)
    value[0, 0], value[2, 1], value[3, 5] = math.nan, math.inf, -math.inf
    safetensors_torch.save_file(
        {"bad": value, "good": torch.ones(2, 32)}, tmp_path / "m.safetensors"
    )
    found = open_checkpoint(tmp_path / "m.safetensors")
    recipe = {name: packed(tensor, "Q8_0") for name, tensor in found.items()}
    written = write_gguf(recipe, {}, tmp_path / "m.gguf")
    assert {name: tuple(count) for name, count in written.nonfinite.items()} == {"bad": (1, 2)}


@pytest.mark.parametrize(
    ("value", "type_name", "said"),
    [((0, 32), "F32", "no elements"), ((2, 33), "Q8_0", "rows of 33"), ((1,) * 5, "F32", "5 dim")],
)
def test_what_cannot_be_written_leaves_nothing(
    value: tuple[int, ...], type_name: str, said: str, tmp_path: Path
) -> None:
    safetensors_torch.save_file({"x": torch.zeros(value)}, tmp_path / "m.safetensors")
    tensor = open_checkpoint(tmp_path / "m.safetensors")["x"]
    with pytest.raises(ConversionInputError, match=said) as caught:
        write_gguf({"x": packed(tensor, type_name)}, {}, tmp_path / "out" / "m.gguf")
    assert caught.value.tensor == "x"
    assert not (tmp_path / "out").exists()


def test_files_of_another_split_and_other_names_are_refused(source: Path, tmp_path: Path) -> None:
    write_gguf(recipes(source), METADATA, tmp_path / "m.gguf", split_max_bytes=3200)
    before = contents(tmp_path)
    with pytest.raises(ConversionInputError, match="not replace"):
        write_gguf(recipes(source), METADATA, tmp_path / "m.gguf")
    with pytest.raises(ConversionInputError, match="let it end with"):
        write_gguf(recipes(source), METADATA, tmp_path / "m.bin")
    assert contents(tmp_path) == before
