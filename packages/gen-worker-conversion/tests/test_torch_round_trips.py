"""There and back through plans: the same tensors where nothing is rounded, else within a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from gen_worker.conversion import Source
from gen_worker.conversion.convert import plan_conversion, run_conversion, verify_flavor
from gen_worker.conversion.gguf import transformers_weights

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),  # of torchao, when compiled
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]


class Trip(NamedTuple):
    source: str
    there: dict[str, Any]
    back: dict[str, Any]
    token: str = "fp32"
    step: float = 0.0
    """How far a value may be away, as a share of its own magnitude."""


TRIPS = {
    "pipeline and single file": Trip("pipeline", {"layout": "singlefile"}, {"layout": "diffusers"}),
    "single file and pipeline": Trip("file", {"layout": "diffusers"}, {"layout": "singlefile"}),
    "one file and shards": Trip("folder", {"max_shard_bytes": 300_000}, {"layout": "singlefile"}),
    "shards of other sizes": Trip(
        "folder", {"max_shard_bytes": 300_000}, {"max_shard_bytes": 700_000}
    ),
    "parts of a pipeline in shards": Trip("pipeline", {"max_shard_bytes": 50_000}, {}),
    "bf16": Trip("folder", {}, {}, "bf16", 2.0**-8),
    "fp16": Trip("pipeline", {}, {}, "fp16", 2.0**-10),
}


def converted(source: Path, token: str, out: Path, **options: Any) -> Path:
    plan = plan_conversion(source, [token], out=out, **options)
    result = run_conversion(plan)
    report = verify_flavor(plan, plan.flavors[0])
    if token == "fp32":
        assert report.worst is None
    files = [file for files in result.files.values() for file in files]
    sizes = {path.name: path.stat().st_size for path in out.rglob("*.safetensors")}
    assert {file.path.rpartition("/")[2] for file in files} >= set(sizes)
    return out


def tensors(path: Path) -> dict[str, Any]:
    """Return all of them; the names of a CLIP have a beginning that newer libraries leave out."""
    if path.is_dir() and not (path / "config.json").exists():
        files = list(path.glob("*.safetensors"))
        path = files[0] if files else path
    found = Source(path).state_dict()
    return {
        name.replace("text_encoder.text_model.", "text_encoder."): found[name] for name in found
    }


@pytest.mark.parametrize("name", TRIPS)
def test_there_and_back(name: str, matrix: Any, tmp_path: Path) -> None:
    trip = TRIPS[name]
    source = getattr(matrix, trip.source)
    there = converted(source, trip.token, tmp_path / "there", **trip.there)
    [*files] = there.glob("*.safetensors")
    is_single = trip.there.get("layout") == "singlefile"
    start = files[0] if is_single else there
    back = converted(start, "fp32", tmp_path / "back", **trip.back)

    expected, found = tensors(source), tensors(back)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if trip.step:
            assert bool(((found[key] - value).abs() <= value.abs() * trip.step + 1e-7).all()), key
        else:
            assert torch.equal(found[key], value), key


def test_numbers_in_a_gguf_file_are_those_of_the_model(matrix: Any, tmp_path: Path) -> None:
    out = converted(matrix.folder, "gguf:f32", tmp_path / "out")
    [file] = out.glob("*.gguf")
    found = transformers_weights(file)
    for key, value in tensors(matrix.folder).items():
        assert torch.equal(found[key].tensor(), value), key


def test_shards_are_as_large_as_is_asked_and_one_file_as_whole(matrix: Any, tmp_path: Path) -> None:
    parts = converted(matrix.folder, "fp32", tmp_path / "parts", max_shard_bytes=300_000)
    assert (parts / "model.safetensors.index.json").is_file()
    assert len(list(parts.glob("*.safetensors"))) > 4
    one = converted(parts, "fp32", tmp_path / "one", layout="singlefile")
    assert [path.name for path in one.glob("model*")] == ["model.safetensors"]
    same = converted(matrix.folder, "fp32", tmp_path / "same")
    assert (one / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
