"""The pass of calibration: block by block, each with what the quantized blocks before it make.

A block that is finished lies in the folder of the pass, so a pass that was broken off goes on.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gen_worker.conversion.errors import ConversionInputError
from gen_worker.conversion.lazy.arithmetic import computed
from gen_worker.conversion.lazy.opening import open_checkpoint
from gen_worker.conversion.lazy.stored import WeightsFile
from gen_worker.conversion.quantize.block_model import BlockModel
from gen_worker.conversion.quantize.calibration_text import token_windows
from gen_worker.conversion.quantize.fitted import Awaited, FittedScheme
from gen_worker.conversion.quantize.gptq import fit_memory_bytes
from gen_worker.conversion.quantize.hidden_states import HiddenStates
from gen_worker.conversion.quantize.layer_inputs import Watch
from gen_worker.conversion.quantize.policy import stack_of
from gen_worker.conversion.writer import write_safetensors
from gen_worker.conversion.writer.output_file import make_directories, write_small_file
from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.conversion.lazy.tensor import Checkpoint, LazyTensor
    from gen_worker.conversion.quantize.calibration_text import CalibrationData
    from gen_worker.conversion.quantize.checkpoint import QuantizedCheckpoint

__all__ = [
    "calibrate_checkpoint",
    "calibration_memory_bytes",
    "calibration_operations",
    "tokenizer_in",
]

_KEY = "calibration"
"""File that names the pass which a folder is of."""
_FIT_COST = 5
"""Rounding column by column waits for memory: so many products take its time; measured on a CPU."""
_OURS = re.compile(r"\d{5}(\.hidden)?")


class _Layer(NamedTuple):
    """One weight that is fitted."""

    scheme: FittedScheme
    source: LazyTensor
    names: Mapping[str, str]
    """Of the parts, in the file."""


def calibrate_checkpoint(
    quantized: QuantizedCheckpoint,
    source: Checkpoint,
    model: str | os.PathLike[str],
    data: CalibrationData,
    folder: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    progress: Callable[[int, int], None] | None = None,
    token: CancelToken | None = None,
) -> None:
    """Make what a quantized checkpoint awaits; blocks, for as long as the model takes to run.

    Memory holds one block in float32, what is summed up of its inputs, and one window.

    Args:
        quantized: Of `quantize_checkpoint`; it can be written from now on.
        source: The weights that it is made of.
        model: Directory with the `config.json` of the source, and its tokenizer.
        data: Text that the model is run on.
        folder: Where hidden states and results lie, until the checkpoint is written.
        tokenizer: By default that of `model`.
        progress: Called with windows that are done and that there are, over all blocks.
        token: Ends the work between two windows.

    Raises:
        ConversionInputError: The model cannot be run block by block, or the data hold no text.
        OutputSpaceError: The disk has no room for hidden states.
        CanceledError: The token was canceled.
    """
    place = os.fspath(folder)
    run = _Pass(quantized, source, os.fspath(model), place)
    _claim(place, _fingerprint(quantized, source, data))
    windows = token_windows(
        data,
        tokenizer_in(os.fspath(model)) if tokenizer is None else tokenizer,
        max_length=run.model.max_length,
    )
    run.all(windows, progress, token)


def calibration_memory_bytes(quantized: QuantizedCheckpoint, source: Checkpoint) -> int:
    """Return what calibration holds at most, beside windows; 0 where none is needed."""
    layers = _layers(quantized)
    stack = stack_of(source)
    blocks: dict[int, int] = {}
    for name, tensor in source.items():
        index = _block_of(stack, name)
        if index is not None:
            blocks[index] = blocks.get(index, 0) + 4 * tensor.elements
    widest = 0
    for name, layer in layers.items():
        if layer.scheme.needs_products:
            columns = layer.source.shape[1]
            index = _block_of(stack, name)
            blocks[index or 0] += 4 * columns * columns
            widest = max(widest, fit_memory_bytes(columns))
    return max(blocks.values()) + widest if layers else 0


def calibration_operations(
    quantized: QuantizedCheckpoint, source: Checkpoint, data: CalibrationData
) -> float:
    """Return how many multiplications and additions calibration takes, about: at most those."""
    stack, layers = stack_of(source), _layers(quantized)
    tokens = data.samples * data.length
    runs = 2 if any(layer.scheme.changes_weights for layer in layers.values()) else 1
    blocks = sum(one.elements for name, one in source.items() if name.startswith(stack))
    total = 2.0 * runs * tokens * blocks
    for layer in layers.values():
        if layer.scheme.needs_products:
            rows, columns = layer.source.shape
            total += 2.0 * columns * columns * (tokens + _FIT_COST * rows + columns)
    return total


class _Pass:
    """One pass through a model."""

    def __init__(
        self, quantized: QuantizedCheckpoint, source: Checkpoint, model: str, folder: str
    ) -> None:
        self.quantized = quantized
        self.folder = folder
        stack = stack_of(source)
        self.model = BlockModel(model, source, stack)
        self.layers: dict[int, dict[str, _Layer]] = {}
        for name, layer in _layers(quantized).items():
            index = _block_of(stack, name)
            assert index is not None, name  # quantize_checkpoint keeps what is elsewhere
            self._module(self.model.weights_of(index), name)  # before anything is read
            self.layers.setdefault(index, {})[name] = layer
        self.last = max(self.layers)

    def all(
        self,
        windows: Any,
        progress: Callable[[int, int], None] | None,
        token: CancelToken | None,
    ) -> None:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self.done, self.total = 0, len(windows) * (self.last + 2)
        self.progress, self.token = progress, token
        length = windows.shape[1]
        with torch.no_grad():
            begun = self.model.begin(windows)
            first = next(begun)
            states = [
                HiddenStates(self._path(f"{index:05d}.hidden"), (length, first.shape[-1]))
                for index in range(self.last + 2)
            ]
            at = self._finished(states)
            is_begun = at > 0 or states[0].is_there
            self.done = len(windows) * (at + is_begun)
            if not is_begun:
                states[0].write(self._told(value) for value in _joined(first, begun))
            begun.close()
            for index in range(at, self.last + 1):
                self._block(index, states[index], states[index + 1])
        for state in states:
            state.remove()
        self._settle()

    def _finished(self, states: list[HiddenStates]) -> int:
        """Return the first block that is still to be done."""
        for index in range(self.last, -1, -1):
            is_fitted = index not in self.layers or self._is_fitted(index)
            if is_fitted and (index == self.last or states[index + 1].is_there):
                return index + 1
        return 0

    def _block(self, index: int, before: HiddenStates, after: HiddenStates) -> None:
        layers = self.layers.get(index, {})
        needs_products = any(layer.scheme.needs_products for layer in layers.values())
        with self.model.block(index) as run:
            modules = self.model.weights_of(index)
            watched = {name: self._module(modules, name) for name in layers}
            watch = Watch(watched, takes_products=needs_products)
            with contextlib.closing(watch):
                if any(layer.scheme.changes_weights for layer in layers.values()):
                    for hidden in before:
                        run(self._told(hidden))
                        watch.end_window()
                    watch.close()
                    self._fit(index, layers, watch, modules)
                    if index < self.last:
                        after.write(run(hidden) for hidden in before)
                else:
                    after.write(_watched(run(self._told(hidden)), watch) for hidden in before)
                    self._fit(index, layers, watch, modules)
        before.remove()

    def _fit(
        self, index: int, layers: Mapping[str, _Layer], watch: Watch, modules: Mapping[str, Any]
    ) -> None:
        """Write the parts of a block's weights, and let the block compute with them."""
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        made: dict[str, LazyTensor] = {}
        for name, layer in layers.items():
            self._check()
            inputs = watch.inputs_of(name)
            if inputs is None:
                raise _unusable(name, "nothing went into its layer")
            if not math.isfinite(inputs.largest):
                raise _unusable(name, "infinite values go into its layer")
            for part, value in layer.scheme.fit(layer.source, inputs).items():
                made[layer.names[part]] = _constant(
                    value, self.quantized.tensors[layer.names[part]]
                )
        if made:
            write_safetensors(made, self._path(f"{index:05d}"))
        for name, layer in layers.items():
            if layer.scheme.changes_weights:
                values = torch.nn.Parameter(self._decoded(layer, made).tensor(), False)
                self._module(modules, name).weight = values

    def _decoded(self, layer: _Layer, made: Mapping[str, LazyTensor]) -> LazyTensor:
        parts = {
            part: made.get(place, self.quantized.tensors[place])
            for part, place in layer.names.items()
        }
        return layer.scheme.decode(parts, layer.source.shape)

    def _settle(self) -> None:
        for index in self.layers:
            made = open_checkpoint(self._path(f"{index:05d}"))
            for name in made:
                awaited = self.quantized.tensors[name]
                assert isinstance(awaited, Awaited), name
                awaited.settle(made, name)

    def _module(self, modules: Mapping[str, Any], name: str) -> Any:
        import torch  # type: ignore[import-not-found,import-untyped,unused-ignore]

        module = modules.get(name.removesuffix(".weight"))
        if not isinstance(module, torch.nn.Linear):
            raise ConversionInputError(
                f"tensor {name!r} is no linear layer of {type(self.model.model).__name__}: keep it",
                tensor=name,
                step="calibrate",
            )
        return module

    def _told(self, value: Any) -> Any:
        self._check()
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return value

    def _check(self) -> None:
        if self.token is not None:
            self.token.raise_if_canceled()

    def _is_fitted(self, index: int) -> bool:
        return os.path.exists(self._path(f"{index:05d}/model.safetensors"))

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)


