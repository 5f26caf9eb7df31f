"""What a load will do, and what it made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gen_worker.models.loading.classes import kind_of

__all__ = ["ComponentPlan", "LoadPlan", "Loaded", "Method", "Quantization"]

Method = Literal[
    "path",  # nothing is loaded: the parameter gets the local path
    "pipeline",  # component by component, then the pipeline's own `from_pretrained`
    "model",  # `from_pretrained` of a class with weights
    "part",  # `from_pretrained` of a class without
    "pretrained",  # `from_pretrained(path)` of any other class
    "file",  # `from_single_file`
    "gguf",  # weights out of a GGUF file
    "absent",  # a component that may be None
]


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How weights are made smaller while they are loaded."""

    library: Literal["torchao", "bitsandbytes"]
    recipe: str
    """`fp8`, `int8`, `int4` for torchao; `nf4`, `fp4`, `int8` for bitsandbytes."""
    compute_dtype: str = "bfloat16"
    double_quant: bool = True


class ComponentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One object to load."""

    name: str
    """As the pipeline calls it; empty when the object is the whole model."""
    cls: Any = None
    method: Method
    path: str = ""
    """Directory, or the file for `file`; inside the model."""
    weights: tuple[str, ...] = ()
    """Files that hold its weights; their headers were checked."""
    variant: str = ""
    """As in `model.<variant>.safetensors`."""
    dtype: str = ""
    """`float32`, `float16`, `bfloat16`; empty: as in the file."""
    size_bytes: int = 0
    """Of its weights in memory, by the headers and `dtype`."""
    config_path: str = ""
    """Directory with the configuration, where the weights' file has none."""
    config_repo: str = ""
    """Hugging Face repository whose configuration a checkpoint without one needs."""
    packages: tuple[str, ...] = ()
    """What must be installed beyond the class's own library."""
    quantization: Quantization | None = None
    """Set when the weights are quantized while they are loaded."""


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything decided about one load; nothing but JSON and headers was read for it."""

    method: Method
    path: str
    """Of the model: a directory, or one file."""
    cls: Any = None
    annotation: Any = None
    """None: the parameter has none, or the load is for no parameter."""
    parameter: str = ""
    ref: str = ""
    """For messages."""
    is_callers: bool = False
    """The caller of the function chose the model, not its owner."""
    components: tuple[ComponentPlan, ...] = ()
    """One, with an empty name, when the model is no pipeline."""
    index: Mapping[str, Any] = {}
    """What stands for `model_index.json`, without what must not be read."""
    needs_view: bool = False
    """The libraries get a private directory with links, in place of the model's own."""
    device: str = "cpu"
    """Where it will run; it decides the default precision, the load itself is on the CPU."""

    @property
    def size_bytes(self) -> int:
        """Estimated weights of everything together."""
        return sum(part.size_bytes for part in self.components)

    @property
    def sizes(self) -> dict[str, int]:
        """Estimated weights by component."""
        return {part.name: part.size_bytes for part in self.components if part.size_bytes}

    @property
    def is_pipeline(self) -> bool:
        """Whether a pipeline of diffusers comes out, from a folder or from one file."""
        return kind_of(self.cls) in ("pipeline", "auto_pipeline")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A live object, on the CPU."""

    object: Any
    size_bytes: int
    """Measured: parameters and buffers, each counted once."""
    components: Mapping[str, Any] = {}
    """Of a pipeline, those that are there; empty otherwise."""
    is_pipeline: bool = False
    shared: tuple[str, ...] = ()
    """Names of the components that were given, not loaded."""
