"""What a GGUF file says about the tokenizer of a model, from the files of transformers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError, unsupported_tokenizer
from gen_worker.conversion.gguf.json_files import read_json, unreadable
from gen_worker.conversion.gguf.normalizers import (
    adds_space,
    changes_of_text,
    charsmap_of,
    lowers_case,
    merges_spaces,
    splits_chinese,
    strips_accents,
    types_in,
    unigram_options,
)
from gen_worker.conversion.gguf.pre_tokenizers import pre_tokenizer_of
from gen_worker.conversion.gguf.sentencepiece_file import read_sentencepiece
from gen_worker.conversion.gguf.special_tokens import added_tokens, ids_around, special_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.container import Value
    from gen_worker.conversion.gguf.sentencepiece_file import Sentencepiece

__all__ = ["check_vocabulary", "tokenizer_metadata"]

_NORMAL, _UNKNOWN, _CONTROL, _OWN, _UNUSED, _BYTE = range(1, 7)
_MAX_TOKENS = 1 << 22
"""Some ten times as many as any model knows."""
_LOOK_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_PRE_OF = {"roberta": "roberta-bpe"}
"""Of models whose tokenizer is cut as another one's, and puts other tokens around a text."""
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class _Vocabulary(NamedTuple):
    model: str
    """Of `tokenizer.ggml.model`."""
    pre: str
    tokens: dict[int, str]
    kinds: dict[int, int]
    scores: dict[int, float]
    """Empty where there are merges instead."""
    options: dict[str, Value]
    """Other keys that begin with `tokenizer.ggml.`."""


def tokenizer_metadata(
    directory: str, config: Mapping[str, Any], *, pre_tokenizer: str | None = None
) -> dict[str, Value]:
    """Return the metadata that begin with `tokenizer.`.

    Args:
        directory: With `tokenizer.json` or `tokenizer.model`, and `tokenizer_config.json`.
        config: What `config.json` says.
        pre_tokenizer: Name that llama.cpp has for how texts are cut before bytes are joined, for a
            tokenizer that is not recognised.

    Raises:
        GgufSourceError: There is no tokenizer, or one that GGUF files cannot describe.
    """
    if pre_tokenizer is None and config.get("model_type") in _PRE_OF:
        pre_tokenizer = _PRE_OF[config["model_type"]]
    size = config.get("vocab_size") or 0
    if not isinstance(size, int) or size > _MAX_TOKENS:
        raise GgufSourceError(
            f"the configuration of {directory!r} says {size!r:.100} for 'vocab_size': take the one "
            "that belongs to the model",
            code="gguf_invalid_config_json",
            file=directory,
        )
    vocabulary = _vocabulary(directory, pre_tokenizer, size or _MAX_TOKENS)
    count = max(vocabulary.tokens, default=-1) + 1
    size = size or count
    if count > size:
        raise GgufSourceError(
            f"the tokenizer in {directory!r} has {count} tokens, and the model knows {size}: take "
            "the files that belong together",
            code="gguf_invalid_tokenizer",
            file=directory,
        )
    ids = range(size)
    made: dict[str, Value] = {
        "model": vocabulary.model,
        "pre": vocabulary.pre,
        "tokens": [vocabulary.tokens.get(index, f"[PAD{index}]") for index in ids],
        "token_type": [vocabulary.kinds.get(index, _UNUSED) for index in ids],
    }
    if vocabulary.scores:
        made["scores"] = [vocabulary.scores.get(index, -10000.0) for index in ids]
    if vocabulary.model == "bert" or config.get("type_vocab_size"):
        made["token_type_count"] = config.get("type_vocab_size") or 1
    unknown = [index for index, kind in vocabulary.kinds.items() if kind == _UNKNOWN]
    made |= {"unknown_token_id": unknown[0]} if unknown else {}
    made |= vocabulary.options | _own_options(directory, vocabulary)
    special, templates = special_tokens(directory, size, with_merges=vocabulary.model == "gpt2")
    return {f"tokenizer.ggml.{key}": value for key, value in (made | special).items()} | templates


