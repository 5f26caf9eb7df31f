"""Whether single files load: the models that diffusers would make of one, on the meta device.

A file has no configuration. That of the pipeline it was made of stands for it, else what the shapes
of its tensors say. Denoisers and autoencoders get the names that diffusers' own reader gives them.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.errors import ConversionError
from gen_worker.conversion.lazy import open_checkpoint
from gen_worker.conversion.lazy.dtypes import torch_dtype
from gen_worker.conversion.side_files import write_json
from gen_worker.conversion.verify.loading import load_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.conversion.layout.single_file import UnpackedPipeline
    from gen_worker.conversion.lazy.tensor import Checkpoint

__all__ = ["file_problems", "single_file_in", "unfit_problems"]

_INDEX = "model_index.json"


def single_file_in(path: str) -> str:
    """Return the one file that an output is: of a folder, its only safetensors file.

    Empty where it is anything else.
    """
    if os.path.isfile(path):
        return path if path.endswith((".safetensors", ".gguf")) else ""
    names = os.listdir(path)
    found = [name for name in names if name.endswith(".safetensors")]
    is_alone = len(found) == 1 and not {"config.json", "adapter_config.json", _INDEX} & {*names}
    return os.path.join(path, found[0]) if is_alone else ""


def file_problems(file: str, origin: str) -> tuple[dict[str, str], list[str]]:
    """Make the models of a single file and compare what they want with what is there.

    Args:
        file: The output. Of a family without a known layout nothing can be said.
        origin: What it was made of, a pipeline's folder or a single file; what does not load there
            either is not held against the output. Empty where nothing is known of it.

    Returns:
        The names of the classes by component, of those that load, and what is wrong.
    """
    given = origin if os.path.isfile(os.path.join(origin, _INDEX)) else ""
    unpacked = _unpacked(file, given)
    if unpacked is None:
        return {}, []
    before = _unpacked(single_file_in(origin), "") if os.path.exists(origin) and not given else None
    loaded: dict[str, str] = {}
    problems: list[str] = []
    with _configured(unpacked, given) as root:
        for name, ours in unpacked.components.items():
            place = os.path.join(root, name)
            tensors = _as_diffusers_reads(file, unpacked.config.components[name]) or ours
            cls, found = load_problems(name, place, tensors, None)
            if not found:
                loaded[name] = cls
                continue
            known: Checkpoint | None = before.components.get(name) if before is not None else None
            known = open_checkpoint(place) if given else known
            if known is not None:  # of the source, which may have no class that fits either
                _, found = load_problems(name, place, tensors, (place, known))
            problems += found
    return loaded, problems


def unfit_problems(unpacked: UnpackedPipeline, component: str) -> list[str]:
    """Return where a component does not fit the configuration that it would be given."""
    with _configured(unpacked, "") as root:
        place = os.path.join(root, component)
        return load_problems(component, place, unpacked.components[component], None)[1]


def _unpacked(file: str, given: str) -> UnpackedPipeline | None:
    """Return the components of a file; None where nobody knows what it is, or how it is made."""
    from gen_worker.conversion.layout.single_file import unpacked_pipeline

    try:
        return unpacked_pipeline(file, config_dir=given) if file else None
    except ConversionError:
        return None


@contextmanager
def _configured(unpacked: UnpackedPipeline, given: str) -> Iterator[str]:
    """Give a folder with the configuration of each component."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as root:
        for name, config in unpacked.config.components.items():
            write_json(os.path.join(root, name, "config.json"), config)
        yield root


def _as_diffusers_reads(file: str, config: Mapping[str, Any]) -> Any:
    """Return the tensors of a component under the names that diffusers reads them by, on meta.

    None where it has no reader for the class, or one that knows the published sizes alone.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]

    try:
        from diffusers.loaders.single_file_model import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            SINGLE_FILE_LOADABLE_CLASSES,
        )

        readers: Any = SINGLE_FILE_LOADABLE_CLASSES
        read = readers[config.get("_class_name")]["checkpoint_mapping_fn"]
    except (ImportError, KeyError):
        return None
    tensors = {
        name: torch.empty(one.shape, dtype=torch_dtype(one.dtype), device="meta")
        for name, one in open_checkpoint(file).items()
    }
    try:
        return read(config={**config}, checkpoint=tensors)
    except Exception:  # whatever its code meets in a model of another size
        return None