def _unusable(name: str, why: str) -> ConversionInputError:
    return ConversionInputError(
        f"tensor {name!r} cannot be calibrated: {why}; use other text, or keep it",
        tensor=name,
        step="calibrate",
    )


def _layers(quantized: QuantizedCheckpoint) -> dict[str, _Layer]:
    return {
        name: _Layer(weight.scheme, weight.source, weight.names)
        for name, weight in quantized.weights.items()
        if isinstance(weight.scheme, FittedScheme)
    }


def _block_of(stack: str, name: str) -> int | None:
    match = re.match(r"(\d+)\.", name[len(stack) :]) if name.startswith(stack) else None
    return int(match[1]) if match else None


def _claim(folder: str, key: str) -> None:
    """Let what is in a folder count only for the pass that it is of."""
    path = os.path.join(folder, _KEY)
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
        if file.read() == key:
            return
    make_directories(folder)
    for entry in list(os.scandir(folder)):
        if not _OURS.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    write_small_file(path, key.encode())


def _fingerprint(quantized: QuantizedCheckpoint, source: Checkpoint, data: CalibrationData) -> str:
    """Return what decides about the results of a pass."""
    from blake3 import blake3

    extents = [tensor.sources for tensor in source.values()]
    paths = sorted({extent.path for found in extents for extent in found})
    files = [WeightsFile.at(path) for path in paths]
    report = quantized.report
    facts = (sdk_version(), data, report.method, report.options, report.quantized, extents, files)
    return str(blake3(msgspec.json.encode(facts)).hexdigest())


def _constant(value: Any, like: LazyTensor) -> LazyTensor:
    return computed(
        lambda start, stop: value[start:stop], shape=like.shape, dtype=like.dtype, of=()
    )


def _joined(first: Any, rest: Any) -> Any:
    yield first
    yield from rest


def _watched(value: Any, watch: Watch) -> Any:
    watch.end_window()
    return value


def tokenizer_in(folder: str) -> Any:
    """Load the tokenizer that is in a folder."""
    from gen_worker.conversion.hf_classes import libraries_view
    from gen_worker.models.loading.libraries import library

    with libraries_view(folder) as place:
        return library("transformers").AutoTokenizer.from_pretrained(place, local_files_only=True)
