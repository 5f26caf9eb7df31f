"""RAM is what the kernel estimates and every enclosing control group leaves; GPUs are optional."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from gen_worker.errors import is_out_of_memory
from gen_worker.models.residency import Budgets, Gpus, Limits, ModelInUseError
from gen_worker.models.residency.gpu_memory import GpuMemory, index_of
from gen_worker.models.residency.host_memory import (
    HostMemory,
    parse_cgroups,
    parse_fields,
    parse_limit,
    read_host_memory,
)
from gen_worker.models.settings import load_model_settings

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1024**3
MEMINFO = """\
MemTotal:       16777216 kB
MemFree:         1048576 kB
MemAvailable:    8388608 kB
Cached:          2097152 kB
HugePages_Total:       0
"""


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_without_a_group_the_kernel_says_what_is_available(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": MEMINFO})
    assert read_host_memory(root) == HostMemory(16 * GIB, 8 * GIB)


def test_an_old_kernel_counts_its_page_cache(tmp_path: Path) -> None:
    text = MEMINFO.replace("MemAvailable:    8388608 kB\n", "")
    assert read_host_memory(tree(tmp_path, {"proc/meminfo": text})).available_bytes == 3 * GIB


def test_unknown_is_zero(tmp_path: Path) -> None:
    assert read_host_memory(str(tmp_path)) == HostMemory(0, 0)


def test_version_2_limits_of_every_parent_count(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/pod/worker\n",
            "sys/fs/cgroup/pod/worker/memory.max": "max\n",
            "sys/fs/cgroup/pod/worker/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
        },
    )
    assert read_host_memory(root) == HostMemory(4 * GIB, GIB + GIB // 2)


def test_a_container_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/../../docker/abc\n",
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB}\n",
        },
    )
    assert read_host_memory(root) == HostMemory(2 * GIB, GIB)


def test_version_1(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/docker/abc"
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
            f"{base}/memory.limit_in_bytes": f"{3 * GIB}\n",
            f"{base}/memory.usage_in_bytes": f"{4 * GIB}\n",
            f"{base}/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
        },
    )
    assert read_host_memory(root) == HostMemory(3 * GIB, 0)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("", None), ("9223372036854771712", None), ("12\n", 12), ("-1", None)],
)
def test_limits(text: str, limit: int | None) -> None:
    assert parse_limit(text) == limit


def test_fields_of_both_kinds_of_files() -> None:
    assert parse_fields("MemTotal:  12 kB\nbroken\nanon 5\nx y\n") == {"MemTotal": 12, "anon": 5}


def test_groups() -> None:
    assert parse_cgroups("1:name=systemd:/a\n3:memory,cpu:/b:c\n0::/d\nnonsense\n") == {
        "name=systemd": "/a",
        "memory": "/b:c",
        "cpu": "/b:c",
        "": "/d",
    }


class FakeGpus(Gpus):
    def memory(self, index: int = 0) -> GpuMemory:
        return GpuMemory(24 * GIB, 20 * GIB) if index == 0 else GpuMemory()


def limits(**budget: float) -> Limits:
    return Limits(Budgets(**budget), gpus=FakeGpus(), host=lambda: HostMemory(64 * GIB, 40 * GIB))


def test_the_budget_is_the_operators_or_all_but_the_margin() -> None:
    assert limits().vram_bytes("cuda:0") == int(20.5 * GIB)
    assert limits(vram_margin_gb=0).vram_bytes("cuda:0") == 24 * GIB
    assert limits(vram_margin_gb=99).vram_bytes("cuda:0") == 0
    assert limits(max_vram_gb=5).vram_bytes("cuda:0") == 5 * GIB
    assert limits(max_vram_gb=0).vram_bytes("cuda:0") == 0
    assert limits().vram_bytes("cuda:1") is None


def test_ram_keeps_a_reserve() -> None:
    assert limits().ram_bytes(3 * GIB) == 35 * GIB
    assert limits(max_ram_gb=2).ram_bytes(0) == 2 * GIB
    small = Limits(Budgets(), gpus=FakeGpus(), host=lambda: HostMemory(8 * GIB, 2 * GIB))
    assert small.ram_bytes(0) == GIB
    assert Limits(Budgets(), host=HostMemory).ram_bytes(0) is None


@pytest.mark.claims("WORKER_MAX_VRAM_GB", "WORKER_VRAM_SAFETY_MARGIN_GB")
def test_budgets_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Budgets.of(load_model_settings()) == Budgets()
    monkeypatch.setenv("WORKER_MAX_VRAM_GB", "12")
    monkeypatch.setenv("WORKER_VRAM_SAFETY_MARGIN_GB", "0")
    assert Budgets.of(load_model_settings()) == Budgets(max_vram_gb=12.0, vram_margin_gb=0.0)


def test_devices_have_numbers() -> None:
    assert [index_of(x) for x in ("cuda", "cuda:3", "cpu", "mps", None)] == [0, 3, None, None, None]


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class Wrapped(OutOfMemoryError):
    pass


def test_out_of_memory_is_told_by_type() -> None:
    assert is_out_of_memory(OutOfMemoryError())
    assert is_out_of_memory(Wrapped())
    assert not is_out_of_memory(RuntimeError("CUDA out of memory"))
    assert not is_out_of_memory(MemoryError())


def test_the_error_of_a_model_in_use_says_so() -> None:
    error = pickle.loads(pickle.dumps(ModelInUseError("a/b", 2)))
    assert (error.code, error.model_id, error.leases) == ("model_in_use", "a/b", 2)
