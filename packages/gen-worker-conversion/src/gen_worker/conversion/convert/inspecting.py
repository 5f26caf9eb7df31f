"""What a model on this machine is, told by its headers and configurations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gen_worker.conversion.classify import RepoRefusal, detect_huggingface_source_layout
from gen_worker.conversion.convert.gguf_facts import GgufFacts, gguf_facts, gguf_files
from gen_worker.conversion.convert.quantized_sources import quantization_of
from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.weight_sets import weight_set_of
from gen_worker.conversion.links import refuse_links_below
from gen_worker.conversion.lora.facts import AdapterFacts, adapter_facts
from gen_worker.conversion.lora.reading import peft_parts
from gen_worker.conversion.source import Component, Source
from gen_worker.errors import WorkerError
from gen_worker.models.formats import (
    assert_loadable,
    read_gguf_header,
    read_header,
    read_index,
)
from gen_worker.models.formats.components import own_code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ComponentFacts", "ModelFacts", "dominant_dtype", "inspect_model"]

T = TypeVar("T")
_OF_ADAPTERS = ("native_lora", "peft", "unknown")
"""Layouts in which a LoRA may be."""
_FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


class ComponentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The weights of one component."""

    name: str
    """Empty for a model in one folder or file."""
    class_name: str
    files: int
    tensors: int
    parameters: int
    size_bytes: int
    dtypes: Mapping[str, int]
    """Bytes by dtype, such as `BF16` or `Q4_K`."""
    quantization: str
    """What `quantization_config` names; empty without one."""

    @property
    def dtype(self) -> str:
        return dominant_dtype(self.dtypes)


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model: weights that count, by component."""

    path: str
    layout: str
    family: str
    class_name: str
    """Of the pipeline, or of the model; empty when nothing names one."""
    components: tuple[ComponentFacts, ...]
    adapter: AdapterFacts | None
    """Of a LoRA and the like; None for a model."""
    gguf: GgufFacts | None
    """None for other files."""
    refusals: tuple[str, ...]
    """Why it cannot be converted, or parts of it."""

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.components)

    @property
    def tensors(self) -> int:
        return sum(part.tensors for part in self.components)

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.components)


def dominant_dtype(sizes: Mapping[str, int]) -> str:
    """Return the word for the dtype that most bytes have; empty without any."""
    code = max(sizes, key=lambda code: (sizes[code], code), default="")
    return _FLOATS.get(code, code.lower())


def inspect_model(path: str | os.PathLike[str], *, variant: str | None = None) -> ModelFacts:
    """Read headers and configurations; no tensor is read, and nothing of the model is run.

    Args:
        path: A directory, or a file of weights.
        variant: Which of several precisions to look at; by default the most precise.

    Raises:
        ConversionInputError: Nothing is there.
    """
    place = os.path.abspath(os.fspath(path))
    if not os.path.exists(place):
        raise ConversionInputError(
            f"{os.fspath(path)!r} does not exist: give a model's directory, a file of weights, or "
            "a ref such as 'hf:owner/repo'",
            file=place,
        )
    told = _Told()
    told.of(partial(refuse_links_below, place))
    source = Source(place, variant=variant)
    parts = [told.of(partial(_facts, one, variant)) for one in _components(source)]
    gguf = told.of(lambda: gguf_facts(gguf_files(place)))
    layout, family = _layout(place, told.refusals)
    adapter = None
    if layout in _OF_ADAPTERS and all(part is not None for part in parts):
        adapter = told.of(partial(adapter_facts, place))
    if gguf is not None and not gguf.is_complete:
        told.refusals.append(_incomplete(place, gguf))
    if os.path.isdir(place):
        told.refusals += [f"it needs code of its own: {what}" for what in own_code_of(place)]
    return ModelFacts(
        path=place,
        layout=layout,
        family=adapter.family if adapter is not None else family,
        class_name=_class_of(source.config()),
        components=tuple(part for part in parts if part is not None),
        adapter=adapter,
        gguf=gguf,
        refusals=tuple(dict.fromkeys(told.refusals)),
    )


class _Told:
    """Collects why parts of a model cannot be read."""

    def __init__(self) -> None:
        self.refusals: list[str] = []

    def of(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (WorkerError, OSError) as error:
            self.refusals.append(str(error))
            return None


def _incomplete(place: str, facts: GgufFacts) -> str:
    if facts.missing_parts:
        missing = facts.missing_parts
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return (
            f"{place!r} is one model in {facts.parts} files, of which {missing[0]!r}{more} are "
            "missing: fetch them again"
        )
    return f"{place!r} lacks {facts.missing_tensors} tensors that its first file announces"


def _components(source: Source) -> Iterator[Component]:
    place = os.fspath(source.path)
    parts = peft_parts(place) if source.file_layout != "diffusers" else {}
    if parts:
        for name, folder in parts.items():
            yield Component(name, Path(folder))
        return
    if source.file_layout != "diffusers":
        yield Component("", source.path)
        return
    for part in source.components.values():
        if part.holds_weights:
            yield part


def _layout(place: str, refusals: list[str]) -> tuple[str, str]:
    if peft_parts(place):
        return "peft", "unknown"
    root, files = place, list(_files(place))
    if os.path.isfile(place):
        root, name = os.path.split(place)
        files = [name]
    try:
        told = detect_huggingface_source_layout(repo_dir=root, files=files)
    except (RepoRefusal, WorkerError) as error:
        refusals.append(str(error))
        return "unknown", "unknown"
    return told.source_layout, told.model_family_variant


def _files(root: str) -> Iterator[str]:
    for parent, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            yield os.path.relpath(os.path.join(parent, name), root).replace(os.sep, "/")


def _facts(component: Component, variant: str | None) -> ComponentFacts:
    path = os.fspath(component.path)
    files = gguf_files(path)
    if files:
        pass
    elif os.path.isfile(path):
        files = (path,)
    else:
        found = weight_set_of(path, variant)
        files = tuple(read_index(found.index_path).shards) if found.index_path else found.files
    sizes: dict[str, int] = {}
    tensors = parameters = 0
    for file in files:
        for dtype, elements, size in _tensors(file):
            sizes[dtype] = sizes.get(dtype, 0) + size
            tensors += 1
            parameters += elements
    return ComponentFacts(
        name=component.name,
        class_name=_class_of(component.config),
        files=len(files),
        tensors=tensors,
        parameters=parameters,
        size_bytes=sum(sizes.values()),
        dtypes=sizes,
        quantization=quantization_of(component.config),
    )


def _tensors(path: str) -> Iterator[tuple[str, int, int]]:
    """Yield dtype, elements and bytes of each tensor of a file."""
    assert_loadable(path)
    if path.lower().endswith(".gguf"):
        for packed in read_gguf_header(path).tensors.values():
            yield packed.type_name, _product(packed.shape), packed.end - packed.start
        return
    for tensor in read_header(path).tensors.values():
        yield tensor.dtype, _product(tensor.shape), tensor.size_bytes


def _product(shape: Any) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _class_of(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name")
    if isinstance(name, str):
        return name
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
