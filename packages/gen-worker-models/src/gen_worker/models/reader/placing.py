"""Put the tensors of open files where they were asked for, by the way that suits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gen_worker.models.reader.backends import Backend, chosen_backends, read_with
from gen_worker.models.reader.device import CudaLane, deliver, process_ring
from gen_worker.models.reader.host import Filled, fill, is_cached, map_files
from gen_worker.models.reader.plan import host_runs
from gen_worker.models.reader.tensors import views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gen_worker.cancel import CancelToken
    from gen_worker.models.formats import Header, TensorInfo
    from gen_worker.models.reader.hashing import FileHash
    from gen_worker.models.reader.memory import HostMemory
    from gen_worker.models.reader.plan import Run
    from gen_worker.models.reader.source_files import SourceFile

__all__ = ["FileRead", "Job", "Method", "Tally", "to_device", "to_host"]

Method = Literal["mapped", "read", "delivered", "instanttensor", "fastsafetensors"]


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
    runs: Sequence[Run] = ()
    """What of the file is in `memory`, and where."""

    def copied_to(self, device: Any) -> dict[str, Any]:
        """Return the tensors on a device, moved by one copy of `memory`; blocks.

        From page-locked memory that is as fast as the bus; tensor by tensor is not.
        """
        if self.memory is None:
            return {name: tensor.to(device) for name, tensor in self.tensors.items()}
        filled = Filled(self.memory, self.runs)
        moved = filled.tensor().to(device)
        wanted = {name: info for name, info in self.header.tensors.items() if name in self.tensors}
        return views(wanted, self.header, self.runs, moved)


class Tally:
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


class Job(NamedTuple):
    sources: Sequence[SourceFile]
    wanted: Sequence[Mapping[str, TensorInfo]]
    hashes: Sequence[FileHash | None]
    device: Any
    threads: int
    tally: Tally
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


def to_host(job: Job, copy: bool | None, page_locked: bool) -> list[FileRead]:
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
        result._replace(memory=into.memory, runs=into.runs)
        for result, into in zip(results, filled, strict=True)
    ]


def _is_mapped(job: Job, copy: bool | None, page_locked: bool) -> bool:
    if job.is_hashed or page_locked or copy:
        return False
    if copy is False:
        return True
    return all(map(is_cached, job.sources, job.wanted))


def _fill(job: Job) -> list[Filled]:
    return fill(
        job.sources,
        job.wanted,
        job.hashes,
        threads=job.threads,
        progress=job.tally,
        token=job.token,
    )


def to_device(job: Job, backend: Backend, is_partial: bool) -> list[FileRead]:
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
    job: Job, name: Literal["instanttensor", "fastsafetensors"], *, is_last: bool
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


def _on_cuda(job: Job) -> list[FileRead]:
    import torch  # type: ignore[import-not-found,unused-ignore]

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


def _moved(job: Job) -> list[FileRead]:
    """Read for a device without a way of its own, such as `mps`: one copy for each file."""
    filled = _fill(job)
    memories = [into.tensor().to(job.device) for into in filled]
    return job.results(job.views(memories, [into.runs for into in filled]), "delivered")
