"""The processes of one run over torch.distributed: how they meet, agree, fail together and part.

Flags go through a gloo group, also where gradients go through NCCL; values and what one process
tells of its end through the store at which they met.
"""

from __future__ import annotations

import importlib
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gen_worker.trainer.distributed.failures import Failures
from gen_worker.trainer.distributed.world import ALONE, World
from gen_worker.trainer.errors import OtherProcessError, StartupContractError, TrainingCanceled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.distributed.place import Place

__all__ = ["open_world"]

T = TypeVar("T")

_LOOK_S = 0.02
_LEAVE_S = 10.0
"""How long the process that holds the store waits for the others to be through with it."""
_LOST_S = 1.0
"""The same, where one of them has ended already."""
_SHORTEST_S = 0.0002
_LONGEST_S = 0.005


@contextmanager
def open_world(place: Place | None, *, device: str = "cpu") -> Iterator[World]:
    """Meet the other processes, and part from them in the end.

    Args:
        place: From `place_of`; None is a run of one process, which costs nothing.
        device: Of this process; gradients go through NCCL if it is a GPU.

    Raises:
        StartupContractError: torch is not installed, there is no such GPU, or the processes do not
            find each other.
        OtherProcessError: What was raised within, if it came of another process's end.
    """
    if place is None:
        yield ALONE
        return
    world = _met(place, device)
    try:
        yield world
    except BaseException as error:
        cause = world.cause_of(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        world.close()


def _met(place: Place, device: str) -> _Group:
    try:
        dist = _torch_distributed()
    except ImportError:
        raise _unstartable(
            "several processes train with torch: pip install 'gen-worker[torch]'"
        ) from None
    is_cuda = device.startswith("cuda")
    if is_cuda:
        _take_gpu(device)
    waiting = timedelta(seconds=place.timeout_s)
    try:
        meeting = dist.rendezvous(
            f"tcp://{place.address}:{place.port}", place.rank, place.size, timeout=waiting
        )
        store, _, _ = next(meeting)
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if is_cuda else "gloo",
            store=dist.PrefixStore("torch", store),
            rank=place.rank,
            world_size=place.size,
            timeout=waiting,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise _unstartable(
            f"process {place.rank} of {place.size} did not find the others at "
            f"{place.address}:{place.port}: {error}"
        ) from error
    try:
        return _Group(place, store, waiting, Failures(store, place.rank))
    except RuntimeError as error:  # somebody who was there a moment ago
        raise _lost(place) from error


def _take_gpu(device: str) -> None:
    import torch  # type: ignore[import-not-found,unused-ignore]

    count = torch.cuda.device_count()
    index = torch.device(device).index or 0
    if index >= count:
        raise _unstartable(
            f"this process is to use {device}, and the machine has {count} GPUs: start as many "
            "processes as there are GPUs, or set hyperparams.device to cpu"
        )
    torch.cuda.set_device(index)


def _unstartable(message: str) -> StartupContractError:
    return StartupContractError("startup.world", message)


def _lost(place: Place) -> OtherProcessError:
    return OtherProcessError(
        f"another of the {place.size} processes of this run has ended, or did not answer for "
        f"{place.timeout_s:g} s; its own output says why"
    )


def _torch_distributed() -> Any:
    return importlib.import_module("torch.distributed")


class _Group:
    """A `World` of several processes."""

    def __init__(
        self, place: Place, store: Any, waiting: timedelta, failures: Failures, *, part: int = 0
    ) -> None:
        dist = _torch_distributed()
        self.rank = place.rank
        self.size = place.size
        self.local_rank = place.local_rank
        self.is_first = place.rank == 0
        self._place = place
        self._waiting = waiting
        self._met_at = store
        self._values = dist.PrefixStore(f"gen-worker/{part}", store)
        self._failures = failures
        self._control = dist.new_group(backend="gloo", timeout=waiting)
        self._parts = 0
        self._count = 0
        self._cause: BaseException | None = None

    def __repr__(self) -> str:
        return f"<World: process {self.rank} of {self.size}>"

    def beside(self) -> World:
        self._parts += 1
        met_at = self._met_at.clone()
        return _Group(self._place, met_at, self._waiting, self._failures, part=self._parts)

    # -- together ----------------------------------------------------------------------------------

    def any(self, flag: bool, /) -> bool:
        import torch  # type: ignore[import-not-found,unused-ignore]

        told = torch.tensor([flag], dtype=torch.int32)
        dist = _torch_distributed()
        try:
            dist.all_reduce(told, dist.ReduceOp.MAX, group=self._control)
        except RuntimeError as error:
            raise _lost(self._place) from error
        return bool(told.item())

    def barrier(self) -> None:
        self.any(False)

    def arrive(self) -> None:
        import torch  # type: ignore[import-not-found,unused-ignore]

        dist = _torch_distributed()
        wait_s = _SHORTEST_S
        try:
            work = dist.all_reduce(torch.zeros(1), group=self._control, async_op=True)
            while not work.is_completed():
                if self._failures.first is not None:
                    raise _lost(self._place)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_S)
            work.wait()
        except RuntimeError as error:
            if isinstance(error, OtherProcessError):
                raise
            raise _lost(self._place) from error

    def broadcast(self, value: T, /) -> T:
        """Return the first process's value; the others wait for it as long as that one lives."""
        self._count += 1
        key = f"value-{self._count}"
        try:
            if self.is_first:
                self._values.set(key, msgspec.json.encode(value).decode())
                return value
            self._wait_for(key)
            told: T = msgspec.json.decode(self._values.get(key))
            if self._values.add(f"{key}-read", 1) == self.size - 1:
                self._values.delete_key(key)
                self._values.delete_key(f"{key}-read")
        except RuntimeError as error:
            if isinstance(error, OtherProcessError):
                raise
            raise _lost(self._place) from error
        return told

    def gather(self, value: T, /) -> list[T]:
        self._count += 1
        keys = [f"value-{self._count}-{rank}" for rank in range(self.size)]
        try:
            self._values.set(keys[self.rank], msgspec.json.encode(value).decode())
            self.barrier()
            told: list[T] = [msgspec.json.decode(self._values.get(key)) for key in keys]
            if self._values.add(f"{keys[0]}-read", 1) == self.size:
                for key in (*keys, f"{keys[0]}-read"):
                    self._values.delete_key(key)
        except RuntimeError as error:
            if isinstance(error, OtherProcessError):
                raise
            raise _lost(self._place) from error
        return told

    def _wait_for(self, key: str) -> None:
        while not self._values.check([key]):
            if self._failures.first is not None:
                raise _lost(self._place)
            time.sleep(_LOOK_S)

    # -- the end -----------------------------------------------------------------------------------

    def fail(self, error: BaseException, /) -> None:
        with suppress(RuntimeError):  # nobody is left to be told
            self._failures.note(error)

    def cause_of(self, error: BaseException, /) -> BaseException:
        if isinstance(error, TrainingCanceled):  # all of them are
            return error
        if self._cause is None:
            self._cause = self._first_cause(error)
        return self._cause

    def _first_cause(self, error: BaseException) -> BaseException:
        if isinstance(error, OtherProcessError):
            self._failures.wait()
        try:
            first = self._failures.note(error)
        except RuntimeError:  # the store is gone, and the process that had it
            if isinstance(error, OtherProcessError) or self.is_first:
                return error
            return OtherProcessError(
                f"process 0 of {self.size}, at which all have met, has ended: its own output says "
                "why",
                rank=0,
            )
        if first.rank == self.rank:
            return error
        return OtherProcessError(
            f"process {first.rank} of {self.size} has failed: {first.text}", rank=first.rank
        )

    def close(self) -> None:
        """Part; others may still be asked about what they need of this process."""
        self._control = None
        with suppress(RuntimeError):
            _torch_distributed().destroy_process_group()
        with suppress(RuntimeError):
            self._leave()
        self._failures.close()

    def _leave(self) -> None:
        if not self.is_first:
            self._failures.leave()
            return
        others = range(1, self.size)
        is_lost = isinstance(self._cause, OtherProcessError)
        until = time.monotonic() + (_LOST_S if is_lost else _LEAVE_S)
        while others and not self._failures.have_left(others) and time.monotonic() < until:
            time.sleep(_LOOK_S)