def check_vocabulary(metadata: Mapping[str, Value], directory: str) -> None:
    """Refuse a vocabulary that llama.cpp ends the process for.

    Args:
        metadata: From `tokenizer_metadata`.
        directory: Of the tokenizer, for messages.

    Raises:
        GgufSourceError: Two tokens are one text, or there is a byte that no token stands for.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        other = first.setdefault(token, index)
        if other != index:
            raise unsupported_tokenizer(directory, f"with {token!r} as {other} and as {index}")
    if metadata["tokenizer.ggml.model"] != "llama":
        return
    for byte in range(256):  # `llama_vocab::impl::byte_to_token`
        if f"<0x{byte:02X}>" not in first and (byte > 127 or chr(byte) not in first):
            raise unsupported_tokenizer(directory, f"that has no token for the byte {byte}")


def _vocabulary(directory: str, pre_tokenizer: str | None, size: int) -> _Vocabulary:
    model, fast = (os.path.join(directory, f"tokenizer.{kind}") for kind in ("model", "json"))
    has_fast = os.path.isfile(fast)
    if not has_fast and not os.path.isfile(model):
        raise GgufSourceError(
            f"{directory!r} has neither 'tokenizer.json' nor 'tokenizer.model': a GGUF file of a "
            "language model needs its tokenizer; put the file there",
            code="gguf_missing_tokenizer_assets",
            file=directory,
        )
    content = read_json(fast, "gguf_invalid_tokenizer") if has_fast else {}
    try:
        pieces = read_sentencepiece(model) if os.path.isfile(model) else None
        if pieces is not None and not (pieces.is_unigram and has_fast):
            found = _of_pieces(model, pieces)
        else:
            found = _of_fast(fast, content, pre_tokenizer)
        _add(found, added_tokens(directory, content, size))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, GgufSourceError):
            raise
        raise unreadable(fast, "gguf_invalid_tokenizer", f"{error!r}") from error
    return found


def _of_pieces(path: str, model: Sentencepiece) -> _Vocabulary:
    pieces = list(enumerate(model.pieces))
    options: dict[str, Value] = {"add_space_prefix": model.adds_space}
    if not model.is_unigram and (model.charsmap or model.merges_spaces):
        what = "replaces characters" if model.charsmap else "makes several spaces one"
        raise unsupported_tokenizer(path, f"of pairs that {what}")
    if model.is_unigram:
        options |= unigram_options(model.charsmap, merges_spaces=model.merges_spaces)
    return _Vocabulary(
        "t5" if model.is_unigram else "llama",
        "default",
        {index: _plain(piece.text, piece.kind) for index, piece in pieces},
        {index: piece.kind for index, piece in pieces},
        {index: piece.score for index, piece in pieces},
        options,
    )


def _own_options(directory: str, vocabulary: _Vocabulary) -> dict[str, Value]:
    """Return what the configuration of a tokenizer decides against its model."""
    path = os.path.join(directory, "tokenizer_config.json")
    if "add_space_prefix" not in vocabulary.options or not os.path.isfile(path):
        return {}
    wanted = read_json(path, "gguf_invalid_tokenizer").get("add_prefix_space")
    return {"add_space_prefix": wanted} if isinstance(wanted, bool) else {}


def _of_fast(path: str, content: Mapping[str, Any], pre_tokenizer: str | None) -> _Vocabulary:
    model = content["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "")
    if kind == "Unigram":
        return _unigram(content, model)
    if kind not in ("BPE", "WordPiece"):
        known = "those of BPE, WordPiece and Unigram are written"
        raise unsupported_tokenizer(path, f"of type {kind!r}, {known}")
    tokens = {int(index): str(token) for token, index in model["vocab"].items()}
    if kind == "WordPiece":
        if not splits_chinese(content):
            raise unsupported_tokenizer(path, "that keeps Chinese characters together")
        return _word_pieces(content, tokens)
    if changes_of_text(content):
        raise unsupported_tokenizer(path, changes_of_text(content))
    kinds = dict.fromkeys(tokens, _NORMAL)
    options: dict[str, Value] = {"add_bos_token": False}
    if "ByteLevel" in types_in(content.get("pre_tokenizer")):
        pre = pre_tokenizer or pre_tokenizer_of(path, content)
        return _Vocabulary("gpt2", pre, tokens, kinds, {}, options)
    kinds |= {index: _BYTE for index, token in tokens.items() if _is_byte(token)}
    kinds |= {index: _UNKNOWN for index, token in tokens.items() if token == model.get("unk_token")}
    options["add_space_prefix"] = adds_space(content)
    return _Vocabulary("llama", "default", tokens, kinds, _scores(model["merges"], tokens), options)


def _unigram(content: Mapping[str, Any], model: Mapping[str, Any]) -> _Vocabulary:
    """Return pieces with how likely they are, as those of T5 and XLM-R have them."""
    pieces = [(str(text), float(score)) for text, score in model["vocab"]]
    tokens = {index: text for index, (text, _) in enumerate(pieces)}
    kinds = dict.fromkeys(tokens, _NORMAL)
    if model.get("byte_fallback"):
        kinds |= {index: _BYTE for index, token in tokens.items() if _is_byte(token)}
    if model.get("unk_id") is not None:
        kinds[int(model["unk_id"])] = _UNKNOWN
    options: dict[str, Value] = {"add_space_prefix": adds_space(content)}
    options |= unigram_options(charsmap_of(content), merges_spaces=merges_spaces(content))
    scores = {index: score for index, (_, score) in enumerate(pieces)}
    return _Vocabulary("t5", "default", tokens, kinds, scores, options)


def _word_pieces(content: Mapping[str, Any], tokens: dict[int, str]) -> _Vocabulary:
    """Return them as llama.cpp has them: with a mark where a word begins, not where it goes on."""
    prefix = content["model"].get("continuing_subword_prefix", "##")
    unknown, ids = content["model"].get("unk_token"), {tokens[index]: index for index in tokens}
    special = {one["id"] for one in content.get("added_tokens") or [] if one.get("special")}
    marked = {
        index: token
        if index in special
        else token.removeprefix(prefix)
        if token.startswith(prefix)
        else _SPACE + token
        for index, token in tokens.items()
    }
    options: dict[str, Value] = {"normalizer.lowercase": lowers_case(content)}
    accents = strips_accents(content)
    if accents is not None:
        options["normalizer.strip_accents"] = accents
    options |= {"unknown_token_id": ids[unknown]} if unknown in ids else {}
    options |= ids_around(content)
    return _Vocabulary("bert", "bert-bge", marked, dict.fromkeys(tokens, _NORMAL), {}, options)


def _scores(merges: list[Any], tokens: Mapping[int, str]) -> dict[int, float]:
    """Return scores that let the earliest merge win, as SentencePiece orders them."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        joined = merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)
        ranks.setdefault(joined, rank)
    return {index: -float(ranks.get(token, len(merges))) for index, token in tokens.items()}


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _add(vocabulary: _Vocabulary, added: list[Any]) -> None:
    """Put tokens that are not learned into a vocabulary."""
    for one in added:
        index, token = int(one["id"]), str(one["content"])
        is_special = bool(one.get("special")) or _looks_special(token)
        vocabulary.tokens[index] = _plain(token, _CONTROL if is_special else _OWN)
        if vocabulary.kinds.get(index) != _UNKNOWN:
            vocabulary.kinds[index] = _CONTROL if is_special else _OWN
        if vocabulary.scores and vocabulary.model == "llama":
            vocabulary.scores[index] = -1000.0


def _plain(token: str, kind: int) -> str:
    """Return what is looked for in a text: for tokens of their own before spaces are replaced."""
    return token.replace(_SPACE, " ") if kind == _OWN else token


def _looks_special(token: str) -> bool:
    is_marked = token.startswith(("<|", "<unused")) and token.endswith(">")
    return token in _LOOK_SPECIAL or is_marked
