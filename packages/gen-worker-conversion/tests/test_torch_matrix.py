"""Every cell of the guide's tables: made by a plan, verified, loaded by its library, or refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import plan_conversion
from gen_worker.conversion.convert.cells import Cell, cells

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
gguf: Any = pytest.importorskip("gguf")
pytest.importorskip("diffusers")
transformers: Any = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),  # of torchao, when compiled
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]

MADE = [cell for cell in cells() if cell.extent != "none" and not set(cell.layouts) - {"plain"}]
"""What no other library than torch, diffusers, transformers and gguf is needed for."""
PLAIN = [cell for cell in MADE if not cell.token.startswith("gguf:")]
BLOCKS = [cell for cell in MADE if cell.token.startswith("gguf:")]
REFUSED = [cell for cell in cells() if cell.extent == "none"]
LEAST_DB = {"fp32": math.inf, "fp16": 60.0, "bf16": 40.0, "fp8:e4m3": 18.0, "fp8:e5m2": 12.0}
"""Of outputs against the source's, by precision: about 6 dB a bit, less what layers add up."""
LEAST_GGUF_DB = {"32": math.inf, "16": 40.0, "8": 30.0, "6": 22.0, "5": 17.0, "4": 11.0, "3": 6.0}
LEAST_GGUF_DB |= {"2": 2.0}
"""By bits of most weights."""


def named(cell: Cell) -> str:
    return f"{cell.token} {cell.form}".replace(" ", "-")


@pytest.mark.parametrize("cell", PLAIN, ids=named)
def test_what_is_made_loads_and_computes_near_the_source(
    cell: Cell, matrix: Any, tmp_path: Path
) -> None:
    report = matrix.converted(cell, tmp_path / "out")
    parts = matrix.parts(cell.form, tmp_path / "out")

    least = LEAST_DB[cell.token.removesuffix(":storage")]
    assert (report.worst is None) == (least == math.inf)
    found = matrix.computed(parts)
    assert found.keys() == ({""} if cell.form == "folder" else {"unet", "text_encoder"})
    for name, values in found.items():
        assert matrix.snr_db(values, matrix.expected[name]) >= least, name


@pytest.mark.parametrize("cell", BLOCKS, ids=named)
def test_readers_of_gguf_find_what_was_packed(cell: Cell, matrix: Any, tmp_path: Path) -> None:
    report = matrix.converted(cell, tmp_path / "out")

    [file] = (tmp_path / "out").glob("*.gguf")
    bits = "".join(filter(str.isdigit, cell.token.partition("_")[0]))
    least = LEAST_GGUF_DB[bits]
    assert (report.worst is None) == (bits == "32")
    errors = {one.name: one.snr_db for one in report.tensors}
    read = gguf.GGUFReader(file).tensors
    assert {one.name for one in read} == errors.keys()
    assert min(db if db is not None else math.inf for db in errors.values()) >= least
    if cell.form != "pipeline":
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        assert matrix.snr_db(matrix.logits(model), matrix.expected[""]) >= least - 4


@pytest.mark.parametrize("cell", REFUSED, ids=named)
def test_what_is_not_made_is_refused_by_name_and_reason(
    cell: Cell, matrix: Any, tmp_path: Path
) -> None:
    [refusal] = matrix.plan(cell, tmp_path / "out").refusals

    assert refusal.target == cell.token
    assert "needs data" in refusal.reason if cell.is_calibrated else cell.reason in refusal.reason


@pytest.mark.parametrize("token", ["f32", "f16", "bf16"])
def test_a_sentence_encoder_keeps_its_numbers(token: str, matrix: Any, tmp_path: Path) -> None:
    report = matrix.finished(
        plan_conversion(matrix.encoder, [f"gguf:{token}"], out=tmp_path / "out")
    )

    least = LEAST_GGUF_DB[token[-2:]]
    assert (report.worst.snr_db if report.worst else math.inf) >= least
    [file] = (tmp_path / "out").glob("*.gguf")
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.architecture").contents() == "bert"
    assert len(reader.tensors) == len(report.tensors)
