"""Which files of a repository a model needs: a pure function over what is known of the files."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.errors import ModelResolutionError
from gen_worker.models.formats.components import component_names
from gen_worker.models.formats.unsafe import SAFE_SUFFIXES, UNSAFE_SUFFIXES
from gen_worker.models.sources.facts import INDEX
from gen_worker.models.sources.huggingface.weights import (
    WeightSet,
    best_set,
    is_index,
    precision_of,
    weight_sets,
)
from gen_worker.models.sources.precisions import shared_precision
from gen_worker.models.sources.safety import refuse_unsafe, suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Known", "Questions", "Selection", "Wanted", "questions", "select"]

_INFERRED = (
    *("transformer", "unet", "vae", "text_encoder", "text_encoder_2"),
    *("tokenizer", "tokenizer_2", "scheduler"),
)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")
_ROOT_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".md"})
_ROOT_NAME = re.compile(r"(LICENSE|NOTICE|COPYING)[^/]*|\.gitattributes", re.IGNORECASE)
_MODULE = re.compile(r"\d+_[A-Za-z]+/.*")
_NEVER = UNSAFE_SUFFIXES | SAFE_SUFFIXES | {".onnx", ".onnx_data", ".py"}
_WITHOUT_WEIGHTS = re.compile(r"tokenizer|scheduler|processor|extractor", re.IGNORECASE)
_GGUF_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the author and the settings say."""

    ref: str
    dtype: str = ""
    """`bf16`, `fp16` or `fp32`; empty leaves it to `precisions`."""
    precisions: tuple[str, ...] = ("bf16", "fp16")
    patterns: tuple[str, ...] = ()
    """Globs instead of a selection."""
    takes_all: bool = False
    max_bytes: int = 0
    """Of the whole selection; 0 is no limit. Globs are not limited."""


class Known(NamedTuple):
    """What is known of the files. Paths are relative to the folder that is loaded."""

    sizes: Mapping[str, int]
    documents: Mapping[str, Any]
    """Files of JSON, decoded; None where one could not be read."""
    dtypes: Mapping[str, frozenset[str] | None]


class Selection(NamedTuple):
    """The files to have."""

    files: tuple[str, ...]
    layout: str
    """`diffusers`, `transformers`, `singlefile`, `gguf` or `files`."""
    variant: str = ""
    """Precision in the names of the weights, if all of them have it."""
    dtype: str = ""
    """Precision of the weights, if all agree."""


class Questions(NamedTuple):
    """What has to be read before `select` can decide."""

    documents: tuple[str, ...]
    headers: tuple[str, ...]
    """Weights whose dtype decides between sets."""


def questions(known: Known, wanted: Wanted) -> Questions:
    """Return what to read next; `documents` first, and `headers` once those are there."""
    if wanted.patterns or wanted.takes_all:
        return Questions((), ())
    documents = [path for path in known.sizes if path == INDEX or is_index(path)]
    unread = tuple(sorted(path for path in documents if path not in known.documents))
    headers: list[str] = []
    for folder in _folders(known):
        sets = weight_sets(_in(folder, known.sizes), known.documents, wanted.ref)
        headers += [one.probe for one in sets] if len(sets) > 1 else []
    return Questions(unread, tuple(path for path in headers if path not in known.dtypes))


def select(known: Known, wanted: Wanted, *, is_whole_cache: bool = False) -> Selection:
    """Return what to have of a repository.

    Args:
        known: What its files are.
        wanted: What is wanted of them.
        is_whole_cache: `known` is what a cache happens to have: what is not in it may exist.

    Raises:
        ModelResolutionError: It is no model, incomplete, or too large.
        UnsafeFileFormat: Its weights, or those of a component, can run code.
    """
    if wanted.patterns:
        return _by_patterns(known, wanted)
    if wanted.takes_all:
        refuse_unsafe(known.sizes, wanted.ref, "hf")
        return _limited(Selection(tuple(sorted(known.sizes)), "files"), known, wanted)
    components = _components(known)
    if components:
        selection = _diffusers(components, known, wanted, is_whole_cache)
    else:
        selection = _root(known, wanted, is_whole_cache)
    return _limited(selection, known, wanted)


def _by_patterns(known: Known, wanted: Wanted) -> Selection:
    chosen = [
        path
        for path in sorted(known.sizes)
        if any(fnmatch.fnmatchcase(path, _glob(pattern)) for pattern in wanted.patterns)
    ]
    if not chosen:
        raise _error(wanted, f"has no file that {list(wanted.patterns)!r} match: check the globs")
    refuse_unsafe({path: known.sizes[path] for path in chosen}, wanted.ref, "hf")
    return Selection(tuple(chosen), "files")


def _glob(pattern: str) -> str:
    return f"{pattern}*" if pattern.endswith("/") else pattern


def _limited(selection: Selection, known: Known, wanted: Wanted) -> Selection:
    size = sum(known.sizes[path] for path in selection.files)
    if wanted.max_bytes and size > wanted.max_bytes:
        raise _error(
            wanted,
            f"would be {size} bytes, more than the {wanted.max_bytes} allowed: choose files with "
            ".files(...), or raise COZY_HF_MAX_REPO_BYTES",
        )
    return selection


# Folders with components.


def _components(known: Known) -> tuple[str, ...]:
    """Return the folders of components, by the pipeline's index or by their usual names."""
    folders = {path.partition("/")[0] for path in known.sizes if "/" in path}
    if INDEX in known.sizes:
        named = component_names(known.documents.get(INDEX))
        return tuple(name for name in named if name in folders)
    inferred = tuple(name for name in _INFERRED if name in folders)
    return inferred if {"transformer", "unet"} & set(inferred) else ()


