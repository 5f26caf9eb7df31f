"""What a GGUF file says about the tokenizer of a model, from the files of transformers."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.normalizers import (
    adds_space,
    charsmap_of,
    lowers_case,
    merges_spaces,
    types_in,
    unigram_options,
)
from gen_worker.conversion.gguf.sentencepiece_file import read_sentencepiece
from gen_worker.conversion.gguf.tensor_names import gguf_package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.container import Value
    from gen_worker.conversion.gguf.sentencepiece_file import Sentencepiece

__all__ = ["read_json", "tokenizer_metadata"]

_NORMAL, _UNKNOWN, _CONTROL, _OWN, _UNUSED, _BYTE = range(1, 7)
_MAX_JSON_BYTES = 128 << 20
_MAX_TOKENS = 1 << 22
"""Some ten times as many as any model knows."""
_LOOK_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
"""Parts of keys, spelled as llama.cpp reads them."""
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
    vocabulary = _vocabulary(directory, pre_tokenizer)
    count = max(vocabulary.tokens, default=-1) + 1
    size = config.get("vocab_size") or count
    if not isinstance(size, int) or size > _MAX_TOKENS:
        raise GgufSourceError(
            f"the configuration of {directory!r} says {size!r:.100} for 'vocab_size': take the one "
            "that belongs to the model",
            code="gguf_invalid_config_json",
            file=directory,
        )
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
    made |= vocabulary.options | _own_options(directory, vocabulary)
    special, templates = _special(directory, size, with_merges=vocabulary.model == "gpt2")
    return {f"tokenizer.ggml.{key}": value for key, value in (made | special).items()} | templates


def read_json(path: str, code: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        GgufSourceError: It has none; with this code.
    """
    try:
        with open(path, "rb") as file:
            is_sensible = os.fstat(file.fileno()).st_size <= _MAX_JSON_BYTES
            found = json.loads(file.read()) if is_sensible else None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, code, str(error)) from error
    if not isinstance(found, dict):
        raise _unreadable(path, code, "it is no JSON object of a sensible size")
    return found


def _unreadable(path: str, code: str, why: str) -> GgufSourceError:
    return GgufSourceError(f"{path!r} cannot be read: {why}; fetch it again", code=code, file=path)


def _vocabulary(directory: str, pre_tokenizer: str | None) -> _Vocabulary:
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
            found = _of_pieces(pieces)
        else:
            found = _of_fast(fast, content, pre_tokenizer)
        _add(found, content.get("added_tokens") or [])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, GgufSourceError):
            raise
        raise _unreadable(fast, "gguf_invalid_tokenizer", f"{error!r}") from error
    return found


def _of_pieces(model: Sentencepiece) -> _Vocabulary:
    pieces = list(enumerate(model.pieces))
    options: dict[str, Value] = {"add_space_prefix": model.adds_space}
    if model.is_unigram:
        options |= unigram_options(model.charsmap, merges_spaces=model.merges_spaces)
    return _Vocabulary(
        "t5" if model.is_unigram else "llama",
        "default",
        {index: piece.text for index, piece in pieces},
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
        raise GgufSourceError(
            f"{path!r} is a tokenizer of type {kind!r}, those of BPE, WordPiece and Unigram are "
            "written: choose another format for this model",
            code="gguf_unsupported_tokenizer",
            file=path,
        )
    tokens = {int(index): str(token) for token, index in model["vocab"].items()}
    if kind == "WordPiece":
        return _word_pieces(content, tokens, model.get("continuing_subword_prefix", "##"))
    kinds = dict.fromkeys(tokens, _NORMAL)
    if "ByteLevel" in types_in(content.get("pre_tokenizer")):
        return _Vocabulary("gpt2", pre_tokenizer or _pre_of(path, content), tokens, kinds, {}, {})
    kinds |= {index: _BYTE for index, token in tokens.items() if _is_byte(token)}
    kinds |= {index: _UNKNOWN for index, token in tokens.items() if token == model.get("unk_token")}
    scores, options = _scores(model["merges"], tokens), {"add_space_prefix": adds_space(content)}
    return _Vocabulary("llama", "default", tokens, kinds, scores, {**options})


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


def _word_pieces(content: Mapping[str, Any], tokens: dict[int, str], prefix: str) -> _Vocabulary:
    """Return them as llama.cpp has them: with a mark where a word begins, not where it goes on."""
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


_PATTERNS = (
    (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*", "tekken"),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|", "llama-bpe"),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", "qwen2"),
)
"""How regular expressions of pre-tokenizers go on, and what llama.cpp calls them."""


def _pre_of(path: str, content: Mapping[str, Any]) -> str:
    text = json.dumps(content["pre_tokenizer"])
    for pattern, name in _PATTERNS:
        if json.dumps(pattern)[1:-1] in text:
            return name
    if "Split" not in types_in(content["pre_tokenizer"]):
        return "gpt-2"
    raise GgufSourceError(
        f"{path!r} cuts texts in a way that is not recognised: give the name that llama.cpp has "
        "for it as pre_tokenizer",
        code="gguf_unknown_pre_tokenizer",
        file=path,
    )


def _add(vocabulary: _Vocabulary, added: list[Any]) -> None:
    """Put tokens that are not learned into a vocabulary."""
    for one in added:
        index, token = int(one["id"]), str(one["content"])
        is_special = bool(one.get("special")) or _looks_special(token)
        vocabulary.tokens[index] = token if is_special else token.replace(_SPACE, " ")
        if vocabulary.kinds.get(index) != _UNKNOWN:
            vocabulary.kinds[index] = _CONTROL if is_special else _OWN
        if vocabulary.scores and vocabulary.model == "llama":
            vocabulary.scores[index] = -1000.0


def _looks_special(token: str) -> bool:
    is_marked = token.startswith(("<|", "<unused")) and token.endswith(">")
    return token in _LOOK_SPECIAL or is_marked


def _special(
    directory: str, size: int, *, with_merges: bool
) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return the metadata of special tokens and merges, and those of chat templates."""
    from pathlib import Path

    try:
        found = gguf_package().SpecialVocab(Path(directory), with_merges, n_vocab=size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(directory, "gguf_invalid_tokenizer", f"{error!r}") from error
    made: dict[str, Value] = {"merges": found.merges} if found.merges else {}
    for kind, index in found.special_token_ids.items():
        made[f"{_KEYS.get(kind, kind)}_token_id"] = index
    for kind, is_added in found.add_special_token.items():
        made[f"add_{kind}_token"] = is_added
    return made, _templates(found.chat_template)


def _templates(found: Any) -> dict[str, Value]:
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    by_name = {str(one["name"]): str(one["template"]) for one in found or []}
    made: dict[str, Value] = {}
    for name, template in by_name.items():
        made["tokenizer.chat_template" + (f".{name}" if name != "default" else "")] = template
    others = sorted(set(by_name) - {"default"})
    return made | ({"tokenizer.chat_templates": others} if others else {})
