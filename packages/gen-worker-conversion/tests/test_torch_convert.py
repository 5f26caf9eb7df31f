"""Plans carried out: the right bytes, all files, nothing half visible, and on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cancel import CancelToken
from gen_worker.conversion.convert import Progress, plan_conversion, run_conversion
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.errors import CanceledError

if TYPE_CHECKING:
    from pathlib import Path

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def files_below(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_pipeline_is_cast_and_everything_else_goes_along(
    tmp_path: Path, small_models: Any
) -> None:
    source = small_models.pipeline(tmp_path / "model")
    before = files_below(source)
    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", components=["unet"])

    result = run_conversion(plan)

    out = tmp_path / "out"
    made = files_below(out)
    assert made.keys() == before.keys()
    changed = {name for name in made if made[name] != before[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors"}
    weights = safetensors_torch.load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert weights["a.weight"].dtype is torch.bfloat16
    assert weights["a.weight"].eq(1.0).all()
    assert [flavor.path for flavor in result.flavors] == [str(out)]
    [file] = result.files["bf16"]
    assert file.path == "unet/diffusion_pytorch_model.safetensors"
    assert file.size_bytes == len(made[file.path])
    assert files_below(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_each_of_several_outputs_says_its_precision(tmp_path: Path, small_models: Any) -> None:
    source = small_models.folder(tmp_path / "model")
    plan = plan_conversion(source, ["bf16", "fp16"], out=tmp_path / "out")

    run_conversion(plan)

    for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        folder = tmp_path / "out" / name
        assert sorted(files_below(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert json.loads((folder / "config.json").read_text())["torch_dtype"] == dtype


def test_progress_counts_up_to_the_size_of_the_plan(tmp_path: Path, small_models: Any) -> None:
    plan = plan_conversion(
        small_models.pipeline(tmp_path / "m"), ["bf16", "fp32"], out=tmp_path / "out"
    )
    seen: list[Progress] = []

    run_conversion(plan, progress=seen.append)

    done = [one.done_bytes for one in seen]
    assert done == sorted(done)
    assert {one.total_bytes for one in seen} == {plan.size_bytes}
    assert done[-1] <= plan.size_bytes
    assert {(one.flavor, one.component) for one in seen} == {
        *(("bf16", "unet"), ("bf16", "vae"), ("fp32", "unet"), ("fp32", "vae"))
    }


def test_a_second_run_of_a_canceled_one_keeps_what_was_finished(
    tmp_path: Path, small_models: Any
) -> None:
    source = small_models.pipeline(tmp_path / "model")
    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out")
    token = CancelToken()

    def stop(progress: Progress) -> None:
        if progress.component == "vae":
            token.cancel("caller")

    with pytest.raises(CanceledError):
        run_conversion(plan, progress=stop, token=token)
    assert not (tmp_path / "out").exists()

    again = plan_conversion(source, ["bf16"], out=tmp_path / "out")
    result = run_conversion(again)

    assert result.resumed >= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
    other = plan_conversion(source, ["bf16"], out=tmp_path / "fresh")
    run_conversion(other, journal=False)
    assert files_below(tmp_path / "fresh") == files_below(tmp_path / "out")


def test_what_another_conversion_left_is_not_taken(tmp_path: Path, small_models: Any) -> None:
    source = small_models.pipeline(tmp_path / "model")
    first = plan_conversion(source, ["bf16"], out=tmp_path / "out")
    token = CancelToken()

    def stop(_progress: Progress) -> None:
        token.cancel("caller")

    with pytest.raises(CanceledError):
        run_conversion(first, progress=stop, token=token)

    result = run_conversion(plan_conversion(source, ["fp16"], out=tmp_path / "out"))

    assert result.resumed == 0
    weights = safetensors_torch.load_file(
        tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert weights["a.bias"].dtype is torch.float16


def test_a_failure_leaves_nothing(tmp_path: Path, small_models: Any) -> None:
    source = small_models.pipeline(tmp_path / "model")
    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out")
    (source / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"gone")

    with pytest.raises(Exception, match=r"diffusion_pytorch_model\.safetensors"):
        run_conversion(plan)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_two_at_once_do_not_write_into_each_other(tmp_path: Path, small_models: Any) -> None:
    plan = plan_conversion(
        small_models.pipeline(tmp_path / "model"), ["bf16"], out=tmp_path / "out"
    )
    refused: list[str] = []

    def meanwhile(_progress: Progress) -> None:
        if not refused:
            with pytest.raises(ConversionInputError, match="another process converts") as caught:
                run_conversion(plan)
            refused.append(str(caught.value))

    run_conversion(plan, progress=meanwhile)

    assert refused
    assert (tmp_path / "out" / "model_index.json").is_file()


_KILLED = """
import os, signal, sys
from gen_worker.conversion.convert import plan_conversion, run_conversion

