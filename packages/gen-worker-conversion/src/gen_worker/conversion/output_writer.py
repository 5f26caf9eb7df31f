"""The writer of authors' loops: tensors in any order, a whole model with all its files out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gen_worker.conversion.errors import ConversionImplementationError, ConversionInputError
from gen_worker.conversion.lazy.dtypes import FLOATS, code_of, torch_dtype
from gen_worker.conversion.lazy.stored import StoredTensor, WeightsFile, bytes_of
from gen_worker.conversion.side_files import (
    copy_side_files,
    copy_whole,
    set_config_dtype,
    side_files,
)
from gen_worker.conversion.source import Source
from gen_worker.conversion.writer import MAX_SAFETENSORS_SHARD_BYTES, write_safetensors
from gen_worker.conversion.writer.output_file import (
    make_directories,
    output_directory,
    write_failure,
)
from gen_worker.errors import ValidationError
from gen_worker.paths import safe_join

if TYPE_CHECKING:
    from collections.abc import Collection

    from gen_worker.conversion.lazy import LazyTensor
    from gen_worker.conversion.writer import Written
    from gen_worker.conversion.writer.nonfinite import NonFinite

__all__ = ["StreamingWriter", "copy_unconverted_components"]

_TRANSFORMERS = ("text_encoder", "image_encoder", "safety_checker")
"""Components whose library looks for `model`, by how their names begin."""


class StreamingWriter:
    """Takes tensors one by one and keeps none of them: they wait on disk for `finalize`.

    What was not written is copied from the source: other components, configurations, tokenizers,
    licences. Without `finalize` nothing of worth is left in the directory.
    """

    def __init__(
        self,
        source: Source | str | os.PathLike[str],
        out_dir: str | os.PathLike[str],
        *,
        max_shard_bytes: int = MAX_SAFETENSORS_SHARD_BYTES,
    ) -> None:
        """Begin.

        Args:
            source: What is converted.
            out_dir: New or empty.
            max_shard_bytes: Of tensors in one file.

        Raises:
            ConversionInputError: `out_dir` has files.
        """
        self._source = source if isinstance(source, Source) else Source(source)
        self._out = os.path.abspath(os.fspath(out_dir))
        self._max_shard_bytes = max_shard_bytes
        self._spills: dict[str, _Spill] = {}
        self._passed: set[str] = set()
        self._is_final = False
        self.nonfinite: dict[tuple[str, str], NonFinite] = {}
        """After `finalize`: NaN and infinite values by component and name, where there are any."""
        make_directories(self._out)
        if os.listdir(self._out):
            raise ConversionInputError(
                f"{self._out!r} is not empty: give a new directory for the output", file=self._out
            )

    @property
    def is_diffusers(self) -> bool:
        return self._source.file_layout == "diffusers"

    def write(self, component: str, name: str, tensor: Any) -> None:
        """Add a tensor; blocks.

        Args:
            component: As `iter_tensors` gave it: empty for a model in one folder.
            name: Of the tensor in the component.
            tensor: Of torch, on any device.

        Raises:
            RuntimeError: It was written before, the component was passed through, the component
                does not fit the source's layout, or the writer is finalized.
            OutputSpaceError: The disk is full; the directory is then empty.
            ConversionError: It cannot be written; likewise.
        """
        self._check(component, name)
        if component in self._passed:
            raise _misuse(f"component {component!r} was passed through", name)
        spill = self._spills.get(component)
        if spill is None:
            number = len(self._spills)
            spill = self._spills[component] = _Spill(os.path.join(self._out, f".spill-{number}"))
        try:
            spill.add(name, tensor)
        except OSError as error:
            self._clear()
            raise write_failure(self._out, error) from error

    def passthrough(self, component: str) -> None:
        """Have a component copied as it is; empty means the weights of a model in one folder.

        Raises:
            RuntimeError: Tensors of it were written, or the writer is finalized.
            ConversionInputError: The source has no such component.
        """
        self._check(component)
        if component in self._spills:
            raise _misuse(f"component {component!r} has tensors that were written")
        if component and component not in self._source.components:
            raise ConversionInputError(f"the source has no component {component!r} to pass through")
        self._passed.add(component)

    def finalize(self) -> Path:
        """Write the model and return it: its directory, or the file when there is nothing else.

        Raises:
            RuntimeError: It was called before.
            OutputSpaceError: The disk is full; the directory is then empty.
        """
        if self._is_final:
            raise _misuse("the writer is finalized already")
        self._is_final = True
        try:
            return self._diffusers() if self.is_diffusers else self._single()
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        """Remove everything: the directory was empty when the writer began."""
        self._is_final = True
        for spill in self._spills.values():
            spill.close()
        shutil.rmtree(self._out, ignore_errors=True)
        os.makedirs(self._out, exist_ok=True)

    def _diffusers(self) -> Path:
        root = os.fspath(self._source.path)
        for component in self._spills:
            place = os.path.join(self._out, component)
            self._write(component, place, self._prefix_of(component))
            inside = os.path.join(root, component)
            if os.path.isdir(inside):
                copy_side_files(inside, place)
            self._describe(component, place)
        copy_side_files(root, self._out, skip=self._spills.keys())
        return Path(self._out)

    def _single(self) -> Path:
        source = self._source.path
        written = self._write("", self._out, "model") if self._spills else None
        if written is None and "" in self._passed:
            copy_whole(os.fspath(source), self._out)
        copied = copy_side_files(os.fspath(source), self._out) if source.is_dir() else 0
        if written is None or written.plan.is_sharded or copied:
            self._describe("", self._out)
            return Path(self._out)
        return Path(written.path)

    def _write(self, component: str, place: str, prefix: str) -> Written:
        spill = self._spills[component]
        written = write_safetensors(
            spill.checkpoint(), place, prefix=prefix, max_shard_bytes=self._max_shard_bytes
        )
        spill.remove()
        self.nonfinite |= {(component, name): n for name, n in written.nonfinite.items()}
        return written

    def _prefix_of(self, component: str) -> str:
        entry = self._source.config().get(component)
        library = entry[0] if isinstance(entry, list) and entry else ""
        is_theirs = library == "transformers" or component.startswith(_TRANSFORMERS)
        return "model" if is_theirs else "diffusion_pytorch_model"

    def _describe(self, component: str, place: str) -> None:
        spill = self._spills.get(component)
        dtype = spill.float_dtype() if spill else ""
        if dtype:
            set_config_dtype(place, dtype)

    def _check(self, component: str, name: str = "") -> None:
        if self._is_final:
            raise _misuse("the writer is finalized", name)
        if self.is_diffusers and not component:
            raise _misuse("the source has components, and none was named", name)
        if not self.is_diffusers and component:
            raise _misuse(f"the source has no components, and {component!r} was named", name)
        if component:
            _check_component(component)


class _Spill:
    """Tensors one after another in a file, in the order they came."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._tensors: dict[str, tuple[str, tuple[int, ...], int]] = {}
        self._size_bytes = 0
        self._file: BinaryIO | None = None

    def add(self, name: str, tensor: Any) -> None:
        if name in self._tensors:
            raise _misuse("it was written before", name)
        plain = tensor.detach().to("cpu").contiguous()
        code = code_of(plain.dtype)
        shape = tuple(plain.shape)
        if code == "F4":  # torch counts pairs
            shape = (*shape[:-1], shape[-1] * 2)
        self._tensors[name] = (code, shape, self._size_bytes)
        rest = bytes_of(plain)
        self._size_bytes += len(rest)
        if self._file is None:
            self._file = open(self._path, "xb", buffering=0)
        while rest:
            rest = rest[self._file.write(rest) :]

    def checkpoint(self) -> dict[str, LazyTensor]:
        """Return what was added, to be written once more, in its final order."""
        self.close()
        file = WeightsFile.at(self._path)
        return {
            name: StoredTensor(file, shape, code, start)
            for name, (code, shape, start) in self._tensors.items()
        }

    def float_dtype(self) -> str:
        """Return torch's name of the precision most of the weights have; empty for no plain one."""
        sizes: dict[str, int] = {}
        for code, shape, _ in self._tensors.values():
            elements = 1
            for size in shape:
                elements *= size
            sizes[code] = sizes.get(code, 0) + elements
        code = max(sizes, key=lambda code: sizes[code], default="")
        return str(torch_dtype(code)).removeprefix("torch.") if code in FLOATS else ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        os.unlink(self._path)


