"""Configurations lose what leads a library to foreign code, and nothing else."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.models.formats import DamagedFileError, config_changes, sanitize_config

if TYPE_CHECKING:
    from pathlib import Path

REMOVED = (
    "auto_map",
    "trust_remote_code",
    "code_revision",
    "custom_pipeline",
    "custom_pipelines",
    "custom_generate",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_attn_implementation_autoset",
    "_experts_implementation",
    "use_kernels",
    "kernel_config",
)
KEPT = ("_diffusers_version", "_class_name", "architectures", "attention_dropout", "model_type",
        "kernel_size", "quantization_config", "_name_or_path", "attn_type", "mapping")  # fmt: skip


@pytest.mark.parametrize("key", REMOVED)
def test_keys_that_lead_to_code_go_at_any_depth(key: str) -> None:
    config = {"text_config": {key: "kernels-community/x", "a": [1, {key: True, "b": 2}]}, key: 1}
    clean, removed = sanitize_config(config)
    assert clean == {"text_config": {"a": [1, {"b": 2}]}}
    assert set(removed) == {f"$.{key}", f"$.text_config.{key}", f"$.text_config.a[1].{key}"}
    assert key in config


def test_everything_else_stays_in_its_order() -> None:
    config: dict[str, Any] = {key: {"x": [1, None, "auto_map"]} for key in KEPT}
    clean, removed = sanitize_config(config)
    assert list(clean.items()) == list(config.items())
    assert removed == ()


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*REMOVED, *KEPT]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_a_clean_configuration_stays_as_it_is(config: Any) -> None:
    clean, removed = sanitize_config(config)
    assert sanitize_config(clean) == (clean, ())
    assert (clean == config) == (not removed)
    assert not any(f'"{key}":' in json.dumps(clean) for key in REMOVED)


def test_a_directory_yields_the_changes_and_is_left_alone(tmp_path: Path) -> None:
    dirty = {"auto_map": {"AutoModel": "x.X"}, "hidden_size": 4, "limit": math.inf}
    words = {"auto_map": 0, "the": 1}
    files = {
        "config.json": dirty,
        "unet/config.json": {"_attn_implementation": "flash", "_diffusers_version": "0.42.1"},
        "tokenizer_config.json": {"model_max_length": 1},
        "vocab.json": words,
        "tokenizer.json": {"auto_map": 1},
        "model.safetensors.index.json": {"weight_map": {"auto_map": "a.safetensors"}},
        "modules.json": [{"type": "x", "trust_remote_code": True}],
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "notes.json").write_text("not JSON at all")

    changes = {change.path: change for change in config_changes(tmp_path)}

    assert set(changes) == {"config.json", "unet/config.json", "modules.json"}
    assert json.loads(changes["config.json"].text) == {"hidden_size": 4, "limit": math.inf}
    assert changes["config.json"].removed == ("$.auto_map",)
    assert changes["unet/config.json"].config == {"_diffusers_version": "0.42.1"}
    assert changes["modules.json"].config == [{"type": "x"}]
    assert {name: json.loads((tmp_path / name).read_text()) for name in files} == files


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "header_syntax"),
        (b"\xff\xfe", "header_syntax"),
        (b"[" * 100 + b"]" * 100, "header_syntax"),
        (b"[" * 100_000, "header_syntax"),
        (b" " * 16_000_001 + b"{}", "header_size"),
    ],
)
def test_a_configuration_nobody_can_check_is_refused(
    content: bytes, code: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        list(config_changes(tmp_path))
    assert caught.value.code == code
