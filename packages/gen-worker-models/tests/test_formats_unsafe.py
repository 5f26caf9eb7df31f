"""Weights that can run code are refused by name and by content, wherever the model came from."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import classify
from gen_worker.models.formats import (
    UNSAFE_SUFFIXES,
    UnsafeFileFormat,
    WrongFormatError,
    assert_loadable,
    assert_safe_weight_format,
    check_weight_formats,
    content_of,
    weight_files,
)

if TYPE_CHECKING:
    from pathlib import Path

EMPTY_SAFETENSORS = b"\x02" + bytes(7) + b"{}"
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".keras",
           ".nemo", ".msgpack")  # fmt: skip


def put(root: Path, *names: str, size: int = 10) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(EMPTY_SAFETENSORS if name.endswith(".safetensors") else bytes(size))


@pytest.mark.parametrize("suffix", REFUSED)
def test_a_model_in_an_unsafe_format_is_refused(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, "config.json", f"sub/model{suffix}")
    with pytest.raises(UnsafeFileFormat, match="safetensors") as caught:
        assert_safe_weight_format(tmp_path, "acme/model")
    assert caught.value.files == (f"sub/model{suffix}",)
    assert caught.value.ref == "acme/model"
    assert "'acme/model'" in str(caught.value)
    assert classify(caught.value, origin="input").error_type == "validation"


def test_the_largest_file_is_named(tmp_path: Path) -> None:
    put(tmp_path, "small.bin", size=10)
    put(tmp_path, "LARGE.BIN", size=100)
    with pytest.raises(UnsafeFileFormat, match=r"'LARGE\.BIN' and 1 more"):
        assert_safe_weight_format(str(tmp_path))


def test_a_mixed_model_and_one_without_weights_pass(tmp_path: Path) -> None:
    assert_safe_weight_format(tmp_path)
    put(tmp_path, "config.json")
    assert_safe_weight_format(tmp_path)
    put(tmp_path, "model.safetensors", "pytorch_model.bin")
    assert_safe_weight_format(tmp_path)
    assert check_weight_formats(tmp_path).unsafe == ("pytorch_model.bin",)


@pytest.mark.parametrize("suffix", sorted(UNSAFE_SUFFIXES))
def test_an_unsafe_file_of_a_mixed_model_is_never_loaded(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", f"model{suffix.upper()}")
    assert_loadable(tmp_path / "model.safetensors")
    with pytest.raises(UnsafeFileFormat, match="is not loaded"):
        assert_loadable(tmp_path / f"model{suffix.upper()}")


def test_names_promise_nothing(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.gguf", "model.weights", "model"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(UnsafeFileFormat, match="a pickle under the name"):
            assert_loadable(path)
    html = tmp_path / "page.safetensors"
    html.write_bytes(b"  <html>403</html>")
    with pytest.raises(WrongFormatError, match="web page"):
        assert_loadable(html)
    assert content_of(str(html)) == "html"
    plain = tmp_path / "config.json"
    plain.write_bytes(b"{}")
    assert_loadable(plain)


def pipeline(root: Path, **components: object) -> None:
    root.joinpath("model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", **components})
    )


def test_a_component_with_unsafe_weights_only_is_refused(tmp_path: Path) -> None:
    pipeline(tmp_path, unet=["diffusers", "UNet"], text_encoder=["transformers", "CLIPTextModel"])
    put(tmp_path, "unet/model.safetensors", "unet/model.bin", "original/consolidated.00.pth")
    put(tmp_path, "text_encoder/config.json")
    found = check_weight_formats(tmp_path)
    assert found.unsafe == ("original/consolidated.00.pth", "unet/model.bin")
    put(tmp_path, "text_encoder/pytorch_model.bin")
    assert_safe_weight_format(tmp_path)
    with pytest.raises(UnsafeFileFormat, match="component 'text_encoder'"):
        check_weight_formats(tmp_path)


def test_python_that_came_along_is_seen_and_harmless_while_nothing_needs_it(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", "modeling_x.py")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_x.X"}}')
    assert check_weight_formats(tmp_path).code == ("modeling_x.py",)
    with pytest.raises(UnsafeFileFormat):
        assert_loadable(tmp_path / "modeling_x.py")


@pytest.mark.parametrize("place", ["pipeline.py", "scheduler/my_scheduler.py"])
def test_a_class_of_the_model_itself_is_refused(place: str, tmp_path: Path) -> None:
    put(tmp_path, "unet/model.safetensors", place)
    pipeline(tmp_path, scheduler=["my_scheduler", "Mine"])
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", "Mine"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeFileFormat, match="needs Python that it brings") as caught:
        check_weight_formats(tmp_path, "acme/model")
    assert caught.value.files == (place,)


@pytest.mark.parametrize("name", ["cozy.pipeline.yaml", "cozy.pipeline.lock.yaml"])
def test_a_custom_pipeline_path_is_refused(name: str, tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors")
    for value in (" code", "\n    code", " >\n    code", " null\n    code.custom_pipeline_path: x"):
        (tmp_path / name).write_text(f"pipe:\n  custom_pipeline_path:{value}\n")
        with pytest.raises(UnsafeFileFormat, match="custom pipeline"):
            check_weight_formats(tmp_path)


@pytest.mark.parametrize("value", [" null", " ~", " ''", '  "" # none'])
def test_an_empty_custom_pipeline_path_is_none(value: str, tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors")
    text = f"pipe:\n  custom_pipeline_path:{value}\n  class: X\n"
    (tmp_path / "cozy.pipeline.yaml").write_text(text)
    check_weight_formats(tmp_path)


def test_what_is_behind_links_counts(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "model.bin")
    model = tmp_path / "model"
    model.mkdir()
    os.symlink(tmp_path / "elsewhere", model / "part")
    os.symlink(model, model / "loop")
    os.symlink(tmp_path / "absent", model / "dangling.bin")
    assert weight_files(str(model)).unsafe == ("part/model.bin", "dangling.bin")
