"""A single file loads: it is proven of outputs, and asked of sources before they are converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import plan_conversion, run_conversion, verify_flavor
from gen_worker.conversion.verify import VerificationError, verify_output

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
_LOADED = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}
_PROJECTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def _changed(file: Path, out: Path, name: str, shape: tuple[int, ...] | None) -> Path:
    """Write a file with a tensor of another shape, or without it."""
    tensors = safetensors_torch.load_file(file)
    if shape is None:
        del tensors[name]
    else:
        assert tensors[name].shape != shape
        tensors[name] = torch.ones(shape)
    safetensors_torch.save_file(tensors, out, {"format": "pt"})
    return out


def _reasons(source: Path, out: Path) -> str:
    plan = plan_conversion(source, ["fp16", "int8"], out=out, layout="diffusers")
    assert len(plan.refusals) == (1 if plan.refusals else 0)
    return "".join(one.reason for one in plan.refusals)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        (
            _PROJECTION,
            (64, 96),
            "tensor down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight is [64, 96], "
            "it wants [64, 128]",
        ),
        (
            "first_stage_model.decoder.norm_out.weight",
            (16,),
            "tensor decoder.conv_norm_out.weight is [16], it wants [32]",
        ),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight",
            (64, 128),
            "mlp.fc1.weight is [64, 128], it wants [128, 128]",
        ),
    ],
)
def test_a_plan_refuses_sizes_that_fit_no_pipeline(
    matrix: Any, name: str, shape: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    file = _changed(matrix.file, tmp_path / "model.safetensors", name, shape)

    assert said in _reasons(file, tmp_path / "out")
    assert _reasons(matrix.file, tmp_path / "out") == ""


def test_widths_are_looked_at_without_any_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gen_worker.conversion.layout import diffusers_to_singlefile
    from gen_worker.models.tiny import tiny_stable_diffusion_xl

    pipeline, file = tmp_path / "pipeline", tmp_path / "model.safetensors"
    tiny_stable_diffusion_xl(pipeline)
    diffusers_to_singlefile(pipeline, file, dtype="")
    monkeypatch.setattr("gen_worker.conversion.convert.fitting.find_spec", lambda _name: None)

    told = _reasons(file, tmp_path / "out")

    assert "tensor text_encoder/text_model.embeddings.token_embedding.weight is [" in told
    assert "it wants a multiple of 64 columns" in told
    assert "tensor vae/encoder.down_blocks.0.resnets.0.norm2.weight is [4], it wants" in told


@pytest.mark.parametrize(
    ("form", "target"),
    [("file", "bf16"), ("file", "fp8:e4m3:storage"), ("pipeline to file", "bf16")],
)
def test_single_files_are_made_on_the_meta_device(
    matrix: Any, form: str, target: str, tmp_path: Path
) -> None:
    source, layout = matrix.of(form)
    plan = plan_conversion(source, [target], out=tmp_path / "out", layout=layout)
    assert plan.refusals == ()
    run_conversion(plan)

    report = verify_flavor(plan, plan.flavors[0])

    assert report.loaded == _LOADED


def test_a_file_that_diffusers_would_not_load_is_not_published(matrix: Any, tmp_path: Path) -> None:
    """The recipes say the same as the file, as they would if a table of names were wrong."""
    name = "model.diffusion_model.out.2.bias"
    lost = _changed(matrix.file, tmp_path / "lost.safetensors", name, None)
    other = _changed(matrix.file, tmp_path / "other.safetensors", _PROJECTION, (64, 96))

    for file, said in (
        (lost, r"unet \(UNet2DConditionModel\): tensor conv_out\.bias is missing"),
        (other, r"attn2\.to_k\.weight is \[64, 96\], it wants \[64, 128\]"),
    ):
        with pytest.raises(VerificationError, match=said):
            verify_output(file, file, origin=matrix.pipeline)
        # What the source has not either is its own affair: such a file may be cast.
        assert "unet" not in verify_output(file, file).loaded
    assert verify_output(matrix.file, matrix.file, origin=matrix.pipeline).loaded == _LOADED
