"""What a `tokenizer.json` does to a text before it is cut: spaces, letters, characters."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.gguf.container import Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.conversion.gguf.container import Value

__all__ = [
    "adds_space",
    "changes_of_text",
    "charsmap_of",
    "lowers_case",
    "merges_spaces",
    "parts_in",
    "splits_chinese",
    "strips_accents",
    "types_in",
    "unigram_options",
]

_UINT8 = 0
_CHANGES = ("Lowercase", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Strip", "StripAccents")
_SPACE = {"String": " "}


def adds_space(content: Mapping[str, Any]) -> bool:
    """Tell whether a text begins with a space whatever its first character is."""
    for part in _parts(content):
        if part.get("type") == "Prepend":
            return True
        if part.get("type") == "Metaspace":
            scheme = part.get("prepend_scheme")
            return bool(part.get("add_prefix_space", True)) if scheme is None else scheme != "never"
    return False


def lowers_case(content: Mapping[str, Any]) -> bool:
    """Tell whether letters become small, as those of uncased BERT models do."""
    found = (part.get("lowercase", True) for part in _parts(content) if _is_bert(part))
    return bool(next(found, any(part.get("type") == "Lowercase" for part in _parts(content))))


def strips_accents(content: Mapping[str, Any]) -> bool | None:
    """Tell whether letters lose their accents; None where they do as they become small."""
    found = (part.get("strip_accents") for part in _parts(content) if _is_bert(part))
    return next(found, None)


def changes_of_text(content: Mapping[str, Any]) -> str:
    """Return what a tokenizer of pairs does to a text that llama.cpp does not; empty for nothing.

    Not named is NFC, which Qwen has: texts in another form are rare.
    """
    for part in _parts(content):
        kind = part.get("type")
        if kind in _CHANGES or (kind == "Replace" and part.get("pattern") != _SPACE):
            return f"with the normalizer {kind!r}"
        if kind == "ByteLevel" and part.get("add_prefix_space"):
            return "that puts a space before every text"
    return ""


def splits_chinese(content: Mapping[str, Any]) -> bool:
    """Tell whether every Chinese character is a word, as llama.cpp has it."""
    found = (part.get("handle_chinese_chars", True) for part in _parts(content) if _is_bert(part))
    return bool(next(found, True))


def merges_spaces(content: Mapping[str, Any]) -> bool:
    """Tell whether several spaces are as one."""
    for part in _parts(content):
        pattern = part.get("pattern")
        is_run = isinstance(pattern, dict) and pattern.get("Regex") == " {2,}"
        if part.get("type") == "WhitespaceSplit" or (part.get("type") == "Replace" and is_run):
            return True
    return False


def charsmap_of(content: Mapping[str, Any]) -> bytes:
    """Return how characters are replaced, compiled by SentencePiece; empty without it.

    Raises:
        ValueError: It is damaged.
    """
    for part in _parts(content):
        text = part.get("precompiled_charsmap")
        if part.get("type") == "Precompiled" and isinstance(text, str):
            return base64.b64decode(text, validate=True)
    return b""


def types_in(part: Any) -> set[str]:
    """Return the types of a part of a tokenizer and of those in it."""
    return {str(one.get("type")) for one in parts_in(part)}


def unigram_options(charsmap: bytes, *, merges_spaces: bool) -> dict[str, Value]:
    """Return the keys, without `tokenizer.ggml.`, that a model of likely pieces has."""
    made: dict[str, Value] = {"remove_extra_whitespaces": merges_spaces}
    return made | ({"precompiled_charsmap": Numbers(_UINT8, charsmap)} if charsmap else {})


def _is_bert(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "BertNormalizer"


def _parts(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from parts_in(content.get("normalizer"))
    yield from parts_in(content.get("pre_tokenizer"))


def parts_in(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a part of a tokenizer and those in it."""
    if not isinstance(part, dict):
        return
    yield part
    for key in ("normalizers", "pretokenizers"):
        for inner in part.get(key) or ():
            yield from parts_in(inner)
