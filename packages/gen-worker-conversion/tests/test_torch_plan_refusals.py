"""What was rounded before is not converted as if it were plain, and old proof stays behind."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    load_file,
    save_file,
)

from gen_worker.conversion import Source
from gen_worker.conversion.convert import (
    ConversionPlan,
    GgufOptions,
    plan_conversion,
    run_conversion,
)
from gen_worker.conversion.provenance import Provenance, write_proof
from gen_worker.models.formats import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gen_worker.models.tiny import tiny_llama

    place = tmp_path_factory.mktemp("refusals") / "llama"
    tiny_llama(str(place))
    return place


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    from gen_worker.models.tiny import tiny_stable_diffusion

    place = tmp_path_factory.mktemp("refusals") / "pipeline"
    tiny_stable_diffusion(str(place))
    return place


def converted(source: Path, target: str, out: Path, **options: Any) -> Path:
    plan = plan_conversion(source, [target], out=out, **options)
    assert not plan.refusals
    run_conversion(plan)
    return out


def reasons(plan: ConversionPlan) -> Sequence[str]:
    return [one.reason for one in plan.refusals]


def dtypes(folder: Path, component: str = "") -> set[str]:
    return {one.dtype for one in Source(folder).checkpoints()[component].values()}


def types(path: Path) -> dict[str, str]:
    tensors = read_gguf_header(str(path)).tensors
    return {name: tensor.type_name for name, tensor in tensors.items()}


@pytest.mark.parametrize("made", ["fp8", "nf4"])
def test_a_quantised_model_is_no_source(made: str, llama: Path, tmp_path: Path) -> None:
    small = converted(llama, made, tmp_path / "small")

    for target in ("bf16", "fp8", "int8", "nf4", "gguf:q8_0"):
        plan = plan_conversion(small, [target], out=tmp_path / "out")

        [reason] = reasons(plan)
        assert f"{str(small)!r} is quantised already" in reason
        assert "convert the model that it was made of" in reason
        assert "as it is" not in reason


def test_scales_without_a_configuration_are_enough(llama: Path, tmp_path: Path) -> None:
    small = converted(llama, "fp8", tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    del config["quantization_config"]
    (small / "config.json").write_text(json.dumps(config))

    for source in (small, small / "model.safetensors"):
        [reason] = reasons(plan_conversion(source, ["bf16"], out=tmp_path / "out"))
        assert "are packed): convert the model that it was made of" in reason


def test_a_quantised_component_is_copied_or_refused(pipeline: Path, tmp_path: Path) -> None:
    small = converted(pipeline, "nf4", tmp_path / "small", components=["unet"])

    for target in ("bf16", "fp8:e4m3:storage", "gguf:q8_0"):
        [reason] = reasons(plan_conversion(small, [target], out=tmp_path / "out"))
        assert f"{str(small / 'unet')!r} is quantised already (bitsandbytes)" in reason
        assert "name the other components" in reason

    one = plan_conversion(small, ["bf16"], out=tmp_path / "file", layout="singlefile")
    assert any("is quantised already" in reason for reason in reasons(one))
    out = converted(small, "bf16", tmp_path / "bf16", components=["vae"])
    assert dtypes(out, "vae") == {"BF16"}
    assert dtypes(out, "unet") == dtypes(small, "unet")


def test_eight_bits_without_scales_are_plain_numbers(llama: Path, tmp_path: Path) -> None:
    small = converted(llama, "fp8:e4m3:storage", tmp_path / "small")
    assert "F8_E4M3" in dtypes(small)

    out = converted(small, "bf16", tmp_path / "out")

    assert dtypes(out) == {"BF16"}
    name = "model.layers.0.mlp.down_proj.weight"
    before = Source(small).checkpoints()[""][name].tensor()
    after = Source(out).checkpoints()[""][name].tensor()
    assert after.float().equal(before.float())


@pytest.mark.parametrize("target", ["int8", "nf4", "fp8", "fp8:e4m3:storage", "fp8:e5m2:storage"])
def test_numbers_of_eight_bits_are_not_quantised_again(
    target: str, llama: Path, pipeline: Path, tmp_path: Path
) -> None:
    small = converted(llama, "fp8:e4m3:storage", tmp_path / "small")
    weights = load_file(small / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    wide = {key: one.float() for key, one in weights.items() if key != name}
    save_file({**wide, name: weights[name]}, small / "model.safetensors", {"format": "pt"})

    [reason] = reasons(plan_conversion(small, [target], out=tmp_path / "out"))

    assert reason.startswith(f"{str(small)!r} is quantised already ({name!r} is F8_E4M3)")
    assert "convert the model that it was made of" in reason

    part = converted(pipeline, "fp8:e5m2:storage", tmp_path / "part", components=["unet"])
    [reason] = reasons(plan_conversion(part, [target], out=tmp_path / "out"))
    assert f"{str(part / 'unet')!r} is quantised already" in reason
    others = plan_conversion(part, [target], out=tmp_path / "out", components=["text_encoder"])
    assert not others.refusals


def test_numbers_of_eight_bits_may_be_kept(llama: Path, tmp_path: Path) -> None:
    small = converted(llama, "fp8:e4m3:storage", tmp_path / "small")

    plan = plan_conversion(small, ["bf16"], out=tmp_path / "out", keep=["*down_proj*"])

    [kept] = plan.flavors[0].components[0].kept
    assert (kept.reason, kept.tensors) == ("asked for", 2)


def test_a_folder_of_gguf_is_as_its_file(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = converted(llama, "gguf:f16", tmp_path / "whole")
    [file] = folder.glob("*.gguf")
    shutil.copy(llama / "config.json", folder)

    for target in ("bf16", "fp8"):
        [reason] = reasons(plan_conversion(folder, [target], out=tmp_path / "no"))
        assert "it has the names of llama.cpp" in reason

    of_folder = converted(folder, "gguf:q8_0", tmp_path / "a")
    of_file = converted(file, "gguf:q8_0", tmp_path / "b")
    [one], [other] = of_folder.glob("*.gguf"), of_file.glob("*.gguf")
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()

    parts = GgufOptions(split_max_bytes=25_000)
    split = converted(folder, "gguf:keep", tmp_path / "split", gguf=parts)
    assert len(list(split.glob("*.gguf"))) > 1
    [joined] = converted(split, "gguf:q8_0", tmp_path / "c").glob("*.gguf")
    assert types(joined) == types(other)


def test_old_proof_stays_behind(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    write_proof(source, Provenance(source_ref="owner/model"))
    (source / "verification.json").write_text("{}")

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out")
    run_conversion(plan)

    ours = {"README.md", "provenance.json", "verification.json"}
    there = {path.name for path in source.iterdir()}
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == there - ours
    sizes = {path.name: path.stat().st_size for path in source.iterdir()}
    others = [name for name in there - ours if not name.endswith(".safetensors")]
    assert plan.flavors[0].other_bytes == sum(sizes[name] for name in others)


def test_a_card_of_others_goes_along(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(llama, source)
    (source / "README.md").write_text("# Theirs\n")
    (source / "provenance.json").write_text('{"by": "them"}')

    out = converted(source, "bf16", tmp_path / "out")

    assert (out / "README.md").read_text() == "# Theirs\n"
    assert (out / "provenance.json").is_file()


def test_a_merge_of_quantised_weights_names_tensor_and_dtype(llama: Path, tmp_path: Path) -> None:
    from gen_worker.conversion.errors import ConversionInputError
    from gen_worker.conversion.merge import merge_models

    small = converted(llama, "fp8", tmp_path / "small")
    with pytest.raises(ConversionInputError) as caught:
        merge_models([(small, 0.5), (small, 0.5)], tmp_path / "out")

    assert "weight' is F8_E4M3 of shape [" in str(caught.value)
    assert "merge what these were made of, before it is quantised" in str(caught.value)
    assert "StoredTensor" not in str(caught.value)
