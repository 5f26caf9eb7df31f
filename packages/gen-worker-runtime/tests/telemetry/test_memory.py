"""A request's peak of memory is its own, and not what the process ever had."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from gen_worker.runtime.telemetry import memory
from gen_worker.runtime.telemetry.memory import MemoryGauge

MIB = 1 << 20


class Machine:
    """Memory as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.resident = self.high_water = 100 * MIB

    def sees(self, resident: int) -> None:
        self.resident = resident
        self.high_water = max(self.high_water, resident)
        self.now += 1.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(memory, "resident_bytes", lambda: machine.resident)
    monkeypatch.setattr(memory, "_high_water_bytes", lambda: machine.high_water)
    return machine


@pytest.fixture
def gauge(machine: Machine) -> MemoryGauge:
    return MemoryGauge(lambda: machine.now)


class Cuda:
    """What torch accounts for, by device."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.peak: dict[str, int] = {}

    def is_initialized(self) -> bool:
        return True

    def max_memory_allocated(self, device: str) -> int:
        return self.peak.get(device, 0)

    def reset_peak_memory_stats(self, device: str) -> None:
        self.peak[device] = self.held.get(device, 0)

    def take(self, device: str, size_bytes: int) -> None:
        self.held[device] = size_bytes
        self.peak[device] = max(self.peak.get(device, 0), size_bytes)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_a_quiet_request_took_what_there_is(machine: Machine, gauge: MemoryGauge) -> None:
    machine.high_water = 900 * MIB
    use = gauge.begin()
    assert gauge.end(use) == (100 * MIB, 0)


def test_a_new_height_is_its_own(machine: Machine, gauge: MemoryGauge) -> None:
    use = gauge.begin()
    machine.sees(500 * MIB)
    machine.sees(200 * MIB)
    assert gauge.end(use) == (500 * MIB, 0)
    machine.sees(200 * MIB)
    assert gauge.end(gauge.begin()) == (200 * MIB, 0)


def test_below_an_old_height_what_was_seen_counts(machine: Machine, gauge: MemoryGauge) -> None:
    machine.high_water = 900 * MIB
    use = gauge.begin()
    machine.sees(400 * MIB)
    gauge.note(use)
    machine.sees(150 * MIB)
    assert gauge.end(use) == (400 * MIB, 0)


def test_reading_costs_nothing_twice_at_a_time(machine: Machine, gauge: MemoryGauge) -> None:
    gauge.begin()
    machine.resident = 1
    machine.now += 0.04
    assert gauge.end(gauge.begin())[0] == 100 * MIB


def test_each_call_on_a_gpu_has_a_peak_of_its_own(gauge: MemoryGauge, cuda: Cuda) -> None:
    cuda.take("cuda:0", 900)
    cuda.take("cuda:0", 100)
    first, second, other = gauge.begin(), gauge.begin(), gauge.begin()
    gauge.occupy(first, "cuda:0")
    gauge.occupy(other, "cuda:1")
    cuda.take("cuda:0", 300)
    cuda.take("cuda:1", 50)
    cuda.take("cuda:0", 100)
    gauge.occupy(first, "cuda:0")  # for its second model
    gauge.occupy(second, "cuda:0")  # before anybody asked what the first had taken
    cuda.take("cuda:0", 200)
    assert gauge.end(first)[1] == 300
    assert gauge.end(second)[1] == 200
    assert gauge.end(other)[1] == 50


def test_a_call_without_a_gpu_took_none_of_it(gauge: MemoryGauge, cuda: Cuda) -> None:
    cuda.take("cuda:0", 900)
    use = gauge.begin()
    gauge.occupy(use, "cpu")
    assert gauge.end(use)[1] == 0


def test_the_real_figures_are_plausible() -> None:
    gauge: Any = MemoryGauge()
    ram_bytes, vram_bytes = gauge.end(gauge.begin())
    assert 5 * MIB < ram_bytes < 1 << 40
    assert vram_bytes == 0
