"""Tokenizers of every kind that is written say in the file what they are made of."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf.container import Numbers, gguf_header
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.sentencepiece_file import Piece, read_sentencepiece
from gen_worker.conversion.gguf.tokenizers import tokenizer_metadata

if TYPE_CHECKING:
    from pathlib import Path

gguf: Any = pytest.importorskip("gguf")

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PIECES = [
    Piece("<unk>", 0.0, 2),
    Piece("<s>", 0.0, 3),
    Piece("<0x41>", 0.0, 6),
    Piece(f"{SPACE}a", -1.5, 1),
]
ADDED = [{"id": 5, "content": f"own{SPACE}", "special": False}]


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def pieces_file(path: Path, kind: int = 2) -> Path:
    content = b""
    for piece in PIECES:
        score = b"\x15" + struct.pack("<f", piece.score)
        content += field(1, field(1, piece.text.encode()) + score + bytes([0x18, piece.kind]))
    # of the trainer and the normalizer: the kind of model, and that spaces stay as they are
    path.write_bytes(content + field(2, bytes([0x18, kind])) + field(3, b"\x20\x00"))
    return path


def fast(place: Path, **content: Any) -> None:
    (place / "tokenizer.json").write_text(json.dumps(content))


def test_pieces_are_read_and_added_to(tmp_path: Path) -> None:
    read = read_sentencepiece(str(pieces_file(tmp_path / "tokenizer.model")))
    assert list(read.pieces) == PIECES
    fast(tmp_path, added_tokens=ADDED)
    config = {"chat_template": "{{ x }}", "bos_token": "<s>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"bos_token_id": 1}')
    made = tokenizer_metadata(str(tmp_path), {"vocab_size": 7})
    tokens = [piece.text for piece in PIECES]
    assert made["tokenizer.ggml.model"] == "llama"
    assert made["tokenizer.ggml.tokens"] == [*tokens, "[PAD4]", "own ", "[PAD6]"]
    assert made["tokenizer.ggml.token_type"] == [2, 3, 6, 1, 5, 4, 5]
    assert made["tokenizer.ggml.scores"] == [0.0, 0.0, 0.0, -1.5, -10000.0, -1000.0, -10000.0]
    assert made["tokenizer.ggml.bos_token_id"] == 1
    assert made["tokenizer.ggml.add_bos_token"] is True
    assert made["tokenizer.chat_template"] == "{{ x }}"


@pytest.mark.parametrize(
    ("normalizer", "config", "expected"),
    [
        (b"\x20\x00", {}, True),
        (b"\x20\x00\x18\x00", {}, False),  # add_dummy_prefix of Gemma
        (b"\x20\x00\x18\x01", {"add_prefix_space": False}, False),
    ],
)
def test_a_space_before_a_text_is_told(
    normalizer: bytes, config: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    path = pieces_file(tmp_path / "tokenizer.model")
    path.write_bytes(path.read_bytes() + field(3, normalizer))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    made = tokenizer_metadata(str(tmp_path), {})
    assert made["tokenizer.ggml.add_space_prefix"] is expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"normalizer": {"type": "Prepend", "prepend": SPACE}}, True),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}}}, False),
        ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "first"}}, True),
        ({"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}, False),
        ({"pre_tokenizer": {"type": "Metaspace", "add_prefix_space": False}}, False),
    ],
)
def test_a_space_of_pairs_over_characters_is_told(
    parts: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": [], "byte_fallback": True}
    fast(tmp_path, model=model, added_tokens=[], **parts)
    made = tokenizer_metadata(str(tmp_path), {})
    assert made["tokenizer.ggml.add_space_prefix"] is expected


def test_likely_pieces_keep_scores_and_how_characters_are_replaced(tmp_path: Path) -> None:
    pieces = [["<s>", 0.0], ["<unk>", 0.0], ["<0x41>", -2.0], [f"{SPACE}a", -1.5]]
    charsmap = bytes(range(256))
    normalizers = [
        {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    fast(
        tmp_path,
        model={"type": "Unigram", "vocab": pieces, "unk_id": 1, "byte_fallback": True},
        normalizer={"type": "Sequence", "normalizers": normalizers},
        pre_tokenizer={"type": "Metaspace", "prepend_scheme": "always"},
        added_tokens=[{"id": 0, "content": "<s>", "special": True}],
    )
    made = tokenizer_metadata(str(tmp_path), {"vocab_size": 5, "type_vocab_size": 1})
    assert made["tokenizer.ggml.model"] == "t5"
    assert made["tokenizer.ggml.scores"] == [0.0, 0.0, -2.0, -1.5, -10000.0]
    assert made["tokenizer.ggml.token_type"] == [3, 2, 6, 1, 5]
    assert made["tokenizer.ggml.precompiled_charsmap"] == Numbers(0, charsmap)
    assert made["tokenizer.ggml.token_type_count"] == 1
    for key in ("add_space_prefix", "remove_extra_whitespaces"):
        assert made[f"tokenizer.ggml.{key}"] is True
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_header(made, {}).content)
    said = gguf.GGUFReader(path).get_field("tokenizer.ggml.precompiled_charsmap")
    assert bytes(said.contents()) == charsmap
    assert [one.name for one in said.types] == ["ARRAY", "UINT8"]


def test_likely_pieces_of_a_model_alone_are_written(tmp_path: Path) -> None:
    path = pieces_file(tmp_path / "tokenizer.model", kind=1)
    path.write_bytes(path.read_bytes() + field(3, field(2, b"map") + b"\x20\x00"))
    made = tokenizer_metadata(str(tmp_path), {})
    assert made["tokenizer.ggml.model"] == "t5"
    assert made["tokenizer.ggml.precompiled_charsmap"] == Numbers(0, b"map")
    assert made["tokenizer.ggml.remove_extra_whitespaces"] is False


@pytest.mark.parametrize("is_cased", [True, False])
def test_word_pieces_say_whether_letters_become_small(is_cased: bool, tmp_path: Path) -> None:
    fast(
        tmp_path,
        model={"type": "WordPiece", "vocab": {"[CLS]": 0, "a": 1, "##b": 2}},
        normalizer={"type": "BertNormalizer", "lowercase": not is_cased},
        added_tokens=[{"id": 0, "content": "[CLS]", "special": True}],
    )
    made = tokenizer_metadata(str(tmp_path), {})
    assert made["tokenizer.ggml.normalizer.lowercase"] is not is_cased
    assert made["tokenizer.ggml.tokens"] == ["[CLS]", f"{SPACE}a", "b"]


def test_models_of_whole_words_are_refused(tmp_path: Path) -> None:
    pieces_file(tmp_path / "tokenizer.model", kind=3)
    with pytest.raises(GgufSourceError) as caught:
        tokenizer_metadata(str(tmp_path), {})
    assert caught.value.code == "gguf_unsupported_tokenizer"


def test_pairs_over_characters_get_scores_by_the_order_of_merges(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "abb": 5}
    model = {"type": "BPE", "vocab": vocabulary, "merges": ["a b", ["ab", "b"]]}
    fast(tmp_path, model=model | {"unk_token": "<unk>", "byte_fallback": True}, added_tokens=[])
    made = tokenizer_metadata(str(tmp_path), {})
    assert made["tokenizer.ggml.model"] == "llama"
    assert made["tokenizer.ggml.token_type"] == [2, 6, 1, 1, 1, 1]
    scores = made["tokenizer.ggml.scores"]
    assert isinstance(scores, list)
    assert scores[4] > scores[5] > scores[2]
    assert "tokenizer.ggml.merges" not in made


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+", "llama-bpe"),
        (r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+", "qwen2"),
        ("", "gpt-2"),
        ("new", ""),
    ],
)
def test_how_texts_are_cut_has_a_name(pattern: str, name: str, tmp_path: Path) -> None:
    parts: list[dict[str, Any]] = [{"type": "ByteLevel", "use_regex": not pattern}]
    if pattern:
        parts.insert(0, {"type": "Split", "pattern": {"Regex": pattern}})
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    fast(
        tmp_path,
        model=model,
        pre_tokenizer={"type": "Sequence", "pretokenizers": parts},
        added_tokens=[{"id": 3, "content": "<|end|>", "special": True}],
    )
    if not name:
        with pytest.raises(GgufSourceError, match="pre_tokenizer") as caught:
            tokenizer_metadata(str(tmp_path), {})
        assert caught.value.code == "gguf_unknown_pre_tokenizer"
        name = "own"
    made = tokenizer_metadata(str(tmp_path), {}, pre_tokenizer="own" if name == "own" else None)
    assert made["tokenizer.ggml.pre"] == name
    assert made["tokenizer.ggml.token_type"] == [1, 1, 1, 3]
    assert made["tokenizer.ggml.merges"] == ["a b"]


@pytest.mark.parametrize(
    "content",
    [b"\x0a", b"\x0a\x7fab", b"\x0b", b"\x80" * 20, b"\x0a\x02\x0a\x09", b"\x0a\x03\x0a\x01\xff"],
)
def test_damaged_models_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(GgufSourceError) as caught:
        read_sentencepiece(str(tmp_path / "tokenizer.model"))
    assert caught.value.code == "gguf_invalid_tokenizer"
