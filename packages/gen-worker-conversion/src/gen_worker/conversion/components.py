"""Components as live modules: quantised while they are loaded, on the CPU, or passed through."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gen_worker.conversion.side_files import copy_whole
from gen_worker.conversion.source import QUANTIZABLE, Component

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from gen_worker.conversion.source import Source

__all__ = ["ROOT_FILES", "ComponentKind", "LoadedComponent", "loaded", "loaded_on_cpu"]

ComponentKind = Literal["quantized", "bf16_cpu", "passthrough", "root"]

ROOT_FILES = ("model_index.json", "README.md", "LICENSE.md", "LICENSE", "USAGE_POLICY.md")


class LoadedComponent:
    """One component of a source, and how it goes on."""

    def __init__(
        self, name: str, kind: ComponentKind, path: Path, module: Any = None, **metadata: Any
    ) -> None:
        self.name = name
        self.kind = kind
        self.path = path
        self.metadata = metadata
        self._module = module

    @property
    def module(self) -> Any:
        """The live module.

        Raises:
            AttributeError: It was not loaded, because it is passed through.
        """
        if self._module is None:
            raise AttributeError(f"component {self.name!r} is {self.kind!r} and was not loaded")
        return self._module

    def save_to(self, out_dir: str | os.PathLike[str]) -> Path:
        """Write it below a directory, as safetensors or as it was; return where.

        A module is written by its own library, which knows the tensors of its quantization.
        """
        place = Path(out_dir) / self.name
        if self.kind == "root":
            return self._save_root(Path(out_dir))
        if self._module is not None:
            self._module.save_pretrained(place)
        else:
            copy_whole(os.fspath(self.path), os.fspath(place))
        return place

    def _save_root(self, out_dir: Path) -> Path:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name in ROOT_FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, out_dir / name)
        return out_dir


def loaded(
    source: Source,
    *,
    quant_only: Collection[str] | None = None,
    quantization_config: Any = None,
    compute_dtype: Any = None,
    offload_folder: str | os.PathLike[str] | None = None,
    passthrough_only: Collection[str] | None = None,
) -> Iterator[LoadedComponent]:
    """Yield the components of a source, the chosen ones quantised while they are loaded; blocks.

    Args:
        source: Of diffusers, or of transformers, which is one component `model`.
        quant_only: Which to quantise; `QUANTIZABLE` by default. Wins over `passthrough_only`.
        quantization_config: The library's own; one for all, or by component in a dict.
        compute_dtype: Of torch, for what is not quantised.
        offload_folder: Where parts of a component that is too large for the GPU go; without it
            the whole component must fit into the first GPU, or goes to the CPU where there is none.
        passthrough_only: Which to pass through even though they are quantised by default.
    """

    def load(part: Component) -> LoadedComponent:
        options: dict[str, Any] = {"device_map": _device_map(offload_folder)}
        if offload_folder is not None:
            options["offload_folder"] = os.path.join(offload_folder, part.name)
        config = quantization_config
        if isinstance(config, dict):
            config = config.get(part.name)
        if config is not None:
            options["quantization_config"] = config
        if compute_dtype is not None:
            options["dtype"] = compute_dtype
        module = part.as_hf_module(**options)
        return LoadedComponent(part.name, "quantized", part.path, module)

    return _each(source, load, quant_only, passthrough_only)


def loaded_on_cpu(
    source: Source,
    *,
    quant_only: Collection[str] | None = None,
    compute_dtype: Any = None,
    passthrough_only: Collection[str] | None = None,
) -> Iterator[LoadedComponent]:
    """Yield the components of a source, the chosen ones on the CPU to be changed in place; blocks.

    Args:
        source: As of `loaded`.
        quant_only: Likewise.
        compute_dtype: Likewise; bfloat16 by default.
        passthrough_only: Likewise.
    """

    def load(part: Component) -> LoadedComponent:
        import torch  # type: ignore[import-not-found,unused-ignore]

        dtype = torch.bfloat16 if compute_dtype is None else compute_dtype
        module = part.as_hf_module(dtype=dtype)
        return LoadedComponent(part.name, "bf16_cpu", part.path, module)

    return _each(source, load, quant_only, passthrough_only)


def _each(
    source: Source,
    load: Callable[[Component], LoadedComponent],
    quant_only: Collection[str] | None,
    passthrough_only: Collection[str] | None,
) -> Iterator[LoadedComponent]:
    if source.file_layout != "diffusers":
        yield _single(source, load)
        return
    wanted = set(QUANTIZABLE) - set(passthrough_only or ()) if quant_only is None else quant_only
    for name, part in source.components.items():
        if name in wanted and part.holds_weights:
            yield load(part)
        else:
            yield LoadedComponent(name, "passthrough", part.path)
    yield LoadedComponent("_root", "root", source.path)


def _single(source: Source, load: Callable[[Component], LoadedComponent]) -> LoadedComponent:
    """Load a folder of transformers; weights without a configuration have no class and pass."""
    part = Component("model", source.path)
    if source.path.is_dir() and part.config:
        return load(part)
    return LoadedComponent("model", "passthrough", source.path)


def _device_map(offload_folder: object) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    if offload_folder is not None:
        return "auto"
    cuda: Any = torch.cuda
    return {"": 0} if cuda.is_available() else {"": "cpu"}
