"""What llama.cpp calls the ways in which texts are cut before bytes are joined."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.normalizers import parts_in

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["pre_tokenizer_of"]

_PATTERNS = (
    (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|", "gpt-4o"),
    (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?", "tekken"),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|", "llama-bpe"),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", "qwen2"),
)
"""How regular expressions go on, and their names."""


def pre_tokenizer_of(path: str, content: Mapping[str, Any]) -> str:
    """Return the name of how a tokenizer cuts texts.

    Args:
        path: Of `tokenizer.json`, for messages.
        content: Of this file.

    Raises:
        GgufSourceError: It has none that is known.
    """
    parts = [part for part in parts_in(content["pre_tokenizer"]) if part.get("type") != "Sequence"]
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        text = json.dumps(parts[0].get("pattern"))
        for pattern, name in _PATTERNS:
            if json.dumps(pattern)[1:-1] in text:
                return name
    raise GgufSourceError(
        f"{path!r} cuts texts in a way that is not recognised: give the name that llama.cpp has "
        "for it as pre_tokenizer",
        code="gguf_unknown_pre_tokenizer",
        file=path,
    )
