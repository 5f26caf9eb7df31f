"""What importing says of models: where they came from, and what became of them."""

from __future__ import annotations

from typing import Any

import msgspec

from gen_worker.conversion.artifacts import ConversionOutput

__all__ = ["CheckpointRef", "CivitaiMeta", "ConversionOutput", "HFMeta"]


class CheckpointRef(msgspec.Struct, frozen=True, kw_only=True):
    """One flavor that was published."""

    repo: str
    checkpoint_id: str
    flavor: str


class HFMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What Hugging Face says of a repository at one commit."""

    repo: str
    revision: str
    """The commit."""
    license: str = ""
    license_link: str = ""
    tags: list[str] = []
    base_models: list[str] = []
    library_name: str = ""
    pipeline_tag: str = ""
    family: str = "unknown"
    file_count: int = 0
    size_bytes: int = 0
    refusal_kind: str = ""
    """Why it would not be imported; empty when it would."""
    attributes: dict[str, str] = {}
    """Of its classification."""


class CivitaiMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What Civitai says of one version."""

    model_id: str
    model_version_id: str
    name: str = ""
    model_name: str = ""
    type: str = ""
    base_model: str = ""
    family: str = "unknown"
    trained_words: list[str] = []
    files: list[dict[str, Any]] = []
    """`id`, `name`, `sha256` and `size_bytes` of each safetensors file."""
