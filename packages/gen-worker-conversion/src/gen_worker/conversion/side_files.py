"""What belongs to weights and is none: configurations, tokenizers, licences."""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gen_worker.conversion.lazy.stored import unreadable
from gen_worker.conversion.links import Home
from gen_worker.conversion.provenance import proof_files
from gen_worker.conversion.writer.output_file import (
    PART_SUFFIX,
    output_directory,
    write_failure,
    write_small_file,
)
from gen_worker.models.formats import SAFE_SUFFIXES, UNSAFE_SUFFIXES, weight_files
from gen_worker.models.formats.configs import read_config
from gen_worker.models.formats.plain_files import files_below
from gen_worker.models.formats.unsafe import only_unsafe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = [
    "copy_side_files",
    "copy_whole",
    "is_weights",
    "json_bytes",
    "set_config_dtype",
    "set_quantization_config",
    "side_files",
    "write_json",
]

_OTHER_WEIGHTS = frozenset({".onnx", ".onnx_data", ".ot", ".tflite", ".mlmodel"})
_STALE_INDEX = re.compile(r".*\.(safetensors|bin)\.index(\.[\w-]+)?\.json")
_ALTERNATIVES = frozenset({"onnx", "openvino", "coreml", "original", "gguf", "mlx", "metal"})
"""Folders with the same weights in formats of other programs."""
_DTYPE_KEYS = ("torch_dtype", "dtype")


def is_weights(name: str) -> bool:
    """Tell whether a file holds weights, or says where they are."""
    suffix = os.path.splitext(name)[1].lower()
    is_file = suffix in SAFE_SUFFIXES | UNSAFE_SUFFIXES | _OTHER_WEIGHTS
    return is_file or _STALE_INDEX.fullmatch(name) is not None


def side_files(directory: str) -> Iterator[str]:
    """Yield the plain files of a directory itself that are no weights, by name.

    Provenance, report and card that an earlier conversion wrote are none either.

    Raises:
        OutsideLinkError: One is a link that leads out of the model's folder.
    """
    home, ours = Home(directory), proof_files(directory)
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.startswith(".") and not is_weights(entry.name):
            if entry.name not in ours:
                home.refuse_outside(entry.path)
                yield entry.name


def copy_side_files(source: str, target: str, *, skip: Collection[str] = ()) -> int:
    """Copy what belongs to the weights of a directory, and the directories below it.

    Left out are weights of `source` itself, hidden files, and folders with the weights in formats
    of other programs. What is in `target` already stays.

    Args:
        source: A directory.
        target: Another; made when absent.
        skip: Names of directories below `source` that are not copied.

    Returns:
        How many files were copied.

    Raises:
        OutputSpaceError: The disk is full.
        OutsideLinkError: A file is a link that leads out of the model's folder.
    """
    home, count = Home(source), 0
    for name in side_files(source):
        count += _copy(os.path.join(source, name), os.path.join(target, name))
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        is_wanted = entry.name not in skip and entry.name not in _ALTERNATIVES
        if entry.is_dir() and is_wanted and not entry.name.startswith("."):
            count += _copy_tree(entry.path, os.path.join(target, entry.name), home)
    return count


def copy_whole(source: str, target: str) -> int:
    """Copy a file or a tree as it is, pickles and hidden files left out; return how many files.

    Raises:
        OutputSpaceError: The disk is full.
        OutsideLinkError: A file of the tree is a link that leads out of the model's folder.
        UnsafeFileFormat: The tree has weights, and only in formats that can run code.
    """
    if os.path.isfile(source):
        return _copy(source, os.path.join(target, os.path.basename(source)))
    return _copy_tree(source, target, Home(source))


def _copy_tree(source: str, target: str, home: Home) -> int:
    home.refuse_outside(source)
    weights = weight_files(source)
    if weights.unsafe and not weights.safe:
        raise only_unsafe(weights.unsafe, "", os.path.basename(source))
    count = 0
    for path, relative in sorted(files_below(source)):
        parts = relative.split("/")
        if not any(part.startswith(".") for part in parts) and not _is_unsafe(parts[-1]):
            home.refuse_outside(path)
            count += _copy(path, os.path.join(target, *parts))
    return count


def _is_unsafe(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in UNSAFE_SUFFIXES or name.endswith(".bin.index.json")


def _copy(source: str, target: str) -> int:
    if os.path.exists(target):
        return 0
    part = f"{target}{PART_SUFFIX}"
    with output_directory(os.path.dirname(target)):
        try:
            shutil.copyfile(source, part)  # a half of one would look like a whole one
            os.replace(part, target)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(part)
            if isinstance(error, OSError):
                raise _copy_failure(source, target, error) from error
            raise
    return 1


def _copy_failure(source: str, target: str, error: OSError) -> Exception:
    """Tell apart which of the two files is at fault; a full disk's error names both."""
    is_unreadable = error.filename == source and error.filename2 is None
    if is_unreadable or isinstance(error, shutil.Error):
        return unreadable(source, error)
    return write_failure(target, error)


def set_config_dtype(directory: str, dtype: str) -> None:
    """Say in `config.json` which precision the weights have now, where it said one before.

    Args:
        directory: Of the component that was written.
        dtype: As torch names it, such as `bfloat16`.
    """
    path = os.path.join(directory, "config.json")
    config = read_config(path) if os.path.isfile(path) else None
    if isinstance(config, dict) and _changed(config, dtype):
        write_json(path, config)


def set_quantization_config(directory: str, block: Mapping[str, Any]) -> None:
    """Tell loaders in `config.json` how the weights beside it are quantised."""
    path = os.path.join(directory, "config.json")
    config = read_config(path) if os.path.isfile(path) else {}
    changed = {**(config if isinstance(config, dict) else {}), "quantization_config": block}
    write_json(path, changed)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return a configuration as it is written."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write a configuration in one piece; its directory is made when absent."""
    write_small_file(path, json_bytes(content))


def _changed(config: dict[str, Any], dtype: str) -> bool:
    keys = [key for key in _DTYPE_KEYS if isinstance(config.get(key), str)]
    changed = any(config[key] != dtype for key in keys)
    config.update(dict.fromkeys(keys, dtype))
    for name, part in config.items():
        if name.endswith("_config") and isinstance(part, dict) and name != "quantization_config":
            changed = _changed(part, dtype) or changed
    return changed
