"""Texts become the same tokens in llama.cpp, or the tokenizer is refused."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.tokenizers import check_vocabulary, tokenizer_metadata

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("gguf")

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PAIRS = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
WORDS = {"type": "WordPiece", "vocab": {"[X]": 0, "a": 1, "[CLS]": 2, "[SEP]": 3, "?": 4}}
BYTES = {"type": "ByteLevel", "use_regex": False}
TEXT = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>"]}
LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


def said(place: Path, config: dict[str, Any] | None = None, **content: Any) -> dict[str, Any]:
    """Return what the file says of a `tokenizer.json`, keys without their beginning."""
    (place / "tokenizer.json").write_text(json.dumps({"added_tokens": [], **content}))
    found = tokenizer_metadata(str(place), config or {})
    return {key.removeprefix("tokenizer.ggml."): value for key, value in found.items()}


def split(pattern: str, **more: Any) -> dict[str, Any]:
    parts = [{"type": "Split", "pattern": {"Regex": pattern}}, {**BYTES, **more}]
    return {"type": "Sequence", "pretokenizers": parts}


def piece(text: str, kind: int) -> bytes:
    content = bytes([0x0A, len(text.encode())]) + text.encode()
    content += b"\x15" + struct.pack("<f", -1.0) + bytes([0x18, kind])
    return bytes([0x0A, len(content)]) + content


def pieces(place: Path, normalizer: bytes = b"\x20\x00") -> Path:
    content = piece("<unk>", 2) + piece("a", 1) + piece(SPACE * 2, 4) + b"\x12\x02\x18\x02"
    (place / "tokenizer.model").write_bytes(content + bytes([0x1A, len(normalizer)]) + normalizer)
    return place


@pytest.mark.parametrize("strips", [True, False, None])
def test_accents_are_taken_off_where_they_are(strips: bool | None, tmp_path: Path) -> None:
    """Without the key letters lose them as they become small, as where nothing is said."""
    normalizer = {"type": "BertNormalizer", "lowercase": True, "strip_accents": strips}
    assert said(tmp_path, model=WORDS, normalizer=normalizer).get("normalizer.strip_accents") == (
        strips
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            {"model": WORDS, "normalizer": {"type": "BertNormalizer", "handle_chinese_chars": 0}},
            "Chinese",
        ),
        ({"model": PAIRS, "pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "a space before"),
        ({"model": PAIRS, "pre_tokenizer": BYTES, "normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"model": PAIRS, "normalizer": {"type": "Lowercase"}}, "Lowercase"),
        (
            {"model": PAIRS, "normalizer": {"type": "Replace", "pattern": {"String": "``"}}},
            "Replace",
        ),
    ],
)
def test_what_llama_cpp_does_not_do_to_a_text_is_refused(
    content: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(GgufSourceError, match=what) as caught:
        said(tmp_path, **content)
    assert caught.value.code == "gguf_unsupported_tokenizer"
    assert caught.value.file


@pytest.mark.parametrize(
    ("normalizer", "what"), [(b"\x12\x01x\x20\x00", "characters"), (b"", "spaces")]
)
def test_pairs_of_a_model_alone_stay_as_they_are(
    normalizer: bytes, what: str, tmp_path: Path
) -> None:
    with pytest.raises(GgufSourceError, match=what) as caught:
        tokenizer_metadata(str(pieces(tmp_path, normalizer)), {})
    assert caught.value.code == "gguf_unsupported_tokenizer"


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (split(f"{LETTERS}|{UPPER}|\\p{{N}}"), "tekken"),
        (split(f"{LETTERS}{ENDINGS}|{UPPER}{ENDINGS}|\\p{{N}}{{1,3}}"), "gpt-4o"),
        (split(f"{LETTERS}|{UPPER}|\\p{{N}}", use_regex=True), ""),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}, ""),
        (BYTES, ""),
        ({"type": "ByteLevel"}, "gpt-2"),
    ],
)
def test_only_what_is_cut_alike_has_a_name(
    pre_tokenizer: dict[str, Any], name: str, tmp_path: Path
) -> None:
    if name:
        assert said(tmp_path, model=PAIRS, pre_tokenizer=pre_tokenizer)["pre"] == name
        return
    with pytest.raises(GgufSourceError) as caught:
        said(tmp_path, model=PAIRS, pre_tokenizer=pre_tokenizer)
    assert caught.value.code == "gguf_unknown_pre_tokenizer"


@pytest.mark.parametrize("cut", [None, {"type": "ByteLevel"}])
def test_a_token_before_a_text_is_there_where_the_tokenizer_puts_one(
    cut: dict[str, Any] | None, tmp_path: Path
) -> None:
    """By itself llama.cpp puts one before the pieces of Llama."""
    parts = {"model": PAIRS, "pre_tokenizer": cut}
    assert said(tmp_path, **parts)["add_bos_token"] is False
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "a"}')
    single = [{"SpecialToken": {"id": "a"}}, {"Sequence": {"id": "A"}}]
    template = {"type": "TemplateProcessing", "single": single}
    assert said(tmp_path, **parts, post_processor=template)["add_bos_token"] is True


def test_a_model_of_pieces_alone_leaves_that_to_llama_cpp(tmp_path: Path) -> None:
    assert "tokenizer.ggml.add_bos_token" not in tokenizer_metadata(str(pieces(tmp_path)), {})


@pytest.mark.parametrize("kind", ["BertProcessing", "TemplateProcessing"])
def test_tokens_around_words_have_their_own_ids(kind: str, tmp_path: Path) -> None:
    """Those of the first BERT are taken where nothing is said: 101, 102, and 100 for unknown."""
    ends = [{"SpecialToken": {"id": name}} for name in ("[CLS]", "[SEP]")]
    processor = {
        "type": kind,
        "cls": ["[CLS]", 2],
        "sep": ["[SEP]", 3],
        "single": [ends[0], {"Sequence": {"id": "A"}}, ends[1]],
        "special_tokens": {"[CLS]": {"ids": [2]}, "[SEP]": {"ids": [3]}},
    }
    found = said(tmp_path, model={**WORDS, "unk_token": "?"}, post_processor=processor)
    keys = ("bos_token_id", "seperator_token_id", "unknown_token_id")
    assert [found[key] for key in keys] == [2, 3, 4]


def test_an_unknown_piece_has_its_own_id(tmp_path: Path) -> None:
    vocabulary = [["a", -1.0], ["<unk>", 0.0]]
    found = said(tmp_path, model={"type": "Unigram", "vocab": vocabulary, "unk_id": 1})
    assert found["unknown_token_id"] == 1


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_of_a_model_of_pieces_are_found(where: str, tmp_path: Path) -> None:
    place = pieces(tmp_path)
    content: dict[str, Any] = {"<|im_end|>": 3, "<pad>": 4}
    if where == "tokenizer_config.json":
        special = {
            str(index): {"content": text, "special": True} for text, index in content.items()
        }
        content = {"added_tokens_decoder": special}
    (place / where).write_text(json.dumps(content))
    made = tokenizer_metadata(str(place), {"vocab_size": 4})
    # a token of the author's own is looked for in the text, which has spaces
    assert made["tokenizer.ggml.tokens"] == ["<unk>", "a", "  ", "<|im_end|>"]
    assert made["tokenizer.ggml.token_type"] == [2, 1, 4, 3]


@pytest.mark.parametrize("damage", ["twice", "byte", ""])
def test_what_ends_the_process_is_refused(damage: str) -> None:
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    if damage == "twice":
        tokens += ["a", "a"]
    if damage == "byte":
        tokens.remove("<0xC3>")
    tokens[tokens.index("<0x41>")] = "A"  # a letter stands for its byte
    metadata = {**TEXT, "tokenizer.ggml.tokens": tokens}
    if not damage:
        check_vocabulary(metadata, "d")
        return
    with pytest.raises(GgufSourceError, match="'a' as 256" if damage == "twice" else "byte 195"):
        check_vocabulary(metadata, "d")
