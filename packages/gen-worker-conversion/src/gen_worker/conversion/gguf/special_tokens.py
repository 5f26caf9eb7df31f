"""Tokens with a meaning of their own: those that are not learned, and those around a text."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.json_files import read_json, unreadable
from gen_worker.conversion.gguf.tensor_names import gguf_package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.container import Value

__all__ = ["added_tokens", "ids_around", "special_tokens"]

_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
"""Parts of keys, spelled as llama.cpp reads them."""


def added_tokens(directory: str, content: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """Return the tokens that are not learned, as `tokenizer.json` has them.

    Args:
        directory: Of the model. Without `tokenizer.json` they are in `tokenizer_config.json` and
            `added_tokens.json`.
        content: Of `tokenizer.json`; empty without one.
        size: How many tokens the model knows; those two files may have more.
    """
    if content:
        return list(content.get("added_tokens") or [])
    config = _read(directory, "tokenizer_config.json")
    more = _read(directory, "added_tokens.json")
    found = {int(index): text for text, index in more.items()}
    made = {index: {"id": index, "content": text} for index, text in found.items()}
    for index, one in (config.get("added_tokens_decoder") or {}).items():
        made[int(index)] = {**one, "id": int(index)}
    return [made[index] for index in sorted(made) if index < size]


def special_tokens(
    directory: str, size: int, *, with_merges: bool
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the metadata of special tokens and merges, and those of chat templates.

    Raises:
        GgufSourceError: A file of the tokenizer is damaged.
    """
    from pathlib import Path

    try:
        found = gguf_package().SpecialVocab(Path(directory), with_merges, n_vocab=size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(directory, "gguf_invalid_tokenizer", f"{error!r}") from error
    made: dict[str, Value] = {"merges": found.merges} if found.merges else {}
    for kind, index in found.special_token_ids.items():
        made[f"{_KEYS.get(kind, kind)}_token_id"] = index
    for kind, is_added in found.add_special_token.items():
        made[f"add_{kind}_token"] = is_added
    return made, _templates(found.chat_template)


def ids_around(content: Mapping[str, Any]) -> dict[str, Value]:
    """Return the keys of the tokens that a tokenizer puts before and after one text."""
    processor = content.get("post_processor") or {}
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        return {
            "bos_token_id": int(processor["cls"][1]),
            "seperator_token_id": int(processor["sep"][1]),
        }
    if processor.get("type") != "TemplateProcessing":
        return {}
    ids = {name: one["ids"][0] for name, one in (processor.get("special_tokens") or {}).items()}
    single = processor["single"]
    ends = {"bos_token_id": single[0], "seperator_token_id": single[-1]}
    named = {key: one["SpecialToken"]["id"] for key, one in ends.items() if "SpecialToken" in one}
    return {key: int(ids[name]) for key, name in named.items()}


def _read(directory: str, name: str) -> dict[str, Any]:
    path = os.path.join(directory, name)
    return read_json(path, "gguf_invalid_tokenizer") if os.path.isfile(path) else {}


def _templates(found: Any) -> dict[str, Value]:
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    by_name = {str(one["name"]): str(one["template"]) for one in found or []}
    made: dict[str, Value] = {}
    for name, template in by_name.items():
        made["tokenizer.chat_template" + (f".{name}" if name != "default" else "")] = template
    others = sorted(set(by_name) - {"default"})
    return made | ({"tokenizer.chat_templates": others} if others else {})
