"""Servers in processes of their own, and the rows that come of measuring two of them in turn.

A script that serves says so with `--serve NAME`; `main` here runs it either way.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from harness import BLOCKS, Row, paired, save
from peers.fan_out import FanOut
from peers.paced import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.paced import Site

PEER = "bench/peers/fan_out.py"
WORKERS = 200
PER_S = 1_000
IDLE_S = 2.0
"""Of one block, in which a fifth of the workers say how they are."""
LOAD_S = 1.0
"""Of one block."""


class Bar(NamedTuple):
    """What a server has to stay below, and what it should."""

    goal: float
    stretch: float
    unit: str

    def __str__(self) -> str:
        return f"<= {self.goal:g} {self.unit} (stretch {self.stretch:g})"

    def passes(self, ours: float, _peer: float, _ratio: float) -> bool:
        return ours <= self.goal


class Bars(NamedTuple):
    """Of the rows that have one."""

    idle: Bar | None = None
    load: Bar | None = None
    added: Bar | None = None
    """To the peer's 99th percentile."""
    memory: Bar | None = None


class Served:
    """One server in its process. A context manager; the process ends with it."""

    def __init__(self, script: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} has ended")
        return json.loads(line)

    def ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self.answer()

    def idle(self) -> float:
        return float(self.ask("idle", IDLE_S)["cpu"])

    def memory(self) -> float:
        return float(self.ask("memory")["mib"])

    def load(self) -> Any:
        return self.ask("load", PER_S, LOAD_S)


def _row(
    name: str, unit: str, ours: Callable[[], float], peer: Callable[[], float], bar: Bar | None
) -> Row:
    return paired(
        name,
        ours,
        peer,
        unit=unit,
        peer_source=PEER,
        goal="" if bar is None else str(bar),
        passes=None if bar is None else bar.passes,
    )


def _load_rows(ours: Served, peer: Served, bars: Bars) -> list[Row]:
    """Return the rows that come of the same blocks."""
    pairs = [
        (ours.load(), peer.load()) if index % 2 else (peer.load(), ours.load())[::-1]
        for index in range(BLOCKS + 2)
    ]
    name = f"{PER_S:,} jobs/s to {WORKERS} workers"
    mine, theirs = (iter([pair[side]["cpu"] for pair in pairs]).__next__ for side in (0, 1))
    our_ms, peer_ms = ([pair[side]["took_ms"] for pair in pairs[2:]] for side in (0, 1))
    return [
        _row(f"{name}: of a core", "%", mine, theirs, bars.load),
        _latencies(f"{name}: p99", our_ms, peer_ms, bars.added),
    ]


def _latencies(name: str, ours: list[list[float]], peer: list[list[float]], bar: Bar | None) -> Row:
    """Return 99th percentiles over all blocks, and the ratios of the blocks' medians."""
    ratios = [
        statistics.median(mine) / statistics.median(theirs)
        for mine, theirs in zip(ours, peer, strict=True)
    ]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    a, b = (
        statistics.quantiles([value for block in blocks for value in block], n=100)[98]
        for blocks in (ours, peer)
    )
    goal = "" if bar is None else f"{bar} more than the peer"
    is_met = None if bar is None else bar.passes(a - b, b, ratio)
    return Row(name, "ms", a, b, ratio, low, high, len(ours), PEER, goal, is_met)


def main(script: str, result: str, site: Callable[[], Site], bars: Bars) -> None:
    """Measure a server against the peer, or be one of both.

    Args:
        script: File that calls this.
        result: Name of the rows' file.
        site: Makes the server.
        bars: What it has to reach.
    """
    if "--serve" in sys.argv:
        run(site if sys.argv[-1] == "ours" else FanOut, WORKERS)
        return
    with Served(script, "ours") as ours, Served(script, "peer") as peer:
        rows = [
            _row(f"{WORKERS} workers, idle: of a core", "%", ours.idle, peer.idle, bars.idle),
            *_load_rows(ours, peer, bars),
            _row(
                f"{WORKERS} workers: resident memory", "MiB", ours.memory, peer.memory, bars.memory
            ),
        ]
    save(result, rows)
