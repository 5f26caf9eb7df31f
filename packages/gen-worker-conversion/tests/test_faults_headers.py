"""Headers, indexes and configurations with anything in them: typed errors, and little memory."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.convert import inspect_model, plan_conversion
from gen_worker.conversion.gguf.container import TensorEntry, gguf_header
from gen_worker.errors import WorkerError

if TYPE_CHECKING:
    from pathlib import Path

KINDS = (".json", ".safetensors", ".gguf")
MUTANTS = 20
MOST_BYTES = 64 << 20
LONG_S = 60
NASTY: tuple[Any, ...] = (
    *(None, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e-320, True, False, ""),
    *(float("inf"), float("nan"), "x" * 5000, "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800"),
    *("F32", "..", [], {}, [[]], [None], [1, "x"], {"a": None}, [0] * 1000),
)
"""Values that no sound file has at most places."""
NUMBERS = (0, 1, 999, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 100_000_000, 10**9)

_CONFIG = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8},
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5},
    **{"rope_theta": 10000.0, "max_position_embeddings": 64, "torch_dtype": "float32"},
    **{"bos_token_id": 0, "eos_token_id": [1, 2], "quantization_config": None},
    "rope_scaling": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
        **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    },
}
_TOKENIZER = {
    "added_tokens": [{"id": 0, "content": "a", "special": True}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "model": {
        **{"type": "BPE", "merges": ["a b", ["c", "d"]]},
        "vocab": {letter: number for number, letter in enumerate("abcdefgh")},
    },
}
_LAYER = {
    **{"self_attn.q_proj.weight": [32, 32], "self_attn.k_proj.weight": [16, 32]},
    **{"self_attn.v_proj.weight": [16, 32], "self_attn.o_proj.weight": [32, 32]},
    **{"mlp.gate_proj.weight": [64, 32], "mlp.up_proj.weight": [64, 32]},
    **{"mlp.down_proj.weight": [32, 64], "input_layernorm.weight": [32]},
    **{"post_attention_layernorm.weight": [32]},
}


def language_model(folder: Path, models: Any) -> None:
    folder.mkdir()
    for name, content in (
        ("config", _CONFIG),
        ("tokenizer", _TOKENIZER),
        ("tokenizer_config", {"chat_template": "x", "bos_token": "a", "add_bos_token": True}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    whole = {"model.embed_tokens.weight": [8, 32], "model.norm.weight": [32]}
    parts = (whole, {f"model.layers.0.{name}": shape for name, shape in _LAYER.items()})
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(parts):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        content = models.file({name: ("F32", shape) for name, shape in shapes.items()})
        (folder / file).write_bytes(content)
        weight_map |= dict.fromkeys(shapes, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def single_file(folder: Path, models: Any) -> None:
    folder.mkdir()
    tensors = {"a.weight": ("F32", [8, 8]), "b": ("BF16", [4]), "f": ("F8_E4M3", [8, 8])}
    (folder / "model.safetensors").write_bytes(models.file(tensors))


def gguf_file(folder: Path, _models: Any) -> None:
    folder.mkdir()
    entries = {
        **{"token_embd.weight": TensorEntry("F32", (8, 32))},
        **{"blk.0.attn_q.weight": TensorEntry("F32", (32, 32))},
    }
    facts: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "split.count": 1,
    }
    header = gguf_header({**facts, "tokenizer.ggml.tokens": ["a", "b"]}, entries)
    content = header.content + bytes(header.size_bytes - len(header.content))
    (folder / "model.gguf").write_bytes(content)


@pytest.fixture(scope="module")
def sound(small_models: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root: Path = tmp_path_factory.mktemp("sound")
    language_model(root / "language", small_models)
    single_file(root / "single", small_models)
    gguf_file(root / "gguf", small_models)
    small_models.pipeline(root / "pipeline")
    for folder in root.iterdir():
        plan_all(folder, root.parent)  # imports what it needs before memory is counted
    return sorted(root.iterdir())


def plan_all(source: Path, out: Path) -> None:
    """Look at a model and plan whatever can be asked for."""
    inspect_model(source)
    targets = ("bf16", "fp8", "nf4", "gguf:q8_0", "gguf:q4_k_m")
    plan_conversion(source, targets, out=out / "out")
    for layout in ("diffusers", "singlefile"):
        plan_conversion(source, ["fp16"], out=out / "out", layout=layout, keep=["*norm*"])


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value, as what holds it and the key there."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(pairs):
            found += [(value, key), *places_in(inner)]
    return found


def with_other_json(chance: random.Random, text: bytes) -> bytes:
    value = json.loads(text)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        holder, key = chance.choice(places_in(value) or [({}, "")])
        how = chance.random()
        if how < 0.7:
            holder[key] = json.loads(json.dumps(chance.choice(NASTY)))
        elif how < 0.85 and holder:
            del holder[key]
        elif isinstance(holder, dict) and holder:
            holder[chance.choice(("", "__metadata__", "../x"))] = json.loads(
                json.dumps(holder[key])
            )
    return json.dumps(value).encode()


def with_other_bytes(chance: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(min(len(made), chance.choice((8, 64, 600, 1 << 30))) or 1)
        match chance.randrange(5):
            case 0:
                made[at : at + 1] = bytes([made[at] ^ 1 << chance.randrange(8)]) if made else b""
            case 1:
                del made[at:]
            case 2:
                made[at : at + 8] = struct.pack("<Q", chance.choice(NUMBERS))
            case 3:
                made[at:at] = bytes(chance.randrange(64))
            case _:
                del made[at : at + chance.randrange(32)]
    return bytes(made)


def mutate(chance: random.Random, path: Path) -> None:
    data = path.read_bytes()
    if path.suffix == ".gguf" or chance.random() < 0.4:
        path.write_bytes(with_other_bytes(chance, data))
    elif path.suffix == ".json":
        path.write_bytes(with_other_json(chance, data))
    else:
        length = struct.unpack("<Q", data[:8])[0]
        text = with_other_json(chance, data[8 : 8 + length])
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.chaos
def test_anything_in_a_header_is_refused_by_a_typed_error(
    sound: list[Path], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(MUTANTS):
        folder = tmp_path / str(number)
        shutil.copytree(chance.choice(sound), folder)
        files = [path for path in folder.rglob("*") if path.suffix in KINDS]
        mutate(chance, chance.choice(sorted(files)))
        source = chance.choice([folder, *(path for path in folder.iterdir() if path in files)])
        started_at = time.monotonic()
        tracemalloc.start()
        try:
            with contextlib.suppress(WorkerError):
                plan_all(source, tmp_path)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < MOST_BYTES, (seed, number)
        assert time.monotonic() - started_at < LONG_S, (seed, number)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 2**40),
        ("num_hidden_layers", 2**30),
        ("head_dim", 2**31 - 1),
        ("num_key_value_heads", "x"),
        ("rope_scaling", {"rope_type": "llama3"}),
        ("rope_theta", "../../etc/passwd"),
    ],
)
def test_numbers_that_no_model_has_are_refused_by_name(
    name: str, value: Any, sound: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    folder = tmp_path / "model"
    shutil.copytree(next(path for path in sound if path.name == "language"), folder)
    (folder / "config.json").write_text(json.dumps({**_CONFIG, name: value}))
    started_at = time.monotonic()
    [refusal] = plan_conversion(folder, ["gguf:q8_0"], out=tmp_path / "out").refusals
    assert str(folder) in refusal.reason
    assert time.monotonic() - started_at < LONG_S
