"""Names of precisions: spellings, bits that are asked for, and what a source kind makes of them."""

from __future__ import annotations

import pytest

from gen_worker.conversion.vocabulary import (
    CONCRETE_DTYPES,
    default_dtype_for_source,
    flavor_of,
    is_concrete_dtype,
    is_fuzzy_bitwidth,
    normalize_dtype,
    resolve_fuzzy_to_concrete,
)
from gen_worker.errors import ValidationError


@pytest.mark.parametrize(
    ("given", "token"),
    [
        (" BF16 ", "bf16"),
        ("fp8_e4m3", "fp8:e4m3"),
        ("FP8-E5M2", "fp8:e5m2"),
        ("gguf:Q4_K_M", "q4_k_m"),
        ("bfloat16", "bf16"),
        ("int4:gptq:g128", "int4:gptq:g128"),
    ],
)
def test_a_precision_has_one_spelling(given: str, token: str) -> None:
    assert normalize_dtype(given) == token
    assert is_concrete_dtype(given)
    assert token in CONCRETE_DTYPES


@pytest.mark.parametrize("given", ["4bit", "16bit", "8-bit", "2BIT"])
def test_bits_are_no_precision_yet(given: str) -> None:
    assert is_fuzzy_bitwidth(given)
    assert not is_concrete_dtype(given)


@pytest.mark.parametrize("given", ["bit", "xbit", "4bits", "q9_9", "", "²bit"])
def test_other_words_are_neither(given: str) -> None:
    assert not is_fuzzy_bitwidth(given)
    assert not is_concrete_dtype(given)


@pytest.mark.parametrize(
    ("value", "kind", "available", "found"),
    [
        ("4bit", "gguf", ("q4_0", "q4_k_m", "q8_0"), "q4_k_m"),
        ("16bit", "gguf", ("f16",), "f16"),
        ("16bit", "transformers", ("fp32", "fp16", "bf16"), "bf16"),
        ("8bit", "transformers", ("int8",), "int8"),
        ("4bit", "diffusers", ("int4", "nvfp4"), "nvfp4"),
        ("32bit", "peft", ("fp32", "bf16"), "fp32"),
        ("q4_k_m", "gguf", (), "q4_k_m"),
    ],
)
def test_bits_become_the_first_precision_there_is(
    value: str, kind: str, available: tuple[str, ...], found: str
) -> None:
    assert resolve_fuzzy_to_concrete(value, source_kind=kind, available_dtypes=available) == found


@pytest.mark.parametrize(
    ("value", "kind", "available", "said"),
    [
        ("4bit", "gguf", ("q8_0",), "there is only q8_0"),
        ("4bit", "diffusers", (), "nothing"),
        ("3bit", "transformers", ("bf16",), "no precision of 3 bits.*: give one of .*4bit"),
        ("q9_9", "gguf", (), "no precision"),
        ("q4km", "gguf", (), "did you mean 'q4_k_m'"),
        ("awq", "transformers", (), "did you mean 'int4:awq' or 'int8:awq'"),
        ("fp8_e4m3fn", "transformers", (), "did you mean 'fp8:e4m3'"),
        ("gguf", "transformers", (), "give the type of the file, such as 'gguf:q4_k_m'"),
        ("onnx", "transformers", (), "give one such as 'bf16'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    value: str, kind: str, available: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        resolve_fuzzy_to_concrete(value, source_kind=kind, available_dtypes=available)


def test_without_a_wish_the_best_there_is_is_taken() -> None:
    assert default_dtype_for_source("diffusers", ("fp32", "fp16")) == "fp16"
    assert default_dtype_for_source("gguf", ("q4_0", "q8_0", "f32")) == "q8_0"
    assert default_dtype_for_source("transformers", ("int8",)) is None


def test_flavors_have_no_colon() -> None:
    assert flavor_of("fp8:e4m3") == "fp8-e4m3"
    assert flavor_of("Q4_K_M") == "q4_k_m"
