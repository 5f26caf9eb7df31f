"""Methods have one name each; what is not done here, or cannot be done so, is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.tensor import LazyTensor
from gen_worker.conversion.quantize import (
    METHODS,
    OTHERS_METHODS,
    RECIPES,
    Policy,
    QuantizeOptions,
    lookup_method,
    quantize_checkpoint,
    recipe_for,
)
from gen_worker.conversion.quantize.options import completed
from gen_worker.conversion.quantize.policy import choose
from gen_worker.conversion.vocabulary import is_concrete_dtype


class Shape(LazyTensor):
    """A tensor that nobody reads."""

    def rows(self, start: int, stop: int) -> Any:
        raise AssertionError("a plan reads nothing")

    @property
    def inputs(self) -> tuple[LazyTensor, ...]:
        return ()


def checkpoint(*names: str, shape: tuple[int, ...] = (64, 64)) -> dict[str, LazyTensor]:
    return {name: Shape(shape, "BF16") for name in names}


def chosen(
    tensors: dict[str, LazyTensor], policy: Policy | None = None
) -> tuple[set[str], dict[str, str]]:
    choice = choose(tensors, METHODS["int8"], policy or Policy(), lambda _name, _tensor: "")
    return set(choice.quantized), dict(choice.kept)


def test_every_token_of_the_vocabulary_is_done_here_or_refused_by_name() -> None:
    for method in METHODS.values():
        for name in (method.name, *method.aliases):
            assert lookup_method(name) is method
            assert ":storage" in name or name == "int4_wo" or is_concrete_dtype(name)


@pytest.mark.parametrize("name", sorted(OTHERS_METHODS))
def test_what_is_done_elsewhere_says_where(name: str) -> None:
    with pytest.raises(ConversionInputError, match=OTHERS_METHODS[name].runtime):
        lookup_method(name)


@pytest.mark.parametrize(("name", "words"), [("q4_k_m", "GGUF"), ("int3", "no method"), ("", "no")])
def test_other_tokens_are_refused(name: str, words: str) -> None:
    with pytest.raises(ConversionInputError, match=words):
        lookup_method(name)


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("fp8:e5m2", {"layout": "compressed-tensors"}, "written as torchao"),
        ("fp8", {"layout": "bitsandbytes"}, "written as"),
        ("fp8", {"layout": "torchao", "granularity": "block"}, "by row or tensor"),
        ("int8", {"granularity": "tensor"}, "not by 'tensor'"),
        ("int8", {"group_size": 32}, "no groups"),
        ("nvfp4", {"group_size": 32}, "blocks of 16 by its format"),
        ("mxfp4", {"granularity": "row"}, "its format's own blocks"),
        ("nf4", {"group_size": 48}, "blocks of 32"),
        ("int4:wo", {"group_size": 12}, "multiple of 8"),
        ("nf4", {"symmetric": False}, "symmetric"),
        ("nf4", {"activations": "dynamic"}, "activations"),
        ("fp8", {"activations": "static", "granularity": "block"}, "activations"),
        ("int8", {"activations": "static", "layout": "torchao"}, "activations"),
        ("int4:gptq", {"activations": "static"}, "activations"),
        ("int4:wo", {"damping": 0.1}, "not fitted to inputs"),
        ("int8", {"by_activation": False}, "not fitted to inputs"),
        ("int8:gptq", {"damping": 1.5}, "between 0 and 1"),
        ("fp8", {"dtype": "fp4"}, "bf16, fp16 or fp32"),
    ],
)
def test_options_that_a_method_has_not_are_refused(
    name: str, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConversionInputError, match=words):
        completed(lookup_method(name), QuantizeOptions(**asked))


def test_all_mistakes_are_told_at_once() -> None:
    asked = QuantizeOptions(granularity="block", group_size=3, symmetric=False)
    with pytest.raises(ConversionInputError, match=r"'block'; .*no groups.*; is symmetric"):
        completed(lookup_method("int8"), asked)


def test_defaults_are_filled_in() -> None:
    assert completed(lookup_method("int4:wo"), QuantizeOptions()) == QuantizeOptions(
        layout="compressed-tensors", granularity="group", group_size=128
    )


def test_groups_of_gptq_are_in_its_names() -> None:
    sizes = {name: lookup_method(f"int4:gptq{name}").group_size for name in ("", ":g32", ":g64")}
    assert sizes == {"": 128, ":g32": 32, ":g64": 64}
    assert lookup_method("int4:gptq:g128") is lookup_method("int4:gptq")


def test_weights_outside_of_the_stack_are_not_fitted() -> None:
    tensors = checkpoint(
        "m.layers.0.a.weight", "m.layers.1.a.weight", "side.0.b.weight", "c.weight"
    )
    made = quantize_checkpoint(tensors, "int4:gptq", None, QuantizeOptions(group_size=32))
    assert made.report.quantized == ("m.layers.0.a.weight", "m.layers.1.a.weight")
    assert set(made.report.kept.values()) == {"outside of the blocks that calibration goes through"}


def test_sensitive_weights_of_a_language_model_stay() -> None:
    quantized, kept = chosen(
        {
            **checkpoint("model.embed_tokens.weight", "lm_head.weight", "model.norm.scale"),
            **checkpoint("model.layers.0.q_proj.weight", "model.layers.0.mlp.gate.weight"),
            **checkpoint("model.layers.0.input_layernorm.weight", shape=(64,)),
            **checkpoint("model.layers.0.tiny.weight", shape=(4, 4)),
        }
    )
    assert quantized == {"model.layers.0.q_proj.weight"}
    assert kept == {
        "model.embed_tokens.weight": "embedding",
        "lm_head.weight": "output head",
        "model.norm.scale": "no weight of a layer",
        "model.layers.0.mlp.gate.weight": "router of experts",
        "model.layers.0.input_layernorm.weight": "of 1 dimensions",
        "model.layers.0.tiny.weight": "fewer than 512 elements",
    }


def test_the_ends_of_a_long_stack_stay() -> None:
    _, kept = chosen(checkpoint(*(f"model.layers.{n}.q_proj.weight" for n in range(12))))
    assert kept == {
        "model.layers.0.q_proj.weight": "first of 12 blocks",
        "model.layers.11.q_proj.weight": "last of 12 blocks",
    }
    _, kept = chosen(checkpoint(*(f"model.layers.{n}.q_proj.weight" for n in range(7))))
    assert kept == {}


def test_entries_and_exits_of_a_diffusion_transformer_stay() -> None:
    policy = Policy(recipe=recipe_for("transformer"))
    inner = ("transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.proj_out.weight")
    outer = ("proj_out.weight", "x_embedder.weight", "norm_out.linear.weight")
    times = ("time_text_embed.timestep_embedder.linear_1.weight", "img_in.weight")
    quantized, kept = chosen(checkpoint(*inner, *outer, *times), policy)
    assert quantized == set(inner)
    assert kept.keys() == {*outer, *times}


def test_patterns_of_the_user_count_more_than_a_recipe() -> None:
    names = ("lm_head.weight", "a.0.q.weight", "a.0.k.weight")
    quantized, kept = chosen(
        checkpoint(*names), Policy(include=("lm_head.*",), exclude=("*.k.weight",))
    )
    assert quantized == {"lm_head.weight", "a.0.q.weight"}
    assert kept == {"a.0.k.weight": "excluded"}


def test_patterns_that_name_nothing_are_mistakes() -> None:
    with pytest.raises(ConversionInputError, match=r"exclude pattern 'x\.\*' names no tensor"):
        chosen(checkpoint("a.weight"), Policy(exclude=("x.*",)))


def test_a_method_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ConversionInputError, match="output head"):
        chosen(checkpoint("lm_head.weight"))


def test_every_component_has_a_recipe() -> None:
    assert recipe_for().name == "language"
    assert {recipe_for(name).name for name in ("unet", "transformer", "text_encoder_2")} == {
        *RECIPES
    } - {"language"}
