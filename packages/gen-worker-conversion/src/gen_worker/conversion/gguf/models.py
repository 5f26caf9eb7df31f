"""Models of transformers as GGUF files: what goes into one, worked out before anything is read."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_worker.conversion.gguf.architectures import architecture_of
from gen_worker.conversion.gguf.container import MAX_NAME_BYTES
from gen_worker.conversion.gguf.errors import GgufSourceError
from gen_worker.conversion.gguf.experts import expert_count
from gen_worker.conversion.gguf.hyperparameters import hyperparameters, key_heads
from gen_worker.conversion.gguf.importance import check_names
from gen_worker.conversion.gguf.json_files import read_json
from gen_worker.conversion.gguf.mixes import Heads, choose_types
from gen_worker.conversion.gguf.packing import PLAIN, packed
from gen_worker.conversion.gguf.tensor_names import named_tensors
from gen_worker.conversion.gguf.tokenizers import check_vocabulary, tokenizer_metadata
from gen_worker.conversion.gguf.types import file_type
from gen_worker.conversion.lazy import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.conversion.gguf.container import Value
    from gen_worker.conversion.gguf.importance import Importance
    from gen_worker.conversion.gguf.mixes import Choice, Fallback
    from gen_worker.conversion.gguf.types import FileType
    from gen_worker.conversion.lazy import LazyTensor

__all__ = [
    "GgufPlan",
    "general",
    "not_weighted",
    "packed_all",
    "plan_language_model",
    "read_model_config",
]

_FOLDER = re.compile(r"[\w-][\w.-]*")
_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
_BLOCKS_VERSION = 2  # GGML_QNT_VERSION


class GgufPlan(NamedTuple):
    """What `write_gguf` is given, and what there is to know about it."""

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, Value]
    architecture: str
    wanted: FileType
    types: Mapping[str, str]
    """Of the tensors, by name."""
    fallbacks: tuple[Fallback, ...]
    """Tensors whose rows do not fit the type that was meant for them."""
    left_out: tuple[str, ...]
    """Names in the source of what such a file does not hold."""
    without_importance: tuple[str, ...] = ()
    """Tensors in blocks that an importance matrix has nothing about."""
    max_name_bytes: int = MAX_NAME_BYTES
    """Of a tensor."""

    @property
    def size_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())


def plan_language_model(
    directory: str | os.PathLike[str],
    to: str,
    *,
    name: str = "",
    importance: Importance | None = None,
    pre_tokenizer: str | None = None,
) -> GgufPlan:
    """Plan the GGUF file of a language model or a sentence encoder.

    Args:
        directory: As transformers saves it: `config.json`, weights, tokenizer.
        to: Type of the file, such as `q4_k_m`; see `gguf.types`.
        name: Of the model, for the metadata.
        importance: See `read_importance`; by default all columns of a weight count.
        pre_tokenizer: See `tokenizer_metadata`.

    Raises:
        GgufSourceError: The directory lacks something, or is of another kind; see its `code`.
        ConversionInputError: There is no such type, or a library is not installed.
        DamagedFileError: A file with weights is damaged.
    """
    wanted = file_type(to)
    place = os.fspath(directory)
    file = os.path.join(place, "config.json")
    config = read_model_config(file)
    architecture = architecture_of(config, file)
    checkpoint = open_checkpoint(place)
    tensors, left_out = named_tensors(checkpoint, config, architecture, file)
    heads = _heads(config, file)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    check_names(importance, shapes)
    choice = choose_types(shapes, wanted, heads, has_importance=importance is not None)
    metadata = (
        general(architecture.name, wanted, name, importance)
        | hyperparameters(config, architecture, file)
        | (_pooling(place, architecture.name) if architecture.is_encoder else {})
        | tokenizer_metadata(place, config, pre_tokenizer=pre_tokenizer)
    )
    check_vocabulary(metadata, place)
    return GgufPlan(
        packed_all(tensors, choice, importance),
        metadata,
        architecture.name,
        wanted,
        choice.types,
        choice.fallbacks,
        left_out,
        not_weighted(choice, importance),
    )


def packed_all(
    tensors: Mapping[str, LazyTensor], choice: Choice, importance: Importance | None
) -> dict[str, LazyTensor]:
    """Return the tensors in the types that were chosen for them."""
    return {
        name: packed(tensor, choice.types[name], name=name, importance=importance)
        for name, tensor in tensors.items()
    }


def not_weighted(choice: Choice, importance: Importance | None) -> tuple[str, ...]:
    """Return the tensors in blocks that an importance matrix has nothing about."""
    if importance is None:
        return ()
    return tuple(
        name
        for name, used in choice.types.items()
        if used not in PLAIN and name not in importance.values
    )


def general(
    architecture: str, wanted: FileType, name: str, importance: Importance | None = None
) -> dict[str, Value]:
    """Return the metadata that every file has."""
    made: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.file_type": wanted.number,
    }
    if name:
        made["general.name"] = name
    if importance is not None:
        made["quantize.imatrix.file"] = os.path.basename(importance.path)
        made["quantize.imatrix.entries_count"] = len(importance.values)
    return made if wanted.is_plain else made | {"general.quantization_version": _BLOCKS_VERSION}


def read_model_config(file: str) -> dict[str, Any]:
    """Return a configuration of transformers.

    Raises:
        GgufSourceError: It is not there, or no JSON.
    """
    if not os.path.isfile(file):
        raise GgufSourceError(
            f"{file!r} is not there: give the directory of a model as transformers saves it",
            code="gguf_missing_config_json",
            file=file,
        )
    return read_json(file, "gguf_invalid_config_json")


def _heads(config: Mapping[str, Any], file: str) -> Heads:
    keys = key_heads(config, file)
    queries = config["num_attention_heads"]
    is_70b = (config.get("model_type") == "llama" and queries != keys) or config.get(
        "model_type"
    ) == "qwen2"
    is_70b = is_70b and config["num_hidden_layers"] == 80
    return Heads(queries // keys, is_70b, expert_count(config))


def _pooling(directory: str, architecture: str) -> dict[str, Value]:
    """Return how a sentence encoder makes one vector of many, where it says so."""
    modules = os.path.join(directory, "modules.json")
    if not os.path.isfile(modules):
        return {}
    text = _text(modules)
    folder = next(
        (
            str(one.get("path"))
            for one in text
            if isinstance(one, dict) and str(one.get("type")).endswith("Pooling")
        ),
        "",
    )
    if not _FOLDER.fullmatch(folder):
        return {}
    said = read_json(os.path.join(directory, folder, "config.json"), "gguf_invalid_config_json")
    mode = next((mode for flag, mode in _POOLING_FLAGS.items() if said.get(flag)), None)
    number = _POOLING.get(mode or str(said.get("pooling_mode")))
    return {} if number is None else {f"{architecture}.pooling_type": number}


def _text(path: str) -> list[Any]:
    import json

    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise GgufSourceError(
            f"{path!r} is no JSON list: fetch it again", code="gguf_invalid_config_json", file=path
        )
    return found
