"""The model a conversion starts from: its layout, its components and their tensors."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.conversion.errors import ConversionInputError, naming_tensor
from gen_worker.conversion.hf_classes import class_of_config, libraries_view
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.weight_sets import holds_weights, weight_set_of
from gen_worker.models.formats import DamagedIndexError, assert_loadable
from gen_worker.models.formats.components import components_of
from gen_worker.models.formats.configs import read_config
from gen_worker.models.loading.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gen_worker.conversion.components import LoadedComponent
    from gen_worker.conversion.lazy import OpenCheckpoint

__all__ = ["QUANTIZABLE", "Component", "FileLayout", "MissingShardError", "Source"]

FileLayout = Literal["diffusers", "singlefile"]

QUANTIZABLE = (
    *("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3"),
    *("image_encoder", "prior", "controlnet"),
)
"""Components that methods of quantization take unless told otherwise."""
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


class MissingShardError(ConversionInputError, FileNotFoundError):
    """An index names a file that is not there."""


class Component:
    """One component of a model in the layout of diffusers."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its `config.json`; empty when there is none."""
        return _json(self.path / "config.json")

    @property
    def holds_weights(self) -> bool:
        return holds_weights(os.fspath(self.path))

    def checkpoint(self, variant: str | None = None) -> OpenCheckpoint:
        """Return its tensors as recipes; see `open_checkpoint`."""
        return _opened(self.path, variant)

    def iter_tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield name and tensor, one in memory at a time."""
        checkpoint = self.checkpoint()
        for name in checkpoint:
            yield name, _read(checkpoint, name)

    def as_hf_module(self, **options: Any) -> Any:
        """Load it with the class that its configuration names; blocks.

        Args:
            **options: Of `from_pretrained`.

        Raises:
            ValueError: Its configuration names no class that diffusers or transformers have.
        """
        cls = class_of_config(self.config, os.fspath(self.path))
        return _loaded(cls, os.fspath(self.path), options)


class Source:
    """A model on this machine; nothing in its directory is ever changed."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        attributes: Mapping[str, Any] | None = None,
        ref: str = "",
        variant: str | None = None,
    ) -> None:
        """Describe it; nothing is read yet.

        Args:
            path: A directory, or one file of weights.
            attributes: As the job gave them.
            ref: As the job gave it.
            variant: Which of several precisions to read; see `open_checkpoint`.
        """
        self.path = Path(path)
        self.attributes = dict(attributes or {})
        self.ref = ref
        self.variant = variant

    @property
    def file_layout(self) -> FileLayout:
        return "diffusers" if (self.path / "model_index.json").is_file() else "singlefile"

    @cached_property
    def components(self) -> dict[str, Component]:
        """Those that `model_index.json` names and that are there, and other folders with weights.

        Empty for a model in one folder.
        """
        if self.file_layout != "diffusers":
            return {}
        named = components_of(os.fspath(self.path))
        others = sorted(
            entry.name
            for entry in os.scandir(self.path)
            if entry.is_dir() and entry.name not in named and holds_weights(entry.path)
        )
        return {name: Component(name, self.path / name) for name in (*named, *others)}

    @cached_property
    def _config(self) -> dict[str, Any]:
        name = "model_index.json" if self.file_layout == "diffusers" else "config.json"
        return _json(self.path / name)

    def config(self) -> dict[str, Any]:
        """Return `model_index.json`, or `config.json`; empty when there is none."""
        return self._config

    @cached_property
    def _tokenizer(self) -> Any:
        from gen_worker.models.loading.libraries import library

        inside = self.path / "tokenizer"
        place = inside if self.file_layout == "diffusers" and inside.is_dir() else self.hf_dir()
        return _loaded(library("transformers").AutoTokenizer, os.fspath(place), {})

    def tokenizer(self) -> Any:
        """Load its tokenizer, once; blocks."""
        return self._tokenizer

    def as_hf_model(self, *, model_cls: Any = None, **options: Any) -> Any:
        """Load the whole model; blocks.

        Args:
            model_cls: By default the pipeline that `model_index.json` names, or the causal
                language model that `config.json` describes.
            **options: Of `from_pretrained`.
        """
        from gen_worker.models.loading.libraries import library

        if model_cls is None and self.file_layout == "diffusers":
            model_cls = library("diffusers").DiffusionPipeline
        elif model_cls is None:
            model_cls = library("transformers").AutoModelForCausalLM
        return _loaded(model_cls, os.fspath(self.hf_dir()), options)

    def checkpoints(self, components: Iterable[str] | None = None) -> dict[str, OpenCheckpoint]:
        """Return the recipes of each component with weights; under `""` those of a single one.

        A folder with adapters of peft has one for each of them.

        Args:
            components: By default all.

        Raises:
            ConversionInputError: There is no such component.
            Exception: What `open_checkpoint` raises.
        """
        if self.file_layout != "diffusers":
            from gen_worker.conversion.lora.reading import peft_parts

            parts = peft_parts(os.fspath(self.path))
            opened = {name: _opened(Path(part), self.variant) for name, part in parts.items()}
            return opened or {"": _opened(self.path, self.variant)}
        wanted = self._wanted(components)
        return {c.name: c.checkpoint(self._variant_in(c)) for c in wanted if c.holds_weights}

    def iter_tensors(
        self, components: Iterable[str] | None = None
    ) -> Iterator[tuple[str, str, Any]]:
        """Yield component, name and tensor; the component is empty for a model in one folder.

        A loop that keeps no tensor has one of them in memory.

        Raises:
            DamagedFileError: A file is damaged; see `open_checkpoint`.
            UnsafeFileFormat: A component has its weights only as pickles.
        """
        for component, checkpoint in self.checkpoints(components).items():
            for name in checkpoint:
                yield component, name, _read(checkpoint, name)

    def state_dict(self, components: Iterable[str] | None = None) -> dict[str, Any]:
        """Return all tensors, in memory, as `component.name`; of one folder by their names."""
        return {
            f"{component}.{name}" if component else name: tensor
            for component, name, tensor in self.iter_tensors(components)
        }

    def hf_dir(self) -> Path:
        """Return the directory to give to other tools."""
        return self.path if self.path.is_dir() else self.path.parent

    def weights_size_bytes(self) -> int:
        """Return the size of all weight files, of every precision that is there."""
        if self.path.is_file():
            return self.path.stat().st_size
        if self.file_layout != "diffusers":
            return _weights_below(self.path)
        return sum(_weights_below(part.path) for part in self.components.values())

    def largest_quant_component_size_bytes(self) -> int:
        """Return the size of the largest component that is usually quantised."""
        if self.file_layout != "diffusers":
            return self.weights_size_bytes()
        parts = [part for name, part in self.components.items() if name in QUANTIZABLE]
        return max((_weights_below(part.path) for part in parts), default=0)

    def iter_hf_components(self, **options: Any) -> Iterator[LoadedComponent]:
        """Yield the components, quantised while they are loaded; see `components.loaded`."""
        from gen_worker.conversion.components import loaded

        return loaded(self, **options)

    def iter_hf_components_streaming(self, **options: Any) -> Iterator[LoadedComponent]:
        """Yield the components on the CPU, unquantised; see `components.loaded_on_cpu`."""
        from gen_worker.conversion.components import loaded_on_cpu

        return loaded_on_cpu(self, **options)

    def _wanted(self, names: Iterable[str] | None) -> list[Component]:
        if names is None:
            return list(self.components.values())
        asked = list(names)
        unknown = sorted(set(asked) - self.components.keys())
        if unknown:
            raise ConversionInputError(
                f"{os.fspath(self.path)!r} has no component {unknown[0]!r}: it has "
                f"{', '.join(map(repr, self.components))}",
                file=os.fspath(self.path),
            )
        return [part for name, part in self.components.items() if name in asked]

    def _variant_in(self, component: Component) -> str | None:
        """Return the wanted variant where a component has it: not all come in every one."""
        if self.variant is None:
            return None
        try:
            return weight_set_of(os.fspath(component.path), self.variant).variant
        except ConversionInputError:
            return None


