"""What a repository is: nine rules, of which the first that fits decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gen_worker.conversion.classify.adapters import looks_like_adapter
from gen_worker.conversion.classify.formats import is_pickle, refusal_for
from gen_worker.conversion.classify.lineage import adapter_facts, lineage_of
from gen_worker.conversion.classify.refusals import TooLargeRefusal, UnknownShapeRefusal
from gen_worker.conversion.classify.selecting import INDEX, select_files
from gen_worker.conversion.classify.transformers_facts import (
    architecture_of,
    quant_scheme_of,
    subtype_of,
)
from gen_worker.conversion.classify.values import Classification
from gen_worker.models.sources.facts import class_named_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.conversion.classify.selecting import Selected
    from gen_worker.conversion.classify.values import ClassificationInputs, Strategy

__all__ = ["DEFAULT_PREFERENCE", "MAX_BYTES", "MAX_FILE_BYTES", "classify"]

DEFAULT_PREFERENCE = ("bf16", "fp16", "fp32")
MAX_FILE_BYTES = 20 << 30
MAX_BYTES = 100 << 30
_WARN_BYTES = 25 << 30
_LIBRARIES = {
    "sentence_transformers": "sentence-transformers",
    "peft_canonical": "peft",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "gguf": "llama-cpp",
    "native_lora": "diffusers-lora",
    "aio_singlefile": "diffusers-single-file",
}
_LAYOUTS = {"peft_canonical": "peft", "aio_singlefile": "singlefile"}
_SENTENCES = ("modules.json", "config_sentence_transformers.json")


def classify(
    inputs: ClassificationInputs,
    *,
    preference: Sequence[str] = DEFAULT_PREFERENCE,
    gguf_quant: str = "",
    allow_large: bool = False,
) -> Classification:
    """Say what a repository is and which of its files are the model; reads nothing.

    Args:
        inputs: What is known of it.
        preference: Precisions, the most welcome first; decided per component.
        gguf_quant: Which of several GGUF files: a quantization, or so many bits as `4bit`.
        allow_large: Whether it may be more than 100 GiB.

    Raises:
        RepoRefusal: It is not converted; `refusal_kind` says why.
        ConversionInputError: The quantization asked for is not there.
    """
    strategy = strategy_of(inputs)
    _refuse_own_code(inputs)
    selected = select_files(inputs, strategy, preference=preference, gguf_quant=gguf_quant)
    size = sum(inputs.sizes[path] for path in selected.files)
    warnings = _checked_sizes(inputs, selected, size, allow_large)
    skipped = tuple(sorted(set(inputs.sizes) - set(selected.files)))
    config = inputs.document("config.json")
    subtype = subtype_of(config) if strategy == "transformers" else ""
    return Classification(
        strategy=strategy,
        runtime_library=_library(inputs, strategy),
        files=selected.files,
        selected_bytes=size,
        skipped=skipped,
        skipped_bytes=sum(inputs.sizes[path] for path in skipped),
        subtype=subtype,
        attributes=_attributes(inputs, strategy, subtype, selected),
        selections={folder: told for folder, told in selected.precisions.items() if told},
        pickle_files_refused=tuple(path for path in skipped if is_pickle(path)),
        warnings=warnings,
    )


def strategy_of(inputs: ClassificationInputs) -> Strategy:
    """Return what the files at the root mean.

    Raises:
        RepoRefusal: They mean no model that is converted.
    """
    root = inputs.root_files
    weights = [path for path in root if path.endswith(".safetensors")]
    packed = [path for path in root if path.lower().endswith(".gguf")]
    if any(name in root for name in _SENTENCES):
        return "sentence_transformers"
    if "adapter_config.json" in root:
        return "peft_canonical"
    if INDEX in root:
        return "diffusers"
    if "config.json" in root and weights:
        return "transformers"
    if packed:
        return "gguf"
    if looks_like_adapter(inputs):
        return "native_lora"
    if len(weights) == 1:
        return "aio_singlefile"
    if weights:
        raise UnknownShapeRefusal(
            f"model {inputs.ref!r} has {len(weights)} single files, {weights[0]!r} and others, and "
            "nothing that says how they belong together: choose a repository with one model",
            ref=inputs.ref,
            files=weights,
        )
    raise refusal_for(inputs.sizes, inputs.ref)


def _refuse_own_code(inputs: ClassificationInputs) -> None:
    """Refuse a pipeline with classes of its own: without its Python nothing loads it."""
    for name, value in inputs.document(INDEX).items():
        module = value[0] if isinstance(value, list) and value else None
        places = (f"{module}.py", f"{name}/{module}.py") if isinstance(module, str) else ()
        found = next((place for place in places if place in inputs.sizes), None)
        if found is not None:
            raise UnknownShapeRefusal(
                f"model {inputs.ref!r} needs its own code {found!r} for {name!r}, which is not "
                "imported: choose a repository without",
                ref=inputs.ref,
                files=[found],
            )


def _library(inputs: ClassificationInputs, strategy: str) -> str:
    config = inputs.document("config.json")
    if strategy == "transformers" and "_diffusers_version" in config:
        return "diffusers"  # one component by itself, such as an autoencoder
    return _LIBRARIES[strategy]


def _attributes(
    inputs: ClassificationInputs, strategy: str, subtype: str, selected: Selected
) -> dict[str, str]:
    config = inputs.document("config.json")
    is_adapter = strategy in ("peft_canonical", "native_lora")
    shared = set(selected.precisions.values())
    told = {
        "runtime_library": _library(inputs, strategy),
        "file_layout": _LAYOUTS.get(strategy, strategy),
        "file_type": "gguf" if strategy == "gguf" else "safetensors",
        "pipeline_class": class_named_in(inputs.documents.get(INDEX)),
        "architecture": architecture_of(config),
        "subtype": subtype,
        "quant_scheme": quant_scheme_of(config),
        "dtype": next(iter(shared)) if len(shared) == 1 else "",
        **(adapter_facts(inputs) if is_adapter else {}),
        **lineage_of(inputs, is_adapter=is_adapter),
    }
    return {name: value for name, value in told.items() if value}


def _checked_sizes(
    inputs: ClassificationInputs, selected: Selected, size: int, allow_large: bool
) -> tuple[str, ...]:
    large = [path for path in selected.files if inputs.sizes[path] > MAX_FILE_BYTES]
    if large:
        raise TooLargeRefusal(
            f"file {large[0]!r} of model {inputs.ref!r} has {inputs.sizes[large[0]]} bytes, at "
            f"most {MAX_FILE_BYTES} are fetched: choose a repository with smaller shards",
            ref=inputs.ref,
            files=large,
        )
    if size > MAX_BYTES and not allow_large:
        raise TooLargeRefusal(
            f"model {inputs.ref!r} is {size} bytes, more than {MAX_BYTES}: allow it with "
            "allow_large=True",
            ref=inputs.ref,
        )
    if size > _WARN_BYTES:
        return (f"model {inputs.ref!r} is {size} bytes: this takes a while",)
    return ()
