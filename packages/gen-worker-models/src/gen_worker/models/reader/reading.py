"""The one call behind which files become tensors."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.errors import ValidationError
from gen_worker.models.formats.damage import DamagedIndexError
from gen_worker.models.reader.backends import Backend, chosen_backends, read_with
from gen_worker.models.reader.device import CudaLane, deliver, process_ring
from gen_worker.models.reader.hashing import FileHash, check_digest
from gen_worker.models.reader.host import Filled, fill, is_cached, map_files
from gen_worker.models.reader.plan import host_runs
from gen_worker.models.reader.source_files import open_source
from gen_worker.models.reader.tensors import check_dtypes, views

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.formats import Header, TensorInfo
    from gen_worker.models.reader.memory import HostMemory
    from gen_worker.models.reader.plan import Run
    from gen_worker.models.reader.source_files import SourceFile

__all__ = ["FileRead", "Method", "read_files", "read_tensors"]

Method = Literal["mapped", "read", "delivered", "instanttensor", "fastsafetensors"]

_HEX = re.compile(r"[0-9a-f]{64}")
_THREADS = 8
"""Reads under way at once: a virtual disk gave 1.3 GB/s with 8 and 0.5 with 1 (decision 0631)."""


class FileRead(NamedTuple):
    """What was read of one file."""

    path: str
    header: Header
    tensors: dict[str, Any]
    method: Method
    blake3: str = ""
    """64 hex digits when hashing was asked for."""
    memory: HostMemory | None = None
    """Of all tensors together; None when they are mapped or on a device."""


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
        sources = [open_source(path, stack) for path in files]
        wanted = _wanted(sources, names)
        for source, tensors in zip(sources, wanted, strict=True):
            check_dtypes(tensors, source.path)
        hashes = [
            FileHash(source.header.size_bytes) if hashed or source.path in expected else None
            for source in sources
        ]
        tally = _Tally(progress, sources, wanted, hashes)
        job = _Job(sources, wanted, hashes, place, threads or _THREADS, tally, token)
        if place.type == "cpu":
            read = _to_host(job, copy, page_locked)
        else:
            read = _to_device(job, backend, names is not None)
    for result in read:
        if result.path in expected:
            check_digest(result.path, expected[result.path], result.blake3)
    return tuple(read)


class _Tally:
    """Adds up the bytes of blocks and tells them."""

    def __init__(
        self,
        progress: Callable[[int, int], None] | None,
        sources: Sequence[SourceFile],
        wanted: Sequence[Mapping[str, TensorInfo]],
        hashes: Sequence[FileHash | None],
    ) -> None:
        self._progress = progress
        self._done = 0
        self._total = sum(
            run.end - run.start
            for source, tensors, hash_ in zip(sources, wanted, hashes, strict=True)
            for run in host_runs(tensors, source.header, whole=hash_ is not None)
        )

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)

    def end(self) -> None:
        """Tell that all is read, whoever read it."""
        if self._done < self._total:
            self(self._total - self._done)


class _Job(NamedTuple):
    sources: Sequence[SourceFile]
    wanted: Sequence[Mapping[str, TensorInfo]]
    hashes: Sequence[FileHash | None]
    device: Any
    threads: int
    tally: _Tally
    token: CancelToken | None

    @property
    def is_hashed(self) -> bool:
        return any(hash_ is not None for hash_ in self.hashes)

    def results(self, tensors: Sequence[dict[str, Any]], method: Method) -> list[FileRead]:
        return [
            FileRead(source.path, source.header, found, method, hash_.hexdigest() if hash_ else "")
            for source, found, hash_ in zip(self.sources, tensors, self.hashes, strict=True)
        ]

    def views(self, memories: Sequence[Any], runs: Sequence[Sequence[Run]]) -> list[dict[str, Any]]:
        return [
            views(tensors, source.header, runs, memory)
            for source, tensors, runs, memory in zip(
                self.sources, self.wanted, runs, memories, strict=True
            )
        ]


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
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    return place


def _wanted(
    sources: Sequence[SourceFile], names: Collection[str] | Callable[[str], bool] | None
) -> list[Mapping[str, TensorInfo]]:
    """Return, for each file, the tensors that are asked for, in the order of their bytes."""
    if names is None:
        return [source.header.tensors for source in sources]
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


def _to_host(job: _Job, copy: bool | None, page_locked: bool) -> list[FileRead]:
    if _is_mapped(job, copy, page_locked):
        mapped = map_files(job.sources, job.wanted, progress=job.tally, token=job.token)
        memories, runs = [into.tensor() for into in mapped], [into.runs for into in mapped]
        return job.results(job.views(memories, runs), "mapped")
    filled = _fill(job)
    if page_locked:
        for into in filled:
            into.memory.page_lock()
    memories, runs = [into.tensor() for into in filled], [into.runs for into in filled]
    results = job.results(job.views(memories, runs), "read")
    return [
        result._replace(memory=into.memory) for result, into in zip(results, filled, strict=True)
    ]


def _is_mapped(job: _Job, copy: bool | None, page_locked: bool) -> bool:
    if job.is_hashed or page_locked or copy:
        return False
    if copy is False:
        return True
    return all(map(is_cached, job.sources, job.wanted))


def _fill(job: _Job) -> list[Filled]:
    return fill(
        job.sources,
        job.wanted,
        job.hashes,
        threads=job.threads,
        progress=job.tally,
        token=job.token,
    )


def _to_device(job: _Job, backend: Backend, is_partial: bool) -> list[FileRead]:
    backends = chosen_backends(
        backend, device_type=job.device.type, is_hashed=job.is_hashed, is_partial=is_partial
    )
    for name in backends:
        if name == "instanttensor" or name == "fastsafetensors":
            results = _with_backend(job, name, is_last=name == backends[-1])
            if results is not None:
                return results
    return _on_cuda(job) if job.device.type == "cuda" else _moved(job)


def _with_backend(
    job: _Job, name: Literal["instanttensor", "fastsafetensors"], *, is_last: bool
) -> list[FileRead] | None:
    """Read with another reader; None when it failed and another way is left."""
    try:
        tensors = read_with(name, [source.path for source in job.sources], job.wanted, job.device)
    except Exception as error:
        # Out of memory: our own reader needs no less, and the caller knows what to do about it.
        if is_last or type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            raise
        import logging

        logging.getLogger(__name__).warning(
            "the reader %s failed, reading without: %s", name, error
        )
        return None
    if job.token is not None:
        job.token.raise_if_canceled("loading was canceled")
    job.tally.end()
    return job.results(tensors, name)


def _on_cuda(job: _Job) -> list[FileRead]:
    import torch

    stream: Any = torch.cuda.current_stream(job.device)

    def allocate(size_bytes: int) -> Any:
        return torch.empty(size_bytes, dtype=torch.uint8, device=job.device)

    delivered = deliver(
        job.sources,
        job.wanted,
        job.hashes,
        allocate=allocate,
        lane=lambda: CudaLane(job.device, stream),
        ring=process_ring(),
        threads=job.threads,
        progress=job.tally,
        token=job.token,
    )
    memories, runs = [into.memory for into in delivered], [into.runs for into in delivered]
    return job.results(job.views(memories, runs), "delivered")


def _moved(job: _Job) -> list[FileRead]:
    """Read for a device without a way of its own, such as `mps`: one copy for each file."""
    filled = _fill(job)
    memories = [into.tensor().to(job.device) for into in filled]
    return job.results(job.views(memories, [into.runs for into in filled]), "delivered")


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