def _opened(path: Path, variant: str | None) -> OpenCheckpoint:
    """Open weights; what is wrong with an index has the names that authors know."""
    try:
        return open_checkpoint(path, variant=variant if path.is_dir() else None)
    except DamagedIndexError as error:
        if error.code == "shard_missing":
            raise MissingShardError(
                f"sharded_index_missing_shard:{error.file}: {error}", file=error.file
            ) from error
        if error.code in ("header_syntax", "header_count"):
            raise ConversionInputError(
                f"sharded_index_missing_weight_map:{error.file}: {error}", file=error.file
            ) from error
        raise


def _read(checkpoint: OpenCheckpoint, name: str) -> Any:
    with naming_tensor(name):
        return checkpoint[name].tensor()


def _loaded(cls: Any, path: str, options: dict[str, Any]) -> Any:
    """Call `from_pretrained` with what the libraries may see of a directory."""
    if os.path.isfile(path):
        assert_loadable(path)
    given: dict[str, Any] = {"local_files_only": True, **options}
    if "variant" not in given and holds_weights(path):
        variant = weight_set_of(path).variant
        given |= {"variant": variant} if variant else {}
    with libraries_view(path) as place:
        try:
            return cls.from_pretrained(place, **given)
        except ImportError as error:
            raise MissingPackageError(
                f"loading {path!r} needs a library that is not installed, or not as it has to be: "
                f"install 'gen-worker[torch,conversion]' ({error})",
                package=error.name or "",
            ) from error


def _json(path: Path) -> dict[str, Any]:
    found = read_config(os.fspath(path)) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _weights_below(directory: Path) -> int:
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(directory)
        for name in names
        if name.lower().endswith(_WEIGHT_SUFFIXES)
    )
