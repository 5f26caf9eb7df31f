"""Models of a few tensors, written byte by byte: no test of a plan needs torch."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from provider_sites import World

_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F8_E4M3": 1}


def safetensors_bytes(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None
) -> bytes:
    """Return a file of tensors whose elements are 1.0 where they are F32, else zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    data = b""
    for name, (dtype, shape) in tensors.items():
        one = struct.pack("<f", 1.0) if dtype == "F32" else bytes(_BYTES[dtype])
        content = one * math.prod(shape)
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def transformers_folder(directory: Path, dtype: str = "F32") -> Path:
    """Write a model in one folder: 2 matrices, a norm, a counter."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"})
    )
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(
        safetensors_bytes(
            {
                "embed.weight": (dtype, [64, 16]),
                "layer.weight": (dtype, [16, 16]),
                "layer.norm.weight": (dtype, [16]),
                "layer.steps": ("I64", [1]),
            }
        )
    )
    return directory


def pipeline_folder(directory: Path) -> Path:
    """Write a pipeline with two components that have weights, and a scheduler."""
    directory.mkdir(parents=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (directory / "model_index.json").write_text(json.dumps(index))
    (directory / "LICENSE").write_text("free")
    (directory / "scheduler").mkdir()
    (directory / "scheduler" / "scheduler_config.json").write_text("{}")
    for name, rows in (("unet", 64), ("vae", 8)):
        part = directory / name
        part.mkdir()
        (part / "config.json").write_text(json.dumps({"_class_name": index[name][1]}))
        weights = safetensors_bytes({"a.weight": ("F32", [rows, 8]), "a.bias": ("F32", [rows])})
        (part / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    return directory


class SmallModels:
    """What tests make their sources with."""

    file = staticmethod(safetensors_bytes)
    folder = staticmethod(transformers_folder)
    pipeline = staticmethod(pipeline_folder)


@pytest.fixture(scope="session")
def small_models() -> SmallModels:
    return SmallModels()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    """Give both sites, a hub, and contexts of jobs that import: see `provider_sites`."""
    pytest.importorskip("huggingface_hub")
    with _beside("provider_sites").world(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def publishing() -> Any:
    """Give the hub and the worker of tests that publish: see `publishing_hub`."""
    return _beside("publishing_hub")


@pytest.fixture(scope="session")
def bad_models() -> Any:
    """Give models that are wrong in one way each: see `bad_models`."""
    return _beside("bad_models")


@pytest.fixture(scope="session")
def writing_places() -> Any:
    """Give every way to write weights: see `writing_places`."""
    return _beside("writing_places")


@pytest.fixture(scope="session")
def killed_conversions() -> Any:
    """Give processes that are killed at any call of the system: see `killed_conversions`."""
    return _beside("killed_conversions")


@pytest.fixture(scope="session")
def llama_runs() -> Any:
    """Give what llama.cpp makes of files: see `llama_runs`."""
    return _beside("llama_runs")


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give the sources of tests that make every cell of the tables: see `matrix_sources`."""
    return _beside("matrix_sources").Sources(tmp_path_factory.mktemp("matrix"))


def _beside(name: str) -> Any:
    """Return a module of this directory, which is on no path."""
    path = os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_hollow_model() -> Callable[[Path, Mapping[str, tuple[int, ...]]], Path]:
    """Give what writes models of any size that take no disk."""
    return _write_hollow_model


def _write_hollow_model(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Write float32 tensors of zeros: the file is a hole after its header."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path
