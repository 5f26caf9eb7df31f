"""`gen-worker convert` to GGUF: parts, metadata, importance, and LoRAs with their base."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.models.formats import read_gguf_header
from gen_worker.models.tiny import tiny_llama

if TYPE_CHECKING:
    from conftest import Cli

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": "", "PYTHONWARNINGS": "default"}


@pytest.mark.claims("convert.gguf", "convert.split")
def test_a_model_is_split_labelled_and_joined(cli: Cli) -> None:
    tiny_llama(cli.folder / "tiny")
    columns = [9.0] + [0.1] * 31
    name = b"blk.0.attn_q.weight"
    content = struct.pack("<2i", 1, len(name)) + name + struct.pack("<2i", 1, len(columns))
    (cli.folder / "i.dat").write_bytes(content + struct.pack("<32f", *columns))

    done = cli(
        *("convert", "tiny", "--to", "gguf:q8_0", "--out", "parts", "--verify"),
        *("--max-shard-bytes", "40000", "--imatrix", "i.dat", "--metadata", "general.name=mine"),
        **ENVIRONMENT,
    )
    assert done.code == 0, done.stderr
    parts = sorted((cli.folder / "parts").glob("*.gguf"))
    assert [part.name[-19:] for part in parts] == [
        f"{number + 1:05d}-of-{len(parts):05d}.gguf" for number in range(len(parts))
    ]
    said = read_gguf_header(str(parts[0])).metadata
    assert (said["general.name"], said["quantize.imatrix.file"]) == ("mine", "i.dat")

    joined = cli("convert", str(parts[0]), "--to", "gguf:keep", "--out", "one", **ENVIRONMENT)
    assert joined.code == 0, joined.stderr
    [whole] = (cli.folder / "one").glob("*.gguf")
    tensors = read_gguf_header(str(whole)).tensors
    assert len(tensors) == sum(len(read_gguf_header(str(part)).tensors) for part in parts)

    for wrong in (("--metadata", "alone"), ("--max-shard-bytes", "0"), ("--imatrix", "none.dat")):
        refused = cli(
            *("convert", "tiny", "--to", "gguf:q8_0", "--out", "no", *wrong), **ENVIRONMENT
        )
        assert refused.code == 2, refused.stderr
        assert wrong[1] in refused.stderr


@pytest.mark.claims("convert.gguf")
def test_a_lora_needs_its_base(cli: Cli) -> None:
    tiny_llama(cli.folder / "tiny")
    lora = cli.folder / "lora"
    lora.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{place}.lora_A.weight": torch.ones(2, 32),
        f"{place}.lora_B.weight": torch.ones(32, 2),
    }
    safetensors_torch.save_file(weights, lora / "adapter_model.safetensors")
    command = ("convert", "lora", "--to", "gguf:f16", "--out", "out")

    refused = cli(*command, **ENVIRONMENT)
    assert refused.code == 2
    assert "--base DIR" in refused.stderr

    done = cli(*command, "--base", "tiny", **ENVIRONMENT)
    assert done.code == 0, done.stderr
    said = read_gguf_header(str(cli.folder / "out" / "lora-F16.gguf")).metadata
    assert (said["adapter.type"], said["adapter.lora.alpha"]) == ("lora", 4.0)
