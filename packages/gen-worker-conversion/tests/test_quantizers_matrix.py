"""Every cell of the guide's table whose weights another library unpacks, through a plan."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert.cells import Cell, cells
from gen_worker.conversion.quantize import METHODS

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")
bnb: Any = pytest.importorskip("bitsandbytes.functional")
pytest.importorskip("compressed_tensors")
pytest.importorskip("torchao")

pytestmark = pytest.mark.filterwarnings("ignore")
MADE = [cell for cell in cells() if cell.extent != "none" and set(cell.layouts) - {"plain"}]
LEAST_DB = {8: 15.0, 4: 5.0}
"""Of outputs against the source's, by bits of a weight."""


def named(cell: Cell) -> str:
    return f"{cell.token} {cell.form}".replace(" ", "-")


@pytest.mark.parametrize("cell", MADE, ids=named)
def test_what_is_made_loads_and_computes_near_the_source(
    cell: Cell, matrix: Any, tmp_path: Path
) -> None:
    report = matrix.converted(cell, tmp_path / "out")

    least = LEAST_DB[int(METHODS[cell.token].bits)]
    assert report.worst is not None
    assert report.worst.snr_db >= least
    found = computed(matrix, cell, tmp_path / "out")
    named_ones = {"text_encoder"} if cell.extent == "text encoders" else found.keys()
    for name, values in found.items():
        db = matrix.snr_db(values, matrix.expected[name])
        assert db >= least, (name, db)
        assert (db == math.inf) == (name not in named_ones), name


def computed(matrix: Any, cell: Cell, path: Path) -> dict[str, Any]:
    """Return what the libraries make of an output, by component."""
    if cell.form == "folder":
        found: dict[str, Any] = matrix.computed(matrix.parts("folder", path))
        return found
    text_encoder = transformers.CLIPTextModel.from_pretrained(path / "text_encoder")
    parts = {"unet": denoiser(cell, path / "unet"), "text_encoder": text_encoder}
    return dict(matrix.computed(parts))


def denoiser(cell: Cell, folder: Path) -> Any:
    if "bitsandbytes" not in cell.layouts:
        return diffusers.UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    # diffusers takes these to a GPU only; what the library itself unpacks is the same there.
    config = diffusers.UNet2DConditionModel.load_config(folder)
    config = {key: value for key, value in config.items() if key != "quantization_config"}
    model = diffusers.UNet2DConditionModel.from_config(config)
    model.load_state_dict(unpacked(folder / "diffusion_pytorch_model.safetensors"))
    return model


def unpacked(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    stored = load_file(file)
    states = [name for name in stored if ".quant_state.bitsandbytes__" in name]
    for state in states:
        weight = state.partition(".quant_state.")[0]
        parts = {
            n.removeprefix(f"{weight}."): stored[n] for n in stored if n.startswith(f"{weight}.")
        }
        made = bnb.QuantState.from_dict(parts, device=torch.device("cpu"))
        stored[weight] = bnb.dequantize_4bit(stored[weight], made)
    return {name: one for name, one in stored.items() if ".weight." not in name}
