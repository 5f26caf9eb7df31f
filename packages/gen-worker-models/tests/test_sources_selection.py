"""Which files of a Hugging Face repository a model needs, as a table of repositories."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker.errors import ModelResolutionError, WorkerError
from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.models.sources.huggingface.selection import Known, Wanted, questions, select

INDEX = {
    "_class_name": "P",
    "unet": ["diffusers", "UNet"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "Euler"],
    "safety_checker": [None, None],
}
SIDES = (
    "model_index.json",
    "unet/config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "scheduler/scheduler_config.json",
)
DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
UNET = "unet/diffusion_pytorch_model"
TEXT = "text_encoder/model"


def known(files: dict[str, int] | tuple[str, ...] | list[str], **told: Any) -> Known:
    sizes = dict(files) if isinstance(files, dict) else dict.fromkeys(files, 10)
    documents = told.pop("documents", {})
    if "model_index.json" in sizes:
        documents = {"model_index.json": INDEX} | documents
    dtypes = {path: frozenset(names.split()) for path, names in told.pop("dtypes", {}).items()}
    return Known(sizes, documents, dtypes)


def chosen(facts: Known, **wanted: Any) -> set[str]:
    return set(select(facts, Wanted(ref="o/r", **wanted)).files)


def weights(facts: Known, **wanted: Any) -> set[str]:
    return {path for path in chosen(facts, **wanted) if path.endswith(".safetensors")}


def three_precisions(**sizes: int) -> Known:
    """A pipeline whose weights are there as bf16, fp16 and fp32."""
    files = dict.fromkeys(SIDES, 1)
    dtypes = {}
    for stem in (UNET, TEXT):
        for token, dtype in DTYPES.items():
            name = f"{stem}.{token}.safetensors" if token != "fp32" else f"{stem}.safetensors"
            files[name] = sizes.get(token, 100)
            dtypes[name] = dtype
    return known(files, dtypes=dtypes)


@pytest.mark.parametrize(
    ("wanted", "token"),
    [
        ({}, "bf16"),
        ({"precisions": ("fp16",)}, "fp16"),
        ({"precisions": ("bf16", "fp16", "fp32")}, "bf16"),
        ({"precisions": ("fp32",)}, ""),
        ({"dtype": "fp16"}, "fp16"),
        ({"dtype": "fp32"}, ""),
    ],
)
def test_one_precision_is_taken(wanted: dict[str, Any], token: str) -> None:
    facts = three_precisions()
    suffix = f".{token}.safetensors" if token else ".safetensors"
    expected = {*SIDES, UNET + suffix, TEXT + suffix}
    assert chosen(facts, **wanted) == expected


def test_the_selection_tells_variant_and_dtype() -> None:
    selection = select(three_precisions(), Wanted(ref="o/r"))
    assert (selection.layout, selection.variant, selection.dtype) == ("diffusers", "bf16", "bf16")


def test_the_probed_dtype_beats_the_name() -> None:
    facts = known(
        [*SIDES, f"{UNET}.fp16.safetensors", f"{UNET}.safetensors", f"{TEXT}.safetensors"],
        dtypes={f"{UNET}.fp16.safetensors": "F32", f"{UNET}.safetensors": "BF16"},
    )
    assert f"{UNET}.safetensors" in weights(facts)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("BF16", "F16", "a"),
        ("F16", "F8_E4M3", "a"),
        ("F8_E4M3", "F8_E5M2", "a"),
        ("F32", "BF16 F32", "b"),  # not allowed alone; mixed counts as its best
        ("BF16 F32", "F16", "b"),
        ("U8", "F32", "a"),
        ("F32", "", "a"),  # unknown is last
        ("BF16 I64", "F16", "a"),  # tables of positions do not make it mixed
    ],
)
def test_dtypes_rank_as_specified(first: str, second: str, expected: str) -> None:
    # Two files of one rank by name: `a` is larger, so that it wins by its dtype alone.
    files = {"a.safetensors": 200, "b.safetensors": 100}
    facts = known(files, dtypes={"a.safetensors": first, "b.safetensors": second})
    assert weights(facts) == {f"{expected}.safetensors"}


def test_without_dtypes_the_name_decides_then_the_size() -> None:
    names = ["m.fp32", "m", "m.fp8", "m.fp16", "m.bf16"]
    files = {f"{name}.safetensors": 100 for name in names}
    while files:
        best = f"{names.pop()}.safetensors"
        assert weights(known(files)) == {best}
        del files[best]
    assert weights(known({"x.safetensors": 9, "y.safetensors": 8})) == {"y.safetensors"}


@pytest.mark.parametrize(
    "index",
    [
        f"{UNET}.safetensors.index.json",
        f"{UNET}.fp16.safetensors.index.json",
        f"{UNET}.safetensors.index.fp16.json",
    ],
)
def test_a_sharded_component_is_its_index_and_all_it_lists(index: str) -> None:
    shards = [f"diffusion_pytorch_model-{n:05}-of-00002.fp16.safetensors" for n in (1, 2)]
    document = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    paths = [f"unet/{name}" for name in shards]
    facts = known([*SIDES, index, *paths, f"{TEXT}.safetensors"], documents={index: document})
    assert chosen(facts) == {*SIDES, index, *paths, f"{TEXT}.safetensors"}


def test_a_shard_that_is_not_there_is_named() -> None:
    index = "model.safetensors.index.json"
    facts = known([index, "config.json"], documents={index: {"weight_map": {"a": "gone.st"}}})
    with pytest.raises(ModelResolutionError, match=r"gone\.st"):
        select(facts, Wanted(ref="o/r"))


def test_an_index_that_cannot_be_read_counts_by_its_name() -> None:
    index = "model.safetensors.index.json"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    facts = known([index, *shards, "config.json"], documents={index: None})
    assert weights(facts) == set(shards)


def test_a_single_set_is_taken_of_a_repository_with_copies_for_other_tools() -> None:
    index = "model.safetensors.index.json"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = {index: 1, "consolidated.safetensors": 5, "config.json": 1, "tokenizer.json": 1}
    files |= dict.fromkeys(shards, 10)
    document = {"weight_map": {"a": shards[0], "b": shards[1]}}
    facts = known(files, documents={index: document})
    assert chosen(facts) == {index, *shards, "config.json", "tokenizer.json"}


def test_components_are_inferred_without_an_index() -> None:
    facts = known(
        ["transformer/config.json", "transformer/m.safetensors", "vae/config.json", "x.md"]
    )
    assert chosen(facts) == {
        "transformer/config.json",
        "transformer/m.safetensors",
        "vae/config.json",
    }


def test_a_single_file_comes_with_what_is_beside_it() -> None:
    files = [
        "model.safetensors",
        "config.json",
        "README.md",
        "LICENSE",
        "spiece.model",
        "vocab.txt",
    ]
    left = ["model.onnx", "pytorch_model.bin", "modeling_x.py", "demo.png", "sub/other.safetensors"]
    assert chosen(known([*files, *left])) == set(files)


def test_what_no_library_loads_is_left_out_of_components() -> None:
    left = [
        "unet/m.bin",
        "unet/m.onnx",
        "unet/m.onnx_data",
        "unet/openvino_m.xml",
        "unet/m.msgpack",
    ]
    facts = known([*SIDES, f"{UNET}.safetensors", f"{TEXT}.safetensors", *left])
    assert chosen(facts).isdisjoint(left)


def test_a_tokenizer_by_itself_is_a_model() -> None:
    files = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert chosen(known(files)) == set(files)


@pytest.mark.parametrize(
    "files",
    [
        ["config.json", "pytorch_model.bin"],
        ["model.ckpt"],
        [*SIDES, f"{UNET}.safetensors", f"{TEXT}.bin"],
        ["flax_model.msgpack", "config.json", "tokenizer.json"],
    ],
)
def test_weights_that_can_run_code_are_refused(files: list[str]) -> None:
    with pytest.raises(UnsafeFileFormat, match="safetensors"):
        select(known(files), Wanted(ref="o/r"))


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["README.md"], "no safetensors"),
        (["model_index.json"], "none of the components"),
        ([*(x for x in SIDES if "vocab" not in x), f"{UNET}.safetensors"], "'tokenizer' without"),
        (["a-q4.gguf", "a-q8.gguf"], "2 GGUF models"),
    ],
)
def test_what_is_no_model_is_said(files: list[str], match: str) -> None:
    with pytest.raises(ModelResolutionError, match=match):
        select(known(files), Wanted(ref="o/r"))


def test_one_gguf_is_taken_with_its_parts() -> None:
    files = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "README.md"]
    assert chosen(known(files)) == set(files)


def test_globs_choose_instead_and_have_no_limit() -> None:
    facts = known({"a/x.safetensors": 100, "a/y.json": 100, "b.json": 100})
    assert chosen(facts, patterns=("a/*",), max_bytes=1) == {"a/x.safetensors", "a/y.json"}
    assert chosen(facts, patterns=("a/", "*.json")) == set(facts.sizes)
    assert questions(facts, Wanted(ref="o/r", patterns=("a/*",))) == ((), ())
    with pytest.raises(ModelResolutionError, match="check the globs"):
        select(facts, Wanted(ref="o/r", patterns=("c/*",)))


def test_everything_is_taken_when_that_is_wanted() -> None:
    facts = known(["a.safetensors", "b.bin", "c/d.png"])
    assert chosen(facts, takes_all=True) == set(facts.sizes)


@pytest.mark.parametrize("takes_all", [False, True])
def test_a_selection_that_is_too_large_is_refused(takes_all: bool) -> None:
    facts = known({"model.safetensors": 100, "config.json": 1})
    assert chosen(facts, max_bytes=101, takes_all=takes_all)
    with pytest.raises(ModelResolutionError, match="COZY_HF_MAX_REPO_BYTES"):
        select(facts, Wanted(ref="o/r", max_bytes=100, takes_all=takes_all))


def test_a_cache_that_lacks_a_component_is_not_complete() -> None:
    whole = known([*SIDES, f"{UNET}.safetensors", f"{TEXT}.safetensors"])
    assert select(whole, Wanted(ref="o/r"), is_whole_cache=True).layout == "diffusers"
    for lacking in (f"{TEXT}.safetensors", "scheduler/scheduler_config.json"):
        part = whole._replace(sizes={x: s for x, s in whole.sizes.items() if x != lacking})
        with pytest.raises(ModelResolutionError, match="without the weights"):
            select(part, Wanted(ref="o/r"), is_whole_cache=True)
    with pytest.raises(ModelResolutionError):
        select(known(["config.json", "tokenizer.json"]), Wanted(ref="o/r"), is_whole_cache=True)


def test_only_what_decides_is_read() -> None:
    facts = three_precisions()._replace(documents={}, dtypes={})
    asked = questions(facts, Wanted(ref="o/r"))
    assert asked.documents == ("model_index.json",)
    asked = questions(facts._replace(documents={"model_index.json": INDEX}), Wanted(ref="o/r"))
    assert len(asked.headers) == 6
    single = known(["config.json", "model.safetensors"])
    assert questions(single, Wanted(ref="o/r")) == ((), ())


PATHS = st.sampled_from(
    [
        *SIDES,
        *(f"{UNET}{x}" for x in (".safetensors", ".fp16.safetensors", ".bin")),
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "x.gguf",
        "tokenizer.json",
    ]
)


@given(st.frozensets(PATHS), st.integers(0, 9))
def test_a_selection_is_part_of_the_files_and_does_not_depend_on_their_order(
    paths: frozenset[str], seed: int
) -> None:
    def answer(order: list[str]) -> Any:
        facts = known(order, documents={"model.safetensors.index.json": None})
        try:
            return select(facts, Wanted(ref="o/r"))
        except WorkerError as error:
            return type(error)

    first, other = sorted(paths), sorted(paths)
    random.Random(seed).shuffle(other)
    found = answer(first)
    assert found == answer(other)
    if not isinstance(found, type):
        assert set(found.files) <= paths
        assert not any(path.endswith(".bin") for path in found.files)
