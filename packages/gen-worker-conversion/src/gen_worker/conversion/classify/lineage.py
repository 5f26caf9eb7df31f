"""What a model was made from, as its files tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gen_worker.conversion.classify.adapters import tags_of
from gen_worker.conversion.classify.families import (
    kohya_to_family,
    repo_to_family,
    tags_to_family,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.classify.values import ClassificationInputs

__all__ = ["adapter_facts", "lineage_of"]

_PEFT = ("peft_type", "task_type", "r", "lora_alpha")
_KOHYA = {
    "ss_network_module": "network_module",
    "ss_network_dim": "network_dim",
    "ss_network_alpha": "network_alpha",
}


def adapter_facts(inputs: ClassificationInputs) -> dict[str, str]:
    """Return what an adapter says of its own form."""
    config = inputs.document("adapter_config.json")
    told = {name: _text(config.get(name)) for name in _PEFT}
    metadata = _metadata(inputs)
    told |= {name: _text(metadata.get(key)) for key, name in _KOHYA.items()}
    return {name: value for name, value in told.items() if value}


def lineage_of(inputs: ClassificationInputs, *, is_adapter: bool) -> dict[str, str]:
    """Return `base_model_*` and `lineage_source`, the first source that says anything."""
    config, metadata = inputs.document("adapter_config.json"), _metadata(inputs)
    base = _text(config.get("base_model_name_or_path"))
    if base:
        revision = _text(config.get("revision"))
        return _of_repo(base, "adapter_config_json", base_model_revision=revision)
    base = _first(inputs.card.get("base_model"))
    if base:
        relation = _text(inputs.card.get("base_model_relation"))
        return _of_repo(base, "yaml_frontmatter", base_model_lineage=relation)
    version = _text(metadata.get("ss_base_model_version"))
    if version:
        hint = _text(metadata.get("ss_sd_model_name"))
        return _told(
            "kohya_safetensors_metadata",
            base_model_family=kohya_to_family(version) or "unknown",
            base_model_lineage=version,
            base_model_specific_hint=hint,
        )
    family = tags_to_family(tags_of(inputs)) if is_adapter else None
    if family:
        return _told("yaml_tags", base_model_family=family)
    return _told("unknown" if is_adapter else "none")


def _of_repo(base: str, source: str, **more: str) -> dict[str, str]:
    return _told(
        source, base_model_repo=base, base_model_family=repo_to_family(base) or "unknown", **more
    )


def _told(source: str, **facts: str) -> dict[str, str]:
    return {**{name: value for name, value in facts.items() if value}, "lineage_source": source}


def _metadata(inputs: ClassificationInputs) -> Mapping[str, str]:
    facts = inputs.headers.get(inputs.largest_root)
    return facts.metadata if facts is not None else {}


def _first(value: Any) -> str:
    return _text(value[0] if isinstance(value, list) and value else value)


def _text(value: Any) -> str:
    is_plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return str(value).strip() if is_plain else ""
