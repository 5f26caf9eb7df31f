"""`gen-worker inspect`: one document for programs, a table in 80 columns for people."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.cli.converting.describing import count_text, model_lines
from gen_worker.conversion.convert import inspect_model

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cli, Terminal


def write_file(path: Path, shapes: dict[str, list[int]], dtype: str = "F16", **more: Any) -> None:
    """Write tensors of zeros; the file is a hole after its header."""
    header: dict[str, Any] = {"__metadata__": more} if more else {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + (4 if dtype == "F32" else 2) * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def write_model(folder: Path) -> Path:
    write_file(folder / "model.safetensors", {"layer.weight": [8, 8], "norm.weight": [8]}, "F32")
    (folder / "config.json").write_text(json.dumps({"architectures": ["SomeModel"]}))
    return folder


def write_pipeline(folder: Path) -> Path:
    parts = {
        "unet": ("UNet2DConditionModel", [859_520, 1_000]),
        "text_encoder_2": ("CLIPTextModelWithProjection", [694_659, 1_000]),
        "vae": ("AutoencoderKL", [83_653, 1_000]),
    }
    for name, (kind, shape) in parts.items():
        write_file(folder / name / "diffusion_pytorch_model.safetensors", {"w": shape})
        config = {"architectures": [kind]} if name.startswith("text") else {"_class_name": kind}
        (folder / name / "config.json").write_text(json.dumps(config))
    index = {name: ["diffusers", kind] for name, (kind, _) in parts.items()}
    index_text = json.dumps({"_class_name": "StableDiffusionXLPipeline", **index})
    (folder / "model_index.json").write_text(index_text)
    return folder


@pytest.mark.claims("inspect.facts")
def test_inspection_says_what_a_model_is(cli: Cli) -> None:
    write_model(cli.folder / "model")

    done = cli("inspect", "model")

    assert done.code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "path": str(cli.folder / "model"),
        "layout": "transformers",
        "family": "unknown",
        "class_name": "SomeModel",
        "components": [
            {
                "name": "",
                "class_name": "SomeModel",
                "files": 1,
                "tensors": 2,
                "parameters": 72,
                "size_bytes": 288,
                "dtypes": {"F32": 288},
                "quantization": "",
            }
        ],
        "adapter": None,
        "gguf": None,
        "refusals": [],
    }


@pytest.mark.claims("inspect.adapter")
def test_inspection_says_what_a_lora_is(cli: Cli) -> None:
    module = "lora_unet_mid_block_attentions_0_proj_in"
    shapes = {f"{module}.lora_down.weight": [4, 8], f"{module}.lora_up.weight": [8, 4]}
    write_file(cli.folder / "style.safetensors", shapes, ss_base_model_version="sd_v1")

    done = cli("inspect", "style.safetensors")

    assert done.code == 0, done.stderr
    facts = json.loads(done.stdout)["adapter"]
    assert (facts["format"], facts["networks"], facts["family"]) == ("kohya", ["lora"], "sd15")
    [part] = facts["components"]
    assert (part["name"], part["ranks"], part["targets"]) == ("unet", [4], {"proj_in": 1})


@pytest.mark.claims("inspect.refused")
def test_inspection_says_what_is_refused(cli: Cli) -> None:
    (write_model(cli.folder / "model") / "model.safetensors").write_bytes(b"damaged")

    done = cli("inspect", "model", "--json")

    assert done.code == 1
    assert "model.safetensors" in json.loads(done.stdout)["refusals"][0]


@pytest.mark.claims("inspect.table")
def test_a_person_reads_a_table_of_the_model(terminal: Terminal) -> None:
    write_model(terminal.folder / "model")

    terminal.start("inspect", "model")

    terminal.expect("SomeModel, 288 B")
    terminal.expect("params")
    assert terminal.wait() == 0


def test_the_table_of_a_pipeline_fits_into_80_columns(tmp_path: Path) -> None:
    facts = inspect_model(write_pipeline(tmp_path / "model"))

    path, *lines = model_lines(facts)

    assert path == str(tmp_path / "model")
    assert lines == [
        "  diffusers, sdxl, StableDiffusionXLPipeline, 3.1 GiB",
        "  component       class                        dtype  tensors  params       size",
        "  unet            UNet2DConditionModel         fp16         1   860 M    1.6 GiB",
        "  text_encoder_2  CLIPTextModelWithProjection  fp16         1   695 M    1.3 GiB",
        "  vae             AutoencoderKL                fp16         1  83.7 M  159.6 MiB",
    ]
    assert max(map(len, lines)) <= 80


def test_a_long_name_gives_way_to_the_numbers(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / "config.json").write_text(json.dumps({"architectures": ["Some" + "Long" * 20]}))

    lines = list(model_lines(inspect_model(model)))[2:]

    assert [len(line) for line in lines] == [80, 80]
    assert "LongLon~  fp32         2      72  288 B" in lines[1]


def test_a_lora_in_the_table(tmp_path: Path) -> None:
    shapes: dict[str, list[int]] = {}
    for number in range(3):
        for name in ("to_q", "to_k", "to_v", "to_out_0"):
            block = f"lora_unet_mid_block_attentions_{number}_transformer_blocks_0_attn1_{name}"
            shapes |= {f"{block}.lora_down.weight": [4, 8], f"{block}.lora_up.weight": [8, 4]}
    path = tmp_path / "style.safetensors"
    write_file(path, {**shapes, "odd": [2]}, ss_base_model_version="sd_v1")

    lines = list(model_lines(inspect_model(path)))

    assert lines[1:] == [
        "  native_lora, sd15, 1.5 KiB",
        "  component  class  dtype  tensors  params     size",
        "  model      -      fp16        25     770  1.5 KiB",
        "  LoRA in the format of kohya",
        "    unet: 12 modules, rank 4, alpha 4: to_k 3, to_out.0 3, to_q 3, to_v 3",
        "    base model: sd_v1 (by kohya_safetensors_metadata)",
        "    not of an adapter: 1 tensors, such as odd",
    ]


def test_a_refusal_is_wrapped(tmp_path: Path) -> None:
    model = write_pipeline(tmp_path / "model")
    config = {"_class_name": "UNet2DConditionModel", "quantization_config": {"quant_method": "fp8"}}
    (model / "unet" / "config.json").write_text(json.dumps(config))
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")

    facts = inspect_model(model)
    lines = list(model_lines(facts))

    assert lines[4] == "    quantised, fp8"
    said = " ".join(line.strip() for line in lines[6:])
    assert said == f"refused: {facts.refusals[0]}"
    paths = str(tmp_path)
    assert all(len(line) <= 80 for line in lines[1:] if paths not in line)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (72, "72"),
        (9_999, "9999"),
        (12_345, "12.3 k"),
        (859_520_964, "860 M"),
        (1_235_814_400, "1.24 B"),
    ],
)
def test_counts_have_three_digits(count: int, text: str) -> None:
    assert count_text(count) == text