def copy_unconverted_components(
    source: Source | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    skip: Collection[str] = (),
) -> list[str]:
    """Copy the components that are neither in `skip` nor in `out_dir`, and the files beside them.

    Returns:
        The names of the components that were copied.

    Raises:
        OutputSpaceError: The disk is full; no component is then left.
    """
    model = source if isinstance(source, Source) else Source(source)
    target = os.path.abspath(os.fspath(out_dir))
    places = {name: os.path.join(target, name) for name in model.components if name not in skip}
    copied = [name for name, place in places.items() if not os.path.exists(place)]
    with output_directory(target):
        try:
            for name in copied:
                copy_whole(os.fspath(model.components[name].path), places[name])
            for name in side_files(os.fspath(model.path)):
                copy_whole(os.path.join(model.path, name), target)
        except BaseException:
            for name in copied:
                shutil.rmtree(places[name], ignore_errors=True)
            raise
    return copied


def _check_component(component: str) -> None:
    try:
        safe_join("", component)
    except ValidationError as error:
        raise ConversionInputError(f"component {component!r} is no plain name: {error}") from error
    if "/" in component or component.startswith("."):
        raise ConversionInputError(f"component {component!r} is no plain name: name one folder")


def _misuse(problem: str, name: str = "") -> ConversionImplementationError:
    what = f"tensor {name!r} cannot be written: " if name else ""
    return ConversionImplementationError(f"{what}{problem}", tensor=name, step="write")
