"""The three shapes give the same files, which load; what is not weights goes along as it is."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from gen_worker.events import Result
from gen_worker.models.tiny import tiny_stable_diffusion
from gen_worker.runtime import Engine, Invocation
from gen_worker.runtime.local import JsonLineEvents, local_ports
from gen_worker.spec import specs_of

torch: Any = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from convert_dtype.main import Cast, cast_function, cast_handler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_stable_diffusion(tmp_path_factory.mktemp("sd") / "model"))


def files_below(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def run(function: Any, name: str, source: Path, folder: Path) -> Any:
    """Run one call as `gen-worker run` does; return what it answers."""
    ports = local_ports(events=JsonLineEvents(io.StringIO()), output_dir=str(folder))
    payload = {
        "source": {"ref": str(source)},
        "destination": {"ref": "demo/cast", "tags": ["prod"]},
        "to": ["bf16"],
    }
    call = Invocation(function=name, payload=payload, request_id="r", job_id="j")
    answer = Engine(specs_of(function), ports).run(call)
    assert isinstance(answer, Result), answer
    return answer.value


@pytest.fixture(scope="module")
def outputs(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the files of each shape are."""
    folders = {}
    shapes = (
        (cast_handler, "cast-handler"),
        (cast_function, "cast-function"),
        (Cast, "cast-class"),
    )
    for function, name in shapes:
        folder = tmp_path_factory.mktemp(name)
        run(function, name, pipeline, folder)
        [index] = folder.rglob("model_index.json")
        folders[name] = index.parent
    return folders


def test_the_three_shapes_give_the_same_files(outputs: dict[str, Path], pipeline: Path) -> None:
    handler, function, cls = (files_below(folder) for folder in outputs.values())
    assert handler == function == cls
    source = files_below(pipeline)
    proof = {"README.md", "provenance.json", "verification.json"}
    assert handler.keys() == source.keys() | proof
    changed = {name for name in source if source[name] != handler[name]}
    assert {name for name in changed if name.endswith(".safetensors")} == {
        name for name in source if name.endswith(".safetensors")
    }
    assert not any(name.startswith(("tokenizer", "scheduler")) for name in changed)


def test_what_comes_out_loads_in_its_precision(outputs: dict[str, Path], pipeline: Path) -> None:
    from diffusers import UNet2DConditionModel  # type: ignore[import-not-found,unused-ignore]

    made = UNet2DConditionModel.from_pretrained(
        str(outputs["cast-class"] / "unet"), torch_dtype=torch.bfloat16
    )
    source = UNet2DConditionModel.from_pretrained(str(pipeline / "unet"))
    for name, weight in source.state_dict().items():
        assert torch.equal(made.state_dict()[name], weight.to(torch.bfloat16)), name