def _folders(known: Known) -> tuple[str, ...]:
    return _components(known) or ("",)


def _in(folder: str, paths: Iterable[str]) -> list[str]:
    """Return the files of one folder; those at the root without the ones below folders."""
    if not folder:
        return [path for path in paths if "/" not in path]
    return [path for path in paths if path.startswith(f"{folder}/")]


def _diffusers(
    components: Sequence[str], known: Known, wanted: Wanted, is_whole_cache: bool
) -> Selection:
    refuse_unsafe(known.sizes, wanted.ref, "hf", components)
    files = [INDEX] if INDEX in known.sizes else []
    chosen: list[WeightSet] = []
    for component in components:
        listed = _in(component, known.sizes)
        files += [path for path in listed if _is_side_file(path)]
        if component.startswith("tokenizer"):
            _require_tokenizer(component, listed, wanted)
        best = _best(component, known, wanted)
        if best is not None:
            chosen.append(best)
    if is_whole_cache:
        _require_components(components, chosen, known, wanted)
    return _selection(files, chosen, known, "diffusers")


def _is_side_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    return suffix_of(path) not in _NEVER and "openvino" not in name and not is_index(path)


def _require_tokenizer(component: str, listed: Sequence[str], wanted: Wanted) -> None:
    if not any(path.rpartition("/")[2] in _TOKENIZER_FILES for path in listed):
        raise _error(
            wanted,
            f"has a {component!r} without any of {', '.join(_TOKENIZER_FILES)}: choose another "
            "revision",
        )


def _require_components(
    components: Sequence[str], chosen: Sequence[WeightSet], known: Known, wanted: Wanted
) -> None:
    """Refuse a cache that lacks what the pipeline's index names."""
    named = component_names(known.documents.get(INDEX))
    have = {one.name.partition("/")[0] for one in chosen}
    classes = known.documents.get(INDEX) or {}
    for name in named:
        needs_weights = not _WITHOUT_WEIGHTS.search(f"{name} {classes[name][1]}")
        if name not in components or (needs_weights and name not in have):
            raise _error(wanted, f"is here without the weights of its {name!r}")


# One folder.


def _root(known: Known, wanted: Wanted, is_whole_cache: bool) -> Selection:
    if INDEX in known.sizes:
        raise _error(wanted, f"has none of the components that its {INDEX!r} names")
    listed = _in("", known.sizes)
    side = [path for path in listed if _is_root_side_file(path)]
    side += [path for path in known.sizes if _MODULE.fullmatch(path) and "modules.json" in listed]
    side = [path for path in side if suffix_of(path) not in UNSAFE_SUFFIXES]
    best = _best("", known, wanted)
    if best is not None:
        layout = "transformers" if "config.json" in listed else "singlefile"
        return _selection(side, [best], known, layout)
    packed = [path for path in listed if path.endswith(".gguf")]
    if packed:
        return Selection(tuple(sorted([*side, *_one_gguf(packed, wanted)])), "gguf")
    refuse_unsafe({path: known.sizes[path] for path in listed}, wanted.ref, "hf")
    lacks_weights = is_whole_cache and "config.json" in listed
    if lacks_weights or not any(path in _TOKENIZER_FILES for path in listed):
        raise _error(
            wanted,
            "has no safetensors at its root and no components: name its folder with "
            ".subfolder(...), or choose files with .files(...)",
        )
    return Selection(tuple(sorted(side)), "transformers")  # a tokenizer by itself


def _is_root_side_file(path: str) -> bool:
    is_text = suffix_of(path) in _ROOT_SUFFIXES and not is_index(path)
    return is_text or _ROOT_NAME.fullmatch(path) is not None


def _one_gguf(packed: Sequence[str], wanted: Wanted) -> Sequence[str]:
    models = {_GGUF_PART.sub("", path) for path in packed}
    if len(models) > 1:
        raise _error(
            wanted,
            f"has {len(models)} GGUF models, such as {sorted(models)[0]!r}: choose one with "
            ".files('*Q4_K_M*.gguf')",
        )
    return packed


def _best(folder: str, known: Known, wanted: Wanted) -> WeightSet | None:
    sets = weight_sets(_in(folder, known.sizes), known.documents, wanted.ref)
    if not folder and "config.json" in known.sizes:
        # What a library looks for by name; the rest are other tools' copies of the same weights.
        named = [one for one in sets if one.name.startswith(("model.", "diffusion_pytorch_model."))]
        sets = named or sets
    return best_set(sets, known.sizes, known.dtypes, allowed=wanted.precisions, asked=wanted.dtype)


def _selection(
    side: Iterable[str], chosen: Sequence[WeightSet], known: Known, layout: str
) -> Selection:
    weights = [path for one in chosen for path in (*one.files, one.listed_in) if path]
    variants = {precision_of(one.name) for one in chosen}
    dtypes = {known.dtypes.get(one.probe) or frozenset() for one in chosen}
    return Selection(
        files=tuple(sorted({*side, *weights})),
        layout=layout,
        variant=variants.pop() if len(variants) == 1 else "",
        dtype=shared_precision(dtype for group in dtypes for dtype in group),
    )


def _error(wanted: Wanted, problem: str) -> ModelResolutionError:
    return ModelResolutionError(f"model {wanted.ref!r} {problem}", provider="hf", phase="resolve")
