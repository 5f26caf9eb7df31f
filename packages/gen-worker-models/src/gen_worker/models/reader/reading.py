"""The one call behind which files become tensors."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from gen_worker.errors import HardwareUnmetError, ValidationError
from gen_worker.models.formats.damage import DamagedIndexError
from gen_worker.models.reader.hashing import FileHash, check_digest
from gen_worker.models.reader.placing import FileRead, Job, Tally, to_device, to_host
from gen_worker.models.reader.source_files import open_source
from gen_worker.models.reader.tensors import check_dtypes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.formats import TensorInfo
    from gen_worker.models.reader.backends import Backend
    from gen_worker.models.reader.source_files import SourceFile

__all__ = ["read_files", "read_tensors"]

_HEX = re.compile(r"[0-9a-f]{64}")
_THREADS = 8
"""Reads under way at once: a virtual disk gave 1.3 GB/s with 8 and 0.5 with 1 (decision 0631)."""


def read_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    device: Any = "cpu",
    names: Collection[str] | Callable[[str], bool] | None = None,
    verify: Mapping[str, str] | None = None,
    hashed: bool = False,
    copy: bool | None = None,
    page_locked: bool = False,
    backend: Backend = "auto",
    threads: int | None = None,
    token: CancelToken | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FileRead, ...]:
    """Read safetensors files, several at once; blocks.

    The tensors of a file share one allocation, which lives as long as one of them. All headers are
    checked before the first tensor is read; nothing is returned of files of which one is damaged.

    Args:
        paths: Of the files.
        device: Where the tensors go, as torch names it.
        names: The wanted tensors, or a test of a name; only what they need is read. Names that no
            file has are an error.
        verify: BLAKE3 of files, 64 hex digits by path. These files are read as a whole and hashed
            on the way, whatever `names` says.
        hashed: Hash every file.
        copy: True: memory of its own for every file. False: map the files. By default files that
            are in the page cache as a whole are mapped: nothing is copied, a write to a tensor
            copies its page, and the file must not be cut off while the tensors live. Hashed files
            are never mapped.
        page_locked: Tell CUDA about the memory, for fast copies to a device later; the device is
            then `cpu`.
        backend: Another reader for CUDA devices; `auto` takes one that is installed and goes on
            without it when it fails.
        threads: Reads under way at once, 8 by default.
        token: Ends the read between two blocks of 8 MiB.
        progress: Called in this thread with the bytes read and to read; it may raise.

    Raises:
        OSError: A file cannot be opened.
        DamagedFileError: A file is damaged, or has another hash than `verify` says.
        UnsafeFileFormat: A file is a pickle or an archive.
        ValidationError: No file has one of `names`, or torch lacks a dtype.
        ResourceError: The memory cannot be had or page-locked.
        HardwareUnmetError: There is no such device.
        CanceledError: The token was canceled.
    """
    files = [os.fspath(path) for path in paths]
    expected = _expected(verify or {}, files)
    place = _device_of(device)
    if page_locked and (place.type != "cpu" or copy is False):
        raise ValidationError("page_locked memory is on the device 'cpu' and never mapped")
    if token is not None:
        token.raise_if_canceled("loading was canceled")
    with contextlib.ExitStack() as stack:
        sources, wanted = _opened(files, names, stack)
        hashes = [
            FileHash(source.header.size_bytes) if hashed or source.path in expected else None
            for source in sources
        ]
        tally = Tally(progress, sources, wanted, hashes)
        job = Job(sources, wanted, hashes, place, threads or _THREADS, tally, token)
        if place.type == "cpu":
            read = to_host(job, copy, page_locked)
        else:
            read = to_device(job, backend, names is not None)
    for result in read:
        if result.path in expected:
            check_digest(result.path, expected[result.path], result.blake3)
    return tuple(read)


def _opened(
    files: Sequence[str],
    names: Collection[str] | Callable[[str], bool] | None,
    stack: contextlib.ExitStack,
) -> tuple[list[SourceFile], list[Mapping[str, TensorInfo]]]:
    """Open and check all files; return them and the wanted tensors of each."""
    sources = [open_source(path, stack) for path in files]
    wanted = _wanted(sources, names)
    for source, tensors in zip(sources, wanted, strict=True):
        check_dtypes(tensors, source.path)
    return sources, wanted


def _expected(verify: Mapping[Any, str], files: Sequence[str]) -> dict[str, str]:
    expected = {os.fspath(path): digest.removeprefix("blake3:") for path, digest in verify.items()}
    wrong = [path for path, digest in expected.items() if not _HEX.fullmatch(digest)]
    wrong += sorted(expected.keys() - set(files))
    if wrong:
        raise ValidationError(
            f"verify has {wrong[0]!r}: give 64 hex digits, for paths that are read"
        )
    return expected


def _device_of(device: Any) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    place: Any = torch.device(device)
    if place.type != "cuda":
        return place
    if not torch.cuda.is_available():
        raise HardwareUnmetError(f"there is no CUDA device for {device!r} here: load to 'cpu'")
    return place if place.index is not None else torch.device("cuda", torch.cuda.current_device())


def _wanted(
    sources: Sequence[SourceFile], names: Collection[str] | Callable[[str], bool] | None
) -> list[Mapping[str, TensorInfo]]:
    """Return, for each file, the tensors that are asked for, in the order of their bytes."""
    if names is None:
        return [source.header.tensors for source in sources]
    if isinstance(names, str):
        raise ValidationError(f"names is the text {names!r}: give a collection of names")
    is_wanted = names if callable(names) else set(names).__contains__
    wanted: list[Mapping[str, TensorInfo]] = [
        {name: info for name, info in source.header.tensors.items() if is_wanted(name)}
        for source in sources
    ]
    if not callable(names):
        absent = sorted(set(names).difference(*wanted))
        if absent:
            paths = ", ".join(repr(source.path) for source in sources)
            raise ValidationError(
                f"no tensor {absent[0]!r} ({len(absent)} of the names asked for) in {paths}: "
                "`read_header` lists the names"
            )
    return wanted


def read_tensors(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], **options: Any
) -> dict[str, Any]:
    """Return the tensors of one or more safetensors files by name; blocks.

    Args:
        paths: Of the files.
        **options: As of `read_files`.

    Raises:
        DamagedIndexError: Two files have a tensor of the same name.
        Exception: What `read_files` raises.
    """
    files = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    found: dict[str, Any] = {}
    for read in read_files(files, **options):
        twice = sorted(found.keys() & read.tensors.keys())
        if twice:
            problem = f"its tensor {twice[0]!r} is in another of the files too"
            raise DamagedIndexError(read.path, "duplicate", problem, actual=tuple(twice))
        found.update(read.tensors)
    return found
