"""Outputs on their way elsewhere: the same name for the same bytes, and for no others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import GgufOptions, MergedLora, plan_conversion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def place(source: Path, kept: Path, *targets: str, **options: Any) -> str:
    return plan_conversion(source, targets or ["bf16"], keep_in=kept, **options).request.out


@pytest.fixture
def source(tmp_path: Path, small_models: Any) -> Path:
    made: Path = small_models.folder(tmp_path / "model")
    return made


def test_the_name_says_what_is_made_and_stays(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    name = os.path.basename(place(source, kept))
    assert name.startswith("bf16-")
    assert place(source, kept) == place(source, kept) == str(kept / name)
    assert place(source, tmp_path / "other") == str(tmp_path / "other" / name)
    assert place(source, kept, "fp16") != place(source, kept)
    assert place(source, kept, keep=["*norm*"]) != place(source, kept)


def weights(source: Path, beside: Path) -> None:
    path = source / "model.safetensors"
    os.utime(path, ns=(1, 1))


def configuration(source: Path, beside: Path) -> None:
    path = source / "config.json"
    before = path.stat()
    path.write_text(path.read_text().replace("float32", "float64"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def importance(source: Path, beside: Path) -> None:
    (beside / "m.imat").write_bytes(b"other")


def lora(source: Path, beside: Path) -> None:
    (beside / "lora.safetensors").write_bytes(b"other one")


@pytest.mark.parametrize("change", [weights, configuration, importance, lora])
def test_whatever_is_read_decides(
    source: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "m.imat").write_bytes(b"first")
    (beside / "lora.safetensors").write_bytes(b"first")
    options: dict[str, Any] = {
        "gguf": GgufOptions(importance=str(beside / "m.imat")),
        "loras": [MergedLora(path=str(beside / "lora.safetensors"))],
    }
    before = place(source, tmp_path / "kept", **options)
    change(source, beside)
    assert place(source, tmp_path / "kept", **options) != before


def test_a_small_file_that_is_copied_anew_is_the_same(source: Path, tmp_path: Path) -> None:
    before = place(source, tmp_path / "kept")
    os.utime(source / "tokenizer.json", ns=(1, 1))
    assert place(source, tmp_path / "kept") == before


def test_there_is_one_place(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="either out or keep_in"):
        plan_conversion(source, ["bf16"])
    with pytest.raises(TypeError, match="either out or keep_in"):
        plan_conversion(source, ["bf16"], out=tmp_path / "a", keep_in=tmp_path / "b")
