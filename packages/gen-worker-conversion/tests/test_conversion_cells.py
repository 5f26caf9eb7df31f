"""The tables leave no target and no kind of source out, and what is in none is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest

from gen_worker.conversion.cast import CAST_DTYPES, cast_code
from gen_worker.conversion.convert import plan_conversion
from gen_worker.conversion.convert.cells import CASTS, FORMS, cells, refused_names
from gen_worker.conversion.gguf.types import WRITTEN
from gen_worker.conversion.quantize.methods import LOADERS, METHODS, Layout

if TYPE_CHECKING:
    from pathlib import Path


def test_every_target_and_every_kind_of_source_is_a_cell() -> None:
    found = [(cell.token, cell.form) for cell in cells()]

    whole = {(token, form) for token in (*CASTS, *METHODS) for form in FORMS}
    kept = [form for form in FORMS if " to " not in form]
    whole |= {(f"gguf:{token}", form) for token in WRITTEN for form in kept}
    assert set(found) == whole
    assert len(found) == len(whole)
    assert {cast_code(token) for token in CASTS} == set(CAST_DTYPES.values())


def test_a_cell_is_made_or_says_why_not() -> None:
    for cell in cells():
        assert (cell.extent == "none") == bool(cell.reason), cell
        assert not cell.layouts or cell.token in METHODS
    made = {layout for cell in cells() for layout in cell.layouts}
    assert made == set(get_args(Layout)) == set(LOADERS)


@pytest.mark.parametrize("name", refused_names())
def test_what_no_table_has_is_refused_by_its_name(
    name: str, tmp_path: Path, small_models: Any
) -> None:
    plan = plan_conversion(small_models.folder(tmp_path / "m"), [name], out=tmp_path / "out")

    [refusal] = plan.refusals
    assert name.removeprefix("gguf:") in refusal.reason
