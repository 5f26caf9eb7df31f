"""Every token of the vocabulary is written or refused by name; mixes are those of llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.gguf.mixes import Fallback, Heads, choose_types
from gen_worker.conversion.gguf.types import NOT_WRITTEN, WRITTEN, file_type
from gen_worker.conversion.vocabulary import GGUF_TYPES
from gen_worker.models.formats.gguf_types import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = 16


def model(*, is_tied: bool = False, columns: int = 512) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (1000, columns),
        "output_norm.weight": (columns,),
    }
    for layer in range(LAYERS):
        for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            shapes[f"blk.{layer}.{kind}.weight"] = (512, columns)
        shapes[f"blk.{layer}.attn_norm.weight"] = (columns,)
    return shapes if is_tied else shapes | {"output.weight": (1000, columns)}


def chosen(token: str, heads: Heads = Heads(), *, is_tied: bool = False) -> Mapping[str, str]:  # noqa: B008
    return choose_types(model(is_tied=is_tied), file_type(token), heads).types


def layers_of(types: Mapping[str, str], kind: str, type_name: str) -> set[int]:
    return {layer for layer in range(LAYERS) if types[f"blk.{layer}.{kind}.weight"] == type_name}


def test_every_type_is_written_or_refused_with_a_remedy() -> None:
    assert GGUF_TYPES | {"f32", "f16", "bf16"} == set(WRITTEN) | set(NOT_WRITTEN)
    names = {block.name for block in BLOCKS.values()}
    for token, found in WRITTEN.items():
        assert file_type(f"GGUF:{token}") is found
        assert found.base in names
    for token in NOT_WRITTEN:
        with pytest.raises(ConversionInputError, match=rf"'{token}' .*choose"):
            file_type(token)
    with pytest.raises(ConversionInputError, match="known are f32, f16"):
        file_type("q9")


@pytest.mark.parametrize("token", sorted(WRITTEN))
def test_norms_and_vectors_stay_whole(token: str) -> None:
    types = chosen(token)
    assert types["output_norm.weight"] == types["blk.0.attn_norm.weight"] == "F32"
    assert types["blk.3.attn_q.weight"] == WRITTEN[token].base


def test_the_mix_m_gives_more_bits_to_some_layers() -> None:
    # LAYERS // 8 first ones, as many last ones, and every third between them
    more = {0, 1, 4, 7, 10, 13, 14, 15}
    for token in ("q4_k_m", "q5_k_m"):
        types = chosen(token)
        assert layers_of(types, "attn_v", "Q6_K") == more
        assert layers_of(types, "ffn_down", "Q6_K") == more
    assert layers_of(chosen("q4_k_s"), "attn_v", "Q5_K") == {0, 1, 2, 3}
    assert layers_of(chosen("q4_k_s"), "ffn_down", "Q5_K") == {0, 1}


def test_mixes_of_three_and_two_bits() -> None:
    everywhere = set(range(LAYERS))
    medium = chosen("q3_k_m")
    assert layers_of(medium, "attn_v", "Q5_K") == {0, 1}
    assert layers_of(medium, "attn_v", "Q4_K") == everywhere - {0, 1}
    assert layers_of(medium, "ffn_down", "Q5_K") == {0}
    assert layers_of(medium, "attn_output", "Q4_K") == everywhere
    large = chosen("q3_k_l")
    assert all(
        layers_of(large, kind, "Q5_K") == everywhere
        for kind in ("attn_v", "attn_output", "ffn_down")
    )
    smallest = chosen("q2_k")
    assert layers_of(smallest, "attn_v", "Q3_K") == everywhere
    assert layers_of(chosen("q2_k", Heads(4)), "attn_v", "Q4_K") == everywhere
    assert layers_of(chosen("q3_k_s", Heads(8, is_70b=True)), "attn_v", "Q5_K") == everywhere


def test_embedding_and_output_keep_more() -> None:
    apart = chosen("q4_k_m")
    assert (apart["token_embd.weight"], apart["output.weight"]) == ("Q4_K", "Q6_K")
    assert chosen("q4_k_m", is_tied=True)["token_embd.weight"] == "Q6_K"
    assert chosen("q8_0", is_tied=True)["token_embd.weight"] == "Q8_0"
    assert chosen("f16")["output.weight"] == "F16"
    large = chosen("q4_k_l")
    assert large["token_embd.weight"] == large["output.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("token", "columns", "used"),
    [
        ("q2_k", 96, "Q4_0"),
        ("q4_k_s", 96, "Q5_0"),
        ("q5_k_s", 96, "Q5_1"),
        ("q6_k", 96, "Q8_0"),
        ("q4_k_s", 100, "F16"),
        ("q8_0", 100, "F16"),
    ],
)
def test_rows_that_do_not_fit_are_named(token: str, columns: int, used: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"blk.0.attn_q.weight": (8, columns)}
    made = choose_types(shapes, file_type(token), Heads())
    wanted = WRITTEN[token].base
    assert made.types == {"blk.0.attn_q.weight": used}
    assert made.fallbacks == (Fallback("blk.0.attn_q.weight", wanted, used, columns),)


def test_first_layers_are_protected_from_an_importance_matrix() -> None:
    made = choose_types(model(), file_type("q4_0"), Heads(), has_importance=True)
    assert layers_of(made.types, "ffn_down", "Q4_1") == {0, 1}
    assert layers_of(chosen("q4_0"), "ffn_down", "Q4_1") == set()
