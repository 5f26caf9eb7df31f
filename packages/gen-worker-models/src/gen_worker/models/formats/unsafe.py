"""Refuse weights that can run code while they are loaded, and Python that came with a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.models.formats.plain_files import files_below, open_plain, read_exactly

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CODE_SUFFIXES",
    "SAFE_SUFFIXES",
    "UNSAFE_SUFFIXES",
    "UnsafeFileFormat",
    "WeightFiles",
    "assert_loadable",
    "assert_safe_weight_format",
    "check_weight_formats",
    "only_unsafe",
    "weight_files",
]

SAFE_SUFFIXES = frozenset({".safetensors", ".gguf", ".flashpack"})

UNSAFE_SUFFIXES = frozenset(
    {
        *(".bin", ".pt", ".pth", ".ckpt", ".pt2", ".nemo"),  # torch: pickles
        *(".pkl", ".pickle", ".joblib", ".dill"),
        *(".npy", ".npz"),  # NumPy: pickles when there are objects in it
        *(".h5", ".hdf5", ".keras", ".msgpack"),  # Keras: functions as bytecode; Flax
    }
)
"""Of files that never are loaded, in whatever company they come."""

CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".so", ".dll", ".dylib"})
"""Of Python and native libraries; none of a model's own is ever run."""

_CONVERT = "publish the model as safetensors (`save_pretrained(..., safe_serialization=True)`)"
_OTHER_CLASS = "publish it with classes that the libraries have"


class UnsafeFileFormat(ValidationError):
    """A model has its weights in a format that can run code, or needs Python that it brings."""

    def __init__(self, message: str, *, ref: str = "", files: Sequence[str] = ()) -> None:
        """Keep what was refused.

        Args:
            message: What is refused and what to do.
            ref: The model as its binding names it, when known.
            files: The refused files, the largest first.
        """
        super().__init__(message)
        self.ref = ref
        self.files = tuple(files)


class WeightFiles(NamedTuple):
    """The files of a model's directory by what loading them means; paths relative to it."""

    safe: tuple[str, ...]
    unsafe: tuple[str, ...]
    """Largest first. Never to be loaded."""
    code: tuple[str, ...]
    """Python and native libraries. Never to be run."""


def weight_files(directory: str) -> WeightFiles:
    """List the weights and the code below `directory`, by the files' names.

    Hidden files count, and those behind links.
    """
    safe: list[str] = []
    unsafe: list[tuple[int, str]] = []
    code: list[str] = []
    for path, relative in files_below(directory):
        suffix = os.path.splitext(relative)[1].lower()
        if suffix in SAFE_SUFFIXES:
            safe.append(relative)
        elif suffix in UNSAFE_SUFFIXES:
            unsafe.append((-_size_bytes(path), relative))
        elif suffix in CODE_SUFFIXES:
            code.append(relative)
    by_size = tuple(relative for _, relative in sorted(unsafe))
    return WeightFiles(tuple(sorted(safe)), by_size, tuple(sorted(code)))


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a dangling link
        return 0


def assert_safe_weight_format(directory: str | os.PathLike[str], ref: str = "") -> None:
    """Refuse a model that has weights and none of them in a safe format.

    A model that has both passes; of those, `assert_loadable` refuses the unsafe files one by one.

    Raises:
        UnsafeFileFormat: Names the largest of the unsafe files.
    """
    found = weight_files(os.fspath(directory))
    if found.unsafe and not found.safe:
        raise only_unsafe(found.unsafe, ref)


def only_unsafe(unsafe: Sequence[str], ref: str, component: str = "") -> UnsafeFileFormat:
    """Return the refusal of a model, or of a component, that has no safe weights.

    Args:
        unsafe: Those it has, the largest first.
        ref: The model as its binding names it, when known.
        component: Empty means the model.
    """
    others = f" and {len(unsafe) - 1} more" if len(unsafe) > 1 else ""
    owner = f"model {ref!r}" if ref else "the model"
    where = f"component {component!r}" if component else "its weights"
    return UnsafeFileFormat(
        f"{owner} has {where} only in formats that can run code while they are "
        f"loaded, {unsafe[0]!r}{others}: {_CONVERT}, or choose a revision that has it so",
        ref=ref,
        files=unsafe,
    )


def check_weight_formats(directory: str | os.PathLike[str], ref: str = "") -> WeightFiles:
    """Check a whole model before anything of it is loaded, and return what it has.

    Beyond `assert_safe_weight_format`: each component that `model_index.json` names must have safe
    weights if it has any, and no configuration may lead to Python that came with the model.

    Args:
        directory: Of the model.
        ref: The model as its binding names it, for messages.

    Raises:
        UnsafeFileFormat: It must not be loaded.
    """
    from gen_worker.models.formats.components import components_of, own_code_of

    root = os.fspath(directory)
    found = weight_files(root)
    if found.unsafe and not found.safe:
        raise only_unsafe(found.unsafe, ref)
    for component in components_of(root):
        unsafe = _below(component, found.unsafe)
        if unsafe and not _below(component, found.safe):
            raise only_unsafe(unsafe, ref, component)
    needed = own_code_of(root)
    if needed:
        raise UnsafeFileFormat(
            f"model {ref or root!r} needs Python that it brings, {needed[0]}: {_OTHER_CLASS}",
            ref=ref,
            files=found.code,
        )
    return found


def _below(component: str, files: Sequence[str]) -> tuple[str, ...]:
    return tuple(file for file in files if file.startswith(f"{component}/"))


def assert_loadable(path: str | os.PathLike[str], ref: str = "") -> None:
    """Refuse to load one file by its name or by what it begins with; reads at most 264 bytes.

    Raises:
        OSError: The file cannot be opened.
        UnsafeFileFormat: It is, or pretends not to be, of a format that can run code.
        WrongFormatError: It has a safe name and is something harmless, such as an error page.
    """
    from gen_worker.models.formats.content import HEAD_BYTES, refuse_other_content

    file = os.fspath(path)
    suffix = os.path.splitext(file)[1].lower()
    if suffix in UNSAFE_SUFFIXES | CODE_SUFFIXES:
        raise UnsafeFileFormat(
            f"file {file!r} is not loaded, because {suffix!r} files can run code: {_CONVERT}",
            ref=ref,
            files=(file,),
        )
    with open_plain(file) as (descriptor, _):
        head = read_exactly(descriptor, HEAD_BYTES, 0)
    if suffix == ".gguf":
        refuse_other_content(file, head, "gguf")
    elif suffix == ".safetensors":
        refuse_other_content(file, head, "safetensors")
    else:
        _refuse_code(file, head)


def _refuse_code(file: str, head: bytes) -> None:
    from gen_worker.models.formats.content import refuse_other_content, sniff

    content = sniff(head)
    if content in ("safetensors", "gguf", "json"):
        return
    refuse_other_content(file, head, "unknown")
