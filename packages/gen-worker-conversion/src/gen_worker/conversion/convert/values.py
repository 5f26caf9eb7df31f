"""What a conversion will do, and what it did: records that print and travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from gen_worker.conversion.merge.methods import MergeMethod
from gen_worker.conversion.quantize.calibration_text import CalibrationData
from gen_worker.types import ProducedFlavor

__all__ = [
    "Action",
    "ComponentPlan",
    "ConversionPlan",
    "ConversionRequest",
    "ConversionResult",
    "ConvertedFile",
    "FlavorPlan",
    "GgufOptions",
    "Kept",
    "MergedLora",
    "ModelMerge",
    "OutputLayout",
    "Progress",
    "Refusal",
]

Action = Literal["cast", "quantize", "copy", "gguf", "merge"]
OutputLayout = Literal["diffusers", "singlefile", "peft", "kohya"]
"""Of models the first two; of LoRAs all but `singlefile`."""


class GgufOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What GGUF files alone have."""

    importance: str = ""
    """Path of an importance matrix of llama.cpp; empty counts all columns of a weight alike."""
    metadata: Mapping[str, str] = {}
    """Values of keys, which replace those that follow from the source."""
    base: str = ""
    """Folder of the model that a LoRA is for; empty takes the one that it names."""
    split_max_bytes: int = 0
    """Of tensors in one file; 0 writes one file."""


class MergedLora(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA that becomes a part of the model."""

    path: str
    scale: float = 1.0


class ModelMerge(msgspec.Struct, frozen=True, kw_only=True):
    """Models of the source's architecture that are merged with it."""

    method: MergeMethod
    models: tuple[str, ...]
    """Paths; of methods with a base, which the source is then, the models tuned from it."""
    weights: tuple[float, ...]
    """Of each of them; of `slerp` the position between the source and the other."""
    source_weight: float = 1.0
    """Of the source, in a linear merge."""
    density: float | None = None
    seed: int = 0


class ConversionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides about the bytes of the outputs, besides the source."""

    source: str
    """Path."""
    targets: tuple[str, ...]
    """Resolved, such as `bf16` and `gguf:q4_k_m`."""
    out: str
    layout: OutputLayout | None = None
    """None keeps the source's."""
    components: tuple[str, ...] | None = None
    """None takes those that the method is meant for."""
    keep: tuple[str, ...] = ()
    """Patterns of tensors that stay in their own precision."""
    variant: str | None = None
    max_shard_bytes: int = 5_000_000_000
    calibration: CalibrationData | None = None
    """Text that the methods which take it are calibrated with."""
    skip_calibration: bool = False
    """Only what cannot be made without calibration is calibrated."""
    gguf: GgufOptions = GgufOptions()
    merge: ModelMerge | None = None
    """Done before anything else; it takes `components`, or all that every model has."""
    loras: tuple[MergedLora, ...] = ()
    """Merged into the source, in this order, before it is converted."""
    configs: str = ""
    """Of a file that becomes a pipeline: the folder of one of the same model, which gives
    configurations, tokenizers, and components that are not in the file."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors that stay in a higher precision than the target's."""

    reason: str
    tensors: int
    size_bytes: int
    example: str


class ComponentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one component."""

    name: str
    """Empty for a model in one folder or file."""
    action: Action
    source_dtype: str
    dtype: str
    tensors: int
    """Of the source."""
    changed: int
    """Those of them that are not what they were, or are called otherwise."""
    merged: int = 0
    """Tensors that merges and LoRAs change."""
    source_bytes: int
    size_bytes: int
    memory_bytes: int
    """What one tensor that must be in memory whole, or calibration, takes at most, 0 without."""
    operations: float = 0.0
    """Multiplications and additions of calibration, about."""
    kept: tuple[Kept, ...] = ()


class FlavorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One output."""

    token: str
    flavor: str
    path: str
    """Where it will lie: a directory."""
    components: tuple[ComponentPlan, ...]
    other_bytes: int
    """Configurations, tokenizers and other files that are copied."""
    size_bytes: int
    seconds: float
    attributes: Mapping[str, str] = {}
    """What is published with it."""
    notes: tuple[str, ...] = ()
    """What it will not have, and what can be done about that."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Something that will not be done."""

    target: str
    """Empty where no target is at fault."""
    reason: str


class ConversionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `run_conversion` will do; made from headers and configurations alone."""

    request: ConversionRequest
    layout: str
    family: str
    source_bytes: int
    flavors: tuple[FlavorPlan, ...]
    size_bytes: int
    """Of all outputs."""
    free_bytes: int
    """Where they go."""
    memory_bytes: int
    """Peak beyond what `import torch` takes."""
    seconds: float
    """A guess, from rates measured on two cores."""
    refusals: tuple[Refusal, ...]
    """Empty when it can begin."""
    is_finished: bool = False
    """Whether an earlier run made the outputs: there is nothing to do."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a conversion is."""

    flavor: str
    component: str
    done_bytes: int
    """Of the weights of all outputs."""
    total_bytes: int
    calibrated: float | None = None
    """Share of the component's calibration that is done; None while weights are written."""


class ConvertedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with weights of an output."""

    path: str
    """Relative to its flavor."""
    size_bytes: int
    blake3: str


class ConversionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a plan."""

    flavors: tuple[ProducedFlavor, ...]
    """As functions return them."""
    files: Mapping[str, tuple[ConvertedFile, ...]]
    """By flavor."""
    nonfinite: Mapping[str, tuple[int, int]]
    """NaN and infinite values by `flavor/component/tensor`, only where there are any."""
    resumed: int
    """Files that an earlier, interrupted run had finished."""
    seconds: float
