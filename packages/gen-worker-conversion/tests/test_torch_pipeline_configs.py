"""One file becomes a pipeline that loads: another pipeline gives what the file has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.convert import plan_conversion, run_conversion, verify_flavor
from gen_worker.conversion.layout import diffusers_to_singlefile
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.models.tiny import tiny_flux

diffusers: Any = pytest.importorskip("diffusers")
torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_flux(tmp_path_factory.mktemp("flux") / "model"))


@pytest.fixture(scope="module")
def file(pipeline: Path) -> Path:
    place = pipeline.parent / "model.safetensors"
    diffusers_to_singlefile(pipeline, place, dtype="")
    return place


def weights(place: Path) -> dict[str, Any]:
    """Return tensors by names that all versions of transformers have."""
    opened = open_checkpoint(place)
    return {name.removeprefix("text_model."): opened[name].tensor() for name in opened}


def test_a_pipeline_of_the_same_model_gives_what_a_file_has_not(
    file: Path, pipeline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = plan_conversion(file, ["fp32"], out=out, layout="diffusers", configs=pipeline)

    assert not plan.refusals
    assert plan.flavors[0].notes == ()
    run_conversion(plan)
    verify_flavor(plan, plan.flavors[0])

    made = diffusers.FluxPipeline.from_pretrained(out, local_files_only=True)
    assert made.tokenizer is not None
    assert made.tokenizer_2 is not None
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = weights(out / name), weights(pipeline / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    index = json.loads((out / "model_index.json").read_text())
    assert index == json.loads((pipeline / "model_index.json").read_text())
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    headers = 64 << 10
    assert plan.size_bytes <= total <= plan.size_bytes + headers


def test_without_one_what_will_be_missing_is_told() -> None:
    from gen_worker.conversion.convert.outputs import _lacking
    from gen_worker.conversion.layout.configs import PipelineConfig
    from gen_worker.conversion.layout.single_file import UnpackedPipeline

    config = PipelineConfig({}, {}, ("tokenizer",))
    lacking = UnpackedPipeline("sd15", {}, config, ("model_ema.decay", "x"), (), ("vae",))

    needs, extra = _lacking(lacking)
    assert needs.startswith("vae, tokenizer will be missing")
    assert "--configs" in needs
    assert extra.startswith("2 tensors of the file will be left out, such as model_ema.decay")


def test_where_nothing_becomes_a_pipeline_it_is_refused(
    pipeline: Path, tmp_path: Path, small_models: Any
) -> None:
    model = small_models.folder(tmp_path / "m")

    plan = plan_conversion(model, ["bf16"], out=tmp_path / "out", configs=pipeline)

    assert "only a file that becomes a pipeline" in plan.refusals[0].reason


def test_a_folder_that_is_no_pipeline_is_refused(file: Path, tmp_path: Path) -> None:
    plan = plan_conversion(
        file, ["bf16"], out=tmp_path / "out", layout="diffusers", configs=tmp_path
    )

    assert "model_index.json' is no configuration" in plan.refusals[-1].reason
