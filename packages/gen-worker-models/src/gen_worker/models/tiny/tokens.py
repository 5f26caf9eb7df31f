"""Tokenizers for the tiny models: real classes over an alphabet of bytes."""

from __future__ import annotations

from typing import Any

from gen_worker.models.loading.libraries import library

__all__ = ["clip_tokenizer", "text_tokenizer", "unigram_tokenizer"]

_TEXT = (
    "a photo of an astronaut riding a horse on mars",
    "the quick brown fox jumps over the lazy dog",
    "once upon a time there was a small model that told small stories",
)


def _alphabet() -> list[str]:
    pre_tokenizers = library("tokenizers").pre_tokenizers
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer() -> Any:
    """Return a CLIP tokenizer of 514 entries that cuts a text into its bytes."""
    letters = _alphabet()
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return library("transformers").CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def unigram_tokenizer() -> Any:
    """Return a T5 tokenizer of single letters."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in letters]
    return library("transformers").T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=64)


def text_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of 320 entries, trained on a few sentences."""
    tokenizers = library("tokenizers")
    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_TEXT, trainer)
    return library("transformers").PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
        chat_template="{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
    )
