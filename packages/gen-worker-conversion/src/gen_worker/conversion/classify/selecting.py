"""The smallest set of files that loads, for every shape of repository.

Which files stand for each other, and which shards belong together, is told by the same rules as
when a worker fetches a model to run it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.conversion.classify.formats import foreign_kind, is_pickle, refusal_for
from gen_worker.conversion.classify.refusals import MissingSafetensorsRefusal, UnknownShapeRefusal
from gen_worker.conversion.classify.weight_names import gguf_quant_of
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.vocabulary import (
    default_dtype_for_source,
    is_fuzzy_bitwidth,
    normalize_dtype,
    resolve_fuzzy_to_concrete,
)
from gen_worker.errors import ModelResolutionError
from gen_worker.models.formats.components import component_names
from gen_worker.models.sources.huggingface.weights import (
    WeightSet,
    best_set,
    is_index,
    precision_of,
    weight_sets,
)
from gen_worker.models.sources.safety import suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gen_worker.conversion.classify.values import ClassificationInputs

__all__ = ["Selected", "folders_of", "select_files"]

INDEX = "model_index.json"
_OPTIONAL = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
_WITHOUT_WEIGHTS = re.compile(r"tokenizer|scheduler|processor|extractor|guider", re.IGNORECASE)
_SIDE_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".vocab"})
_DOCUMENTS = re.compile(r"(LICEN[SC]E|NOTICE|COPYING|USAGE_POLICY|README)[^/]*", re.IGNORECASE)
_OTHER_INDEX = re.compile(r".*\.(bin|msgpack|h5|onnx)\.index[^/]*\.json")
_GGUF_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)", re.IGNORECASE)
_NO_MODEL = re.compile(r"(mmproj|imatrix)", re.IGNORECASE)
_UNNAMED = "fp32"
"""What weights count as of which nothing is told."""
_USUAL = ("model.", "model-", "diffusion_pytorch_model.", "diffusion_pytorch_model-")


class Selected(NamedTuple):
    """The files to have."""

    files: tuple[str, ...]
    precisions: dict[str, str]
    """Of the weights, by component."""


def select_files(
    inputs: ClassificationInputs, strategy: str, *, preference: Sequence[str], gguf_quant: str
) -> Selected:
    """Return what to fetch.

    Raises:
        RepoRefusal: A part of it has no weights that are read.
        ConversionInputError: The quantization asked for is not there.
    """
    root = inputs.root_files
    documents = [path for path in root if _DOCUMENTS.fullmatch(path)]
    if strategy == "gguf":
        files, quant = _one_gguf(inputs, gguf_quant)
        side = [path for path in root if _is_side_file(path)]
        return _selected([*documents, *side, *files], {"": quant})
    if strategy == "native_lora":
        return _selected([*documents, *(x for x in root if x.endswith(".safetensors"))], {})
    if strategy == "aio_singlefile":
        yaml = [path for path in root if suffix_of(path) in (".yaml", ".yml")]
        lone = yaml if len(yaml) == 1 else []
        path = inputs.largest_root
        told = _precision(WeightSet((path,)), inputs)
        return _selected([*documents, *lone, path], {"": told})
    files = [*documents]
    precisions: dict[str, str] = {}
    for folder in folders_of(inputs, strategy):
        side, weights = _folder(inputs, strategy, folder, preference)
        files += side
        if weights is not None:
            files += [*weights.files, *filter(None, (weights.listed_in,))]
            precisions[folder] = _precision(weights, inputs)
    return _selected(files, precisions)


def folders_of(inputs: ClassificationInputs, strategy: str) -> tuple[str, ...]:
    """Return the folders that a model of this shape consists of; the root is the empty name."""
    if strategy == "diffusers":
        return ("", *component_names(inputs.documents.get(INDEX)))
    if strategy == "sentence_transformers":
        modules = inputs.documents.get("modules.json")
        entries = modules if isinstance(modules, list) else []
        told = [entry.get("path") for entry in entries if isinstance(entry, dict)]
        return tuple(dict.fromkeys(("", *(path for path in told if isinstance(path, str)))))
    return ("",)


def _selected(files: Iterable[str], precisions: dict[str, str]) -> Selected:
    return Selected(tuple(sorted(set(files))), precisions)


# One folder.


def _folder(
    inputs: ClassificationInputs, strategy: str, folder: str, preference: Sequence[str]
) -> tuple[list[str], WeightSet | None]:
    listed = [path for path in inputs.sizes if os.path.dirname(path) == folder]
    side = [path for path in listed if _is_side_file(path)]
    if strategy == "diffusers" and not folder:
        return [path for path in side if path == INDEX], None
    best = _best(inputs, strategy, folder, listed, preference)
    if best is not None:
        return side, best
    if not _needs_weights(inputs, strategy, folder):
        return side, None
    has_pickles = any(is_pickle(path) for path in listed)
    if strategy == "diffusers" and folder in _OPTIONAL and has_pickles:
        return [], None
    if strategy == "sentence_transformers" and not any(map(foreign_kind, listed)):
        return side, None  # pooling and the like
    raise refusal_for(listed, inputs.ref, component=folder)


def _best(
    inputs: ClassificationInputs,
    strategy: str,
    folder: str,
    listed: Sequence[str],
    preference: Sequence[str],
) -> WeightSet | None:
    try:
        sets = weight_sets(listed, inputs.documents, inputs.ref)
    except ModelResolutionError as error:
        raise MissingSafetensorsRefusal(str(error), ref=inputs.ref) from error
    if not folder and strategy != "peft_canonical":
        # What a library looks for by name; the rest are other tools' copies of the same weights.
        named = [one for one in sets if one.name.startswith(_USUAL)]
        sets = named or sets
    wanted = next(
        (
            found
            for one in preference
            if (found := [x for x in sets if (_precision(x, inputs) or _UNNAMED) == one])
        ),
        sets,
    )
    dtypes = {path: facts.dtypes for path, facts in inputs.headers.items()}
    return best_set(wanted, inputs.sizes, dtypes, allowed=preference)


def _precision(one: WeightSet, inputs: ClassificationInputs) -> str:
    """Return the precision of weights, by the header or else the name; empty when not told."""
    facts = inputs.headers.get(one.probe)
    if facts is not None and facts.dtype:
        return facts.precision or facts.dtype.lower()
    return precision_of(one.name)


def _needs_weights(inputs: ClassificationInputs, strategy: str, folder: str) -> bool:
    if strategy != "diffusers":
        return True
    value = inputs.document(INDEX).get(folder)
    name = str(value[1]) if isinstance(value, list) and len(value) > 1 else ""
    return not _WITHOUT_WEIGHTS.search(f"{folder} {name}")


def _is_side_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    is_text = suffix_of(path) in _SIDE_SUFFIXES
    return is_text and not is_index(path) and not _OTHER_INDEX.fullmatch(name)


# GGUF.


def _one_gguf(inputs: ClassificationInputs, asked: str) -> tuple[list[str], str]:
    models: dict[str, list[str]] = {}
    for path in inputs.root_files:
        if path.lower().endswith(".gguf") and not _NO_MODEL.match(path):
            models.setdefault(_GGUF_PART.sub("", path), []).append(path)
    quants: dict[str, list[str]] = {}
    for name in models:
        quants.setdefault(gguf_quant_of(name), []).append(name)
    if not models:
        raise UnknownShapeRefusal(
            f"model {inputs.ref!r} has only parts of GGUF models: choose another repository",
            ref=inputs.ref,
        )
    quant = _quant(quants, asked, inputs.ref)
    names = quants[quant]
    if len(names) > 1:
        raise UnknownShapeRefusal(
            f"model {inputs.ref!r} has {len(names)} GGUF models of the same quantization, "
            f"{names[0]!r} and {names[1]!r}: choose a repository with one",
            ref=inputs.ref,
            files=names,
        )
    return models[names[0]], quant


def _quant(quants: dict[str, list[str]], asked: str, ref: str) -> str:
    """Return the quantization to take."""
    if not asked:
        found = default_dtype_for_source("gguf", quants)
        return found if found is not None else min(quants)
    if is_fuzzy_bitwidth(asked):
        return resolve_fuzzy_to_concrete(asked, source_kind="gguf", available_dtypes=quants)
    token = {"fp16": "f16", "fp32": "f32"}.get(normalize_dtype(asked), normalize_dtype(asked))
    if token not in quants:
        raise ConversionInputError(
            f"model {ref!r} has no {asked!r}, only {', '.join(sorted(filter(None, quants)))}: "
            "choose one of them"
        )
    return token
