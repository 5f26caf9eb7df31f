"""What was learned of costs and loads, kept through restarts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.resources import Resources
from gen_worker.runtime.scheduler.costs import Costs, LearnedCost, ModelSize
from gen_worker.runtime.scheduler.decisions import ModelNeed, Needs, Prediction
from gen_worker.runtime.scheduler.dispatcher.core import cost_key_of
from gen_worker.runtime.scheduler.errors import LedgerWriteError
from gen_worker.runtime.scheduler.load_times import LearnedLoad, LoadTimes

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from gen_worker.runtime.scheduler.costs import GpuClass
    from gen_worker.runtime.scheduler.decisions import Tier
    from gen_worker.runtime.scheduler.dispatcher.ports import Facts
    from gen_worker.runtime.scheduler.job_options import JobOptions
    from gen_worker.runtime.scheduler.ledger import Ledger
    from gen_worker.runtime.scheduler.values import RequestRecord
    from gen_worker.runtime.wire import Observation

__all__ = ["Learning"]

T = TypeVar("T")

_COSTS, _LOADS = "costs", "loads"

_log = logging.getLogger("gen_worker.scheduler.dispatcher")


class Learning:
    """Costs of functions and loads of models. On the loop."""

    def __init__(self, ledger: Ledger | None) -> None:
        """Begin with nothing.

        Args:
            ledger: Where it is kept; None forgets it with this process.
        """
        self._ledger = ledger
        self._has_news = False
        self.costs = Costs()
        self.loads = LoadTimes()

    async def read(self) -> None:
        """Go on with what was kept; what is not understood is forgotten."""
        if self._ledger is None:
            return
        kept = dict(await self._ledger.ask(_read))
        self.costs = Costs(_decoded(kept.get(_COSTS), list[LearnedCost]))
        self.loads = LoadTimes(_decoded(kept.get(_LOADS), list[LearnedLoad]))

    async def save(self) -> None:
        """Keep what is known, if it is more than what is kept."""
        if self._ledger is None or not self._has_news:
            return
        self._has_news = False
        rows = [
            (_COSTS, msgspec.json.encode(self.costs.learned())),
            (_LOADS, msgspec.json.encode(self.loads.learned())),
        ]
        try:
            await self._ledger.transact(lambda writer, now: _write(writer, rows))
        except LedgerWriteError as error:
            self._has_news = True
            _log.warning("what was learned of costs is not kept: %s", error)

    def needs(
        self,
        record: RequestRecord,
        options: JobOptions,
        facts: Facts,
        classes: Iterable[GpuClass],
        sizes: Mapping[str, int],
    ) -> Needs:
        """Return what placement is to know of a request, apart from who waits behind it."""
        resources, key = facts.resources, cost_key_of(record, options)
        known = resources if isinstance(resources, Resources) else _NOTHING_DECLARED
        full = sum(sizes.get(ref, 0) for ref in options.refs)
        size = ModelSize(full, full)
        predictions: dict[str, Prediction] = {
            one.name: self.costs.predict(key, one.name, known, size=size, factors=options.factors)
            for one in classes
        }
        return Needs(
            function=record.function,
            release_id=record.release_id,
            resources=resources,
            models=tuple([self.load_of(ref, sizes) for ref in options.refs]),
            predictions=predictions,
        )

    def load_of(self, ref: str, sizes: Mapping[str, int]) -> ModelNeed:
        return self.loads.need(ref, sizes.get(ref, 0))

    def ran(
        self,
        cost_key: str,
        gpu_class: str,
        facts: Facts,
        observation: Observation,
        *,
        is_warm: bool,
        is_alone: bool,
        size_bytes: int,
    ) -> None:
        """Learn from a call that succeeded.

        Args:
            cost_key: Of its function.
            gpu_class: Of its worker.
            facts: Of its function.
            observation: As its worker says.
            is_warm: Whether it had nothing to load.
            is_alone: Whether nothing else used its GPU.
            size_bytes: Of its models; 0 when it is not known.
        """
        resources = facts.resources
        self.costs.observe(
            cost_key,
            gpu_class,
            resources if isinstance(resources, Resources) else _NOTHING_DECLARED,
            run_s=observation.runtime_ms / 1000 if is_warm else None,
            peak_vram_bytes=observation.peak_vram_bytes if is_alone else 0,
            size=ModelSize(size_bytes, size_bytes),
            factors=observation.scaling_factors,
        )
        self._has_news = True

    def loaded(self, ref: str, tier: Tier, seconds: float, size_bytes: int) -> None:
        """Learn from the load of a model."""
        self.loads.observe(ref, tier, seconds, size_bytes)
        self._has_news = True


_NOTHING_DECLARED = Resources()


def _decoded(data: bytes | None, kind: type[T]) -> T:
    if data is None:
        return kind()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        _log.warning("what was learned of costs is not understood, and forgotten: %s", error)
        return kind()


def _read(reader: sqlite3.Connection) -> list[tuple[str, bytes]]:
    return reader.execute("SELECT name, data FROM learned").fetchall()


def _write(writer: sqlite3.Connection, rows: Iterable[tuple[str, bytes]]) -> None:
    writer.executemany("INSERT OR REPLACE INTO learned (name, data) VALUES (?, ?)", rows)
