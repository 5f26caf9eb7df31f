"""A GGUF file is what its metadata say, or it is not published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import (
    GgufOptions,
    plan_conversion,
    run_conversion,
    verify_flavor,
)
from gen_worker.conversion.gguf import plan_language_model, write_gguf
from gen_worker.conversion.lazy import computed
from gen_worker.conversion.verify import VerificationError, verify_output

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("transformers")


def _other(shape: tuple[int, ...]) -> Any:
    return computed(lambda a, b: torch.ones(b - a, *shape[1:]), shape=shape, dtype="F32", of=())


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("blk.0.ffn_down.weight", (256, 64), r"is \[256, 64\], the metadata want \[256, 256\]"),
        ("blk.0.attn_k.weight", (64, 256), r"is \[64, 256\], the metadata want \[256, 256\]"),
        ("token_embd.weight", (7, 256), r"token_embd.weight is \[7, 256\], the metadata want \["),
        ("output_norm.weight", None, r"tensor output_norm.weight is missing"),
        ("blk.1.attn_q.weight", (256, 256), r"is beyond the 1 blocks that it says it has"),
        ("blk.0.mystery.weight", (4, 4), r"blk.0.mystery.weight is none of the architecture llama"),
    ],
)
def test_a_file_that_is_not_what_its_metadata_say_is_refused(
    matrix: Any, name: str, shape: tuple[int, ...] | None, said: str, tmp_path: Path
) -> None:
    plan = plan_language_model(matrix.folder, "f32", name="llama")
    tensors = dict(plan.tensors)
    if shape is None:
        del tensors[name]
    else:
        tensors[name] = _other(shape)
    file = tmp_path / "model.gguf"
    write_gguf(tensors, plan.metadata, str(file))

    with pytest.raises(VerificationError, match=said):
        verify_output(file, {"": tensors})
    # What was wrong before is the source's own affair.
    assert verify_output(file, {"": tensors}, origin=file).loaded == {}
    assert verify_output(matrix.gguf, {"": plan.tensors}).loaded == {"": "llama"}


@pytest.mark.parametrize("source", ["folder", "encoder", "gguf"])
def test_what_is_made_is_read_twice(matrix: Any, source: str, tmp_path: Path) -> None:
    options = GgufOptions() if source == "encoder" else GgufOptions(split_max_bytes=200_000)
    plan = plan_conversion(
        getattr(matrix, source), ["gguf:q8_0"], out=tmp_path / "out", gguf=options
    )
    assert plan.refusals == ()
    run_conversion(plan)

    report = verify_flavor(plan, plan.flavors[0])

    assert report.loaded == {"": "bert" if source == "encoder" else "llama"}
