"""A checkpoint of several processes is read by as many, by fewer and by more, bit for bit."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gen_worker.trainer.distributed.launch import launch

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.one_python

_PARALLEL = ("fsdp", "ddp")
_STATES = Path(__file__).with_name("rank_states.py")


class Told:
    """What the scenes said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def play(self, size: int, *scenes: str) -> None:
        argv = [sys.executable, str(_STATES), str(self.directory), *scenes]
        if size > 1:
            assert launch(argv, size, grace_s=300) == 0
        else:
            subprocess.run(argv, check=True)

    def of(self, scene: str, size: int = 2) -> list[dict[str, Any]]:
        paths = [self.directory / f"{scene}.{size}.{rank}" for rank in range(size)]
        return [json.loads(path.read_text()) for path in paths]

    def files(self, kept: str) -> Path:
        return self.directory / kept / "step-00000003" / "training_state"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    told = Told(tmp_path_factory.mktemp("states"))
    told.play(1, "keep-none")
    loads = [f"load-{one}-{other}" for one in _PARALLEL for other in _PARALLEL]
    told.play(2, "keep-fsdp", "keep-ddp", *loads, "load-none-fsdp", "load-none-ddp")
    told.play(1, "load-fsdp-none", "load-ddp-none")
    return told


@pytest.mark.parametrize("into", _PARALLEL)
@pytest.mark.parametrize("kept", _PARALLEL)
def test_as_many_have_what_each_had(told: Told, kept: str, into: str) -> None:
    before = told.of(f"keep-{kept}")

    assert told.of(f"load-{kept}-{into}") == before

    assert [one["rank"] for one in before] == [0, 1]
    assert before[0]["drawn"] != before[1]["drawn"]
    assert before[0]["hashes"] == before[1]["hashes"]


@pytest.mark.parametrize("kept", _PARALLEL)
def test_one_has_what_two_had_together(told: Told, kept: str) -> None:
    assert told.of(f"load-{kept}-none", size=1) == told.of(f"keep-{kept}")[:1]


@pytest.mark.parametrize("into", _PARALLEL)
def test_two_have_what_one_had(told: Told, into: str) -> None:
    before = told.of("keep-none", size=1)[0]

    after = told.of(f"load-none-{into}")

    assert [one["hashes"] for one in after] == [before["hashes"]] * 2
    names = sorted(path.name for path in told.files("none").iterdir())
    assert names == ["ema.safetensors", "model.safetensors", "state.json", "state.safetensors"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_each_writes_its_part_and_torch_reads_all_of_them(told: Told) -> None:
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    folder = told.files("fsdp") / "model"
    hashes = told.of("keep-fsdp")[0]["hashes"]
    kept = {name[6:]: one for name, one in hashes.items() if name.startswith("model ")}
    weights = {}
    for name, text in kept.items():
        dtype, shape = text.rpartition(" ")[0].split(" ", 1)
        weights[name] = torch.zeros(json.loads(shape), dtype=getattr(torch, dtype[6:]))
    dcp.load(weights, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)

    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 2 * min(sizes)
    for name, weight in weights.items():
        body = weight.reshape(-1).view(torch.uint8).numpy().tobytes()
        assert blake3(body).hexdigest() == kept[name].rpartition(" ")[2], name


@pytest.mark.parametrize("kept", _PARALLEL)
def test_nothing_is_pickled(told: Told, kept: str) -> None:
    files = [path for path in (told.directory / kept).rglob("*") if path.is_file()]

    assert {path.suffix for path in files if path.name != ".lock"} == {".json", ".safetensors"}