def die(progress):
    if progress.done_bytes > progress.total_bytes // 2:
        os.kill(os.getpid(), signal.SIGKILL)

plan = plan_conversion(sys.argv[1], ["bf16"], out=sys.argv[2], max_shard_bytes=4096)
run_conversion(plan, progress=die)
"""


def test_a_killed_conversion_goes_on_at_the_file_it_was_at(
    tmp_path: Path, small_models: Any
) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(
        small_models.file({f"layer.{number}": ("F32", [1024]) for number in range(16)})
    )
    command = [sys.executable, "-c", _KILLED, str(source), str(tmp_path / "out")]
    killed = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out").exists()

    plan = plan_conversion(source, ["bf16"], out=tmp_path / "out", max_shard_bytes=4096)
    result = run_conversion(plan)

    shards = [name for name in os.listdir(tmp_path / "out") if name.endswith(".safetensors")]
    assert len(shards) == 8
    assert 3 <= result.resumed <= 5
    names = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(names["weight_map"]) == 16


def test_a_quantised_output_tells_its_loaders_how(tmp_path: Path, small_models: Any) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    tensors = {"model.layers.0.q.weight": ("F32", [64, 64]), "model.norm.weight": ("F32", [64])}
    (source / "model.safetensors").write_bytes(small_models.file(tensors))
    plan = plan_conversion(source, ["fp8"], out=tmp_path / "out")

    [flavor] = run_conversion(plan).flavors

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (flavor.flavor, flavor.attributes["quantization_method"]) == ("fp8", "fp8:e4m3")
    [part] = plan.flavors[0].components
    assert (part.action, part.kept[0].example) == ("quantize", "model.norm.weight")
    weights = safetensors_torch.load_file(tmp_path / "out" / "model.safetensors")
    assert weights["model.layers.0.q.weight"].dtype is torch.float8_e4m3fn
    assert weights["model.norm.weight"].dtype is torch.float32
    assert sum(tensor.nbytes for tensor in weights.values()) == part.size_bytes


def test_a_language_model_becomes_one_gguf_file(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from gen_worker.models.formats import read_gguf_header
    from gen_worker.models.tiny import tiny_llama

    source = tmp_path / "tiny"
    tiny_llama(source)
    (source / "LICENSE").write_text("free")
    plan = plan_conversion(source, ["gguf:q8_0"], out=tmp_path / "out")

    result = run_conversion(plan)

    assert sorted(files_below(tmp_path / "out")) == ["LICENSE", "tiny-Q8_0.gguf"]
    header = read_gguf_header(str(tmp_path / "out" / "tiny-Q8_0.gguf"))
    assert header.metadata["general.architecture"] == "llama"
    [part] = plan.flavors[0].components
    assert (part.action, part.tensors) == ("gguf", len(header.tensors))
    assert sum(one.end - one.start for one in header.tensors.values()) == part.size_bytes
    assert result.flavors[0].attributes == {
        "quantization_method": "q8_0",
        "quantization_library": "llama-cpp",
    }
    again = plan_conversion(tmp_path / "out" / "tiny-Q8_0.gguf", ["bf16"], out=tmp_path / "other")
    assert "names of llama.cpp" in again.refusals[0].reason
