"""`gen-worker convert` of LoRAs, and with LoRAs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cli.converting.loras import scaled_path
from gen_worker.cli.failures import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}
MODULE = "mid_block.attentions.0.to_q"


def write_lora(path: Path, module: str = MODULE) -> None:
    tensors = {
        f"unet.{module}.lora.down.weight": torch.ones(2, 4),
        f"unet.{module}.lora.up.weight": torch.ones(3, 2),
    }
    safetensors_torch.save_file(tensors, path)


def write_pipeline(folder: Path) -> None:
    (folder / "unet").mkdir(parents=True)
    weights = {f"{MODULE}.weight": torch.zeros(3, 4), "other.weight": torch.zeros(2, 2)}
    safetensors_torch.save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def events(stdout: str) -> dict[str, Any]:
    return {event["kind"]: event for event in map(json.loads, stdout.splitlines())}


@pytest.mark.claims("convert.lora")
def test_loras_are_merged_as_the_plan_says(cli: Cli) -> None:
    write_pipeline(cli.folder / "model")
    write_lora(cli.folder / "style.safetensors")

    words = ("convert", "model", "--to", "bf16", "--out", "out", "--verify")
    done = cli(
        *words, "--lora", "style.safetensors:0.5", "--lora", "style.safetensors", **ENVIRONMENT
    )

    assert done.code == 0, done.stderr
    told = events(done.stdout)
    [part] = told["convert.plan"]["flavors"][0]["components"]
    assert (part["merged"], part["changed"], part["tensors"]) == (1, 2, 2)
    assert told["convert.verified"]["exact_tensors"] == 2
    file = cli.folder / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    made = safetensors_torch.load_file(file)
    assert made[f"{MODULE}.weight"].eq(2 * 0.5 + 2).all()
    assert not made["other.weight"].any()


def test_a_lora_that_does_not_fit_is_one_line(cli: Cli) -> None:
    write_pipeline(cli.folder / "model")
    write_lora(cli.folder / "other.safetensors", "mid_block.attentions.7.to_q")

    done = cli(
        *("convert", "model", "--to", "bf16", "--lora", "other.safetensors", "--out", "out"),
        **ENVIRONMENT,
    )

    assert done.code == 2
    assert "mid_block.attentions.7.to_q are in an adapter and not in the model" in done.stderr
    assert not (cli.folder / "out").exists()


@pytest.mark.claims("convert.lora-format")
def test_a_lora_takes_another_format(cli: Cli) -> None:
    write_lora(cli.folder / "style.safetensors")

    words = ("convert", "style.safetensors", "--to", "bf16", "--out", "out", "--layout", "kohya")
    done = cli(*words, "--verify", **ENVIRONMENT)

    assert done.code == 0, done.stderr
    shown = cli("inspect", "out", **ENVIRONMENT)
    facts = json.loads(shown.stdout)
    assert (facts["adapter"]["format"], facts["components"][0]["dtypes"]["BF16"]) == ("kohya", 28)


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("acme/style:prod", "acme/style:prod", 1.0),
        ("acme/style:prod:-1e-1", "acme/style:prod", -0.1),
        ("hf:acme/style", "hf:acme/style", 1.0),
    ],
)
def test_a_scale_is_what_is_a_number(text: str, path: str, scale: float) -> None:
    assert scaled_path(text) == (path, scale)


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a:2").mkdir()
    assert scaled_path(str(tmp_path / "a:2")) == (str(tmp_path / "a:2"), 1.0)
    with pytest.raises(UsageError, match="no scale"):
        scaled_path("a.safetensors:nan")
