"""llama.cpp itself cuts texts into the tokens that the tokenizers of transformers cut them into."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.conversion.gguf import plan_language_model, write_gguf

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("llama_cpp")
transformers: Any = pytest.importorskip("transformers")
tokenizers: Any = pytest.importorskip("tokenizers")
pytest.importorskip("torch")
pytest.importorskip("gguf")

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
TEXTS = [
    *("The quick brown fox jumps over the lazy dog, 123 times: Ähm!", "", " ", "   ", "\n\n"),
    *(
        "  lead  and   trail  ",
        "a\tb\nc\r\nd\n\n\n  e\n",
        "日本語のテキスト abc 漢字",
        "\u3000全角",
    ),
    *("naïve café ÀÉÎ Ça Straße", "emoji 😀 👩\u200d👩\u200d👧 end", "Ελληνικά Русский العربية"),
    *(
        "don't $5.00 100% #tag @me I'LL we'Ve",
        "İstanbul ½ ² ™",
        "\u2013\u2014\u2026\u201c\u201d\u2018\u2019",
        "...!!!???",
    ),
    *("def f(x):\n    return x  # ok", "MiXeD CaseWords HTTPServer", "1234567 3.14 1,000"),
    *(f"{SPACE}under{SPACE}line", "ends with space ", "zero\u200bwidth\xad soft"),
    *("a<|im_start|>user\nhi<|im_end|>\n", "Hello World!Foo_bar"),
]
WORDS = [*TEXTS, "a\n\nb  c    d", "the then they there jumping jumped jumps"] * 4
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + END
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FIRST, SECOND = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}{one}{LOWER}{other}" for one, other in ("*+", "+*")
)
PATTERNS = {
    "gpt-2": "",
    "llama-bpe": LLAMA,
    "qwen2": LLAMA.replace("{1,3}", ""),
    "tekken": rf"{FIRST}|{SECOND}|\p{{N}}" + END.replace("\\n]*", "\\n/]*"),
    "gpt-4o": rf"{FIRST}{CONTRACTIONS}?|{SECOND}{CONTRACTIONS}?|\p{{N}}{{1,3}}"
    + END.replace("\\n]*", "\\n/]*"),
}


def model(place: Path, tokenizer: Any, kind: str = "Llama", **names: str) -> tuple[str, Any]:
    """Return the file of a model with this tokenizer, and what transformers reads of it."""
    tokenizer.save(str(place / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (place / "tokenizer_config.json").write_text(json.dumps(said))
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": tokenizer.get_vocab_size()}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(place)
    return written(place), transformers.AutoTokenizer.from_pretrained(place)


def written(place: Path) -> str:
    plan = plan_language_model(place, "f32")
    return write_gguf(plan.tensors, plan.metadata, place / "model.gguf").path


def differing(file: str, reference: Any, texts: list[str], llama_runs: Any) -> dict[str, Any]:
    wanted = [reference(text).input_ids for text in texts]
    made = list(llama_runs.tokens(file, texts))
    pairs = zip(texts, made, wanted, strict=True)
    return {text: (one, other) for text, one, other in pairs if one != other}


def around(tokenizer: Any, first: str, last: str = "") -> None:
    template = [one for one in (first, "$A", last) if one]
    ids = [(one, tokenizer.token_to_id(one)) for one in {first, last} - {""}]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=" ".join(template), special_tokens=ids
    )


@pytest.mark.parametrize("name", sorted(PATTERNS))
@pytest.mark.parametrize("begins", [True, False])
def test_bytes_are_joined_alike(name: str, begins: bool, tmp_path: Path, llama_runs: Any) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = tokenizers.pre_tokenizers.ByteLevel
    cut = level(add_prefix_space=False, use_regex=not PATTERNS[name])
    if PATTERNS[name]:
        pattern = tokenizers.Regex(PATTERNS[name])
        parts = [tokenizers.pre_tokenizers.Split(pattern, "isolated"), cut]
        cut = tokenizers.pre_tokenizers.Sequence(parts)
    made.pre_tokenizer = cut
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=level.alphabet(), show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if begins:
        around(made, "<|endoftext|>")
    file, reference = model(tmp_path, made, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    assert not differing(file, reference, TEXTS, llama_runs)


def pieces_of_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train pieces such as those of Llama: with bytes, and a mark for a space."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement=SPACE)
    own = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=own, limit_alphabet=60, show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)
    said = json.loads(made.to_str())["model"]
    return said["vocab"], [(first, second) for first, second in said["merges"]]


@pytest.mark.parametrize("begins", [True, False])
def test_pieces_are_joined_alike(begins: bool, tmp_path: Path, llama_runs: Any) -> None:
    vocabulary, merges = pieces_of_pairs()
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    normalizers = tokenizers.normalizers
    parts = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    made.normalizer = normalizers.Sequence(parts)
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    if begins:
        around(made, "<s>")
    file, reference = model(tmp_path, made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert not differing(file, reference, TEXTS, llama_runs)


@pytest.mark.parametrize(
    "options",
    [
        {"lowercase": True},
        {"lowercase": False, "strip_accents": False},
        {"lowercase": True, "strip_accents": False},
        {"lowercase": False, "strip_accents": True},
    ],
)
@pytest.mark.parametrize("is_named", [True, False])
def test_words_are_parted_alike(
    options: dict[str, bool], is_named: bool, tmp_path: Path, llama_runs: Any
) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(**options)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    own = ["[SEP]", "[MASK]", "[UNK]", "[PAD]", "[CLS]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=own, show_progress=False
    )
    # a word that goes on with a mark would be one that begins, and be refused
    made.train_from_iterator([text for text in WORDS if SPACE not in text], trainer)
    around(made, "[CLS]", "[SEP]")
    names = {f"{one[1:-1].lower()}_token": one for one in own} if is_named else {}
    file, reference = model(tmp_path, made, "Bert", **names)
    # one letter of Turkish becomes two as it becomes small, in transformers alone
    texts = [text for text in TEXTS if "İ" not in text]
    assert not differing(file, reference, texts, llama_runs)


def test_likely_pieces_are_chosen_alike(tmp_path: Path, llama_runs: Any) -> None:
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made = tokenizers.Tokenizer(tokenizers.models.Unigram())
    cut = tokenizers.pre_tokenizers
    parts = [cut.WhitespaceSplit(), cut.Metaspace(replacement=SPACE, prepend_scheme="always")]
    made.pre_tokenizer = cut.Sequence(parts)
    made.train_from_iterator(WORDS, trainer)
    around(made, "<s>", "</s>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    file, reference = model(tmp_path, made, "XLMRoberta", **names, cls_token="<s>")
    # other spaces, and marks, are replaced before by what such models have for that
    plain = [text for text in TEXTS if text.replace(" ", "").isprintable()]
    texts = [text for text in plain if not {SPACE, "\u3000"} & set(text)]
    assert len(texts) > 10
    assert not differing(file, reference, texts, llama_runs)


def field(number: int, content: bytes) -> bytes:
    size = bytes([len(content) & 127 | 128, len(content) >> 7]) if len(content) > 127 else b""
    return bytes([number << 3 | 2]) + (size or bytes([len(content)])) + content


def test_tokens_beside_a_model_of_pieces_are_found(tmp_path: Path, llama_runs: Any) -> None:
    """Some of the author's own are in the model, others in files beside it."""
    pieces = [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        *((f"<0x{byte:02X}>", 6) for byte in range(256)),
    ]
    pieces += [(SPACE, 1), ("a", 1), (f"{SPACE}a", 1), (SPACE * 2, 4)]
    content = b""
    for index, (text, kind) in enumerate(pieces):
        score = b"\x15" + struct.pack("<f", -float(index)) + bytes([0x18, kind])
        content += field(1, field(1, text.encode()) + score)
    content += field(2, b"\x18\x02") + field(3, b"\x18\x00\x20\x00")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|user|>": len(pieces)}))
    (tmp_path / "tokenizer.model").write_bytes(content)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": len(pieces) + 1}
    transformers.LlamaModel(transformers.LlamaConfig(**sizes)).save_pretrained(tmp_path)
    (found,) = llama_runs.tokens(written(tmp_path), ["<|user|>a a  aA"])
    first = len(pieces)
    assert found == [1, first, first - 3, first - 2, first - 1, first - 3, 3 + ord("A")]
