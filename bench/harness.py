"""Paired measurements: ours and a peer in alternating blocks, and the median of their ratios.

A single figure from a shared machine means nothing; two figures from neighbouring moments of one
run can be divided. A result is a row: what was measured, the peer and the file it lives in, both
medians, the ratio with its quartiles, the number of blocks and the machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    import subprocess
    from collections.abc import Callable, Coroutine

    Latency = Callable[[int], Coroutine[Any, Any, float]]

BLOCKS = 14
"""The least number of blocks a result may rest on."""

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


class Row(NamedTuple):
    """One result: medians in `unit`, and the median of the block ratios with its quartiles."""

    name: str
    unit: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    blocks: int
    peer_source: str
    goal: str = ""
    is_met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "  met", False: "  MISSED"}[self.is_met]
        return (
            f"{self.name:<44} {self.ours:>10.3f} {self.peer:>10.3f} {self.unit:<5}"
            f" x{self.ratio:.2f} [{self.low:.2f}-{self.high:.2f}] n={self.blocks}"
            f"  {self.goal}{verdict}"
        )


def paired(
    name: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    *,
    unit: str,
    peer_source: str,
    blocks: int = BLOCKS,
    goal: str = "",
    passes: Callable[[float, float, float], bool] | None = None,
) -> Row:
    """Measure both in turn and return the row.

    Args:
        name: What is measured.
        ours: Measures one block and returns a figure in `unit`.
        peer: The same for the peer.
        unit: Of both figures.
        peer_source: File of this repository the peer's code is in.
        blocks: How many pairs count; two more run first and are thrown away.
        goal: The bar, in words.
        passes: Whether `(ours, peer, ratio)` meets it.
    """
    mine: list[float] = []
    theirs: list[float] = []
    for index in range(blocks + 2):
        pair = (ours(), peer()) if index % 2 else (peer(), ours())[::-1]
        if index >= 2:
            mine.append(pair[0])
            theirs.append(pair[1])
    low, ratio, high = _ratios(mine, theirs)
    a, b = statistics.median(mine), statistics.median(theirs)
    met = passes(a, b, ratio) if passes else None
    return Row(name, unit, a, b, ratio, low, high, blocks, peer_source, goal, met)


def _ratios(ours: list[float], peer: list[float]) -> list[float]:
    """Return the quartiles of what the blocks' figures are to each other."""
    return statistics.quantiles([a / b for a, b in zip(ours, peer, strict=True)], n=4)


def paired_latencies(
    name: str,
    loop: asyncio.AbstractEventLoop,
    ours: Latency,
    peer: Latency,
    *,
    peer_source: str,
    per_block: int,
    most_ms: float,
    stretch_ms: float,
) -> Row:
    """Measure latencies in ms: 99th percentiles over all blocks, ratios of the blocks' medians.

    Args:
        name: What is measured.
        loop: Runs both.
        ours: Measures one latency; is given the number of the measurement.
        peer: The same for the peer.
        peer_source: File of this repository the peer's code is in.
        per_block: How many are measured before it is the other's turn.
        most_ms: The bar.
        stretch_ms: The better bar.
    """
    mine: list[list[float]] = []
    theirs: list[list[float]] = []
    for block in range(BLOCKS):
        for latency, blocks in ((ours, mine), (peer, theirs)):
            numbers = range(block * per_block, (block + 1) * per_block)
            blocks.append([loop.run_until_complete(latency(number)) for number in numbers])
    low, ratio, high = _ratios(
        *([statistics.median(b) for b in blocks] for blocks in (mine, theirs))
    )
    a, b = (
        statistics.quantiles([value for block in blocks for value in block], n=100)[98]
        for blocks in (mine, theirs)
    )
    goal = f"p99 of {BLOCKS * per_block} <= {most_ms:g} ms (stretch {stretch_ms:g})"
    return Row(name, "ms", a, b, ratio, low, high, BLOCKS, peer_source, goal, a <= most_ms)


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB.

    `ru_maxrss` is not asked: what a process had before it became this program counts there, which
    is what its parent had.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def wait_until(
    is_there: Callable[[], bool], what: str, process: subprocess.Popen[Any] | None = None
) -> None:
    """Wait for a server to come up, and exit when it does not within 20 seconds.

    Args:
        is_there: Whether it has.
        what: Where it was to be, for the message.
        process: Its process, which must not end before.
    """
    deadline = time.monotonic() + 20
    while not is_there():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise SystemExit(f"no server came up {what}")
        time.sleep(0.02)


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def save(name: str, rows: list[Row]) -> None:
    """Print the rows, and with `--save` keep them as `bench/results/<name>.json`.

    Rows that this run did not measure stay, if they are of the same machine: a long benchmark may
    be run in parts.
    """
    for row in rows:
        print(row)
    if "--save" not in sys.argv:
        return
    path = os.path.join(RESULTS, f"{name}.json")
    facts = machine()
    kept: dict[str, dict[str, Any]] = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        if before["machine"] == facts:
            kept = {row["name"]: row for row in before["rows"]}
    kept |= {row.name: row._asdict() for row in rows}
    os.makedirs(RESULTS, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"machine": facts, "rows": list(kept.values())}, file, indent=2)
        file.write("\n")
