"""Files are the library's own to the byte, whole or not there, and the same on every run."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.cancel import CancelToken
from gen_worker.conversion import (
    ConversionError,
    ConversionImplementationError,
    ConversionInputError,
    IncrementalSafetensorsWriter,
    OutputSpaceError,
    build_safetensors_index,
    open_checkpoint,
    plan_safetensors_shards,
    write_safetensors,
)
from gen_worker.conversion.lazy import cast, computed, permute
from gen_worker.conversion.writer import Journal, OutputFile, WrittenFile, pump
from gen_worker.errors import CanceledError
from gen_worker.models.formats import DamagedFileError

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")


def tensors(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "large": torch.randn(3_000_001, generator=generator),  # several slabs
        "a.weight": torch.randn(30, 20, generator=generator),
        "half": torch.randn(7, generator=generator).half(),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "count": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
        "eight": torch.randn(3, 5, generator=generator).to(torch.float8_e4m3fn),
        'ümlaut"': torch.ones(2, dtype=torch.int8),
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("source") / "model.safetensors"
    safetensors_torch.save_file(tensors(), path, metadata={"format": "pt"})
    return path


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_copy_is_the_librarys_file_to_the_byte(source: Path, tmp_path: Path) -> None:
    written = write_safetensors(open_checkpoint(source), tmp_path)
    (file,) = written.files
    assert Path(file.path).read_bytes() == source.read_bytes()
    assert file.size_bytes == source.stat().st_size
    assert file.blake3 == blake3(source.read_bytes()).hexdigest()
    assert (written.path, written.index_file, written.resumed) == (file.path, None, 0)
    assert names_in(tmp_path) == ["model.safetensors"]


def test_a_cast_is_the_librarys_file_to_the_byte(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    wide = {"F32", "F64", "F16"}
    made = {n: cast(t, "BF16") if t.dtype in wide else t for n, t in checkpoint.items()}
    wanted = {
        n: t.to(torch.bfloat16) if t.dtype in (torch.float32, torch.float64, torch.float16) else t
        for n, t in tensors().items()
    }
    written = write_safetensors(made, tmp_path, metadata={"format": "pt"})
    assert Path(written.path).read_bytes() == safetensors_torch.save(wanted, {"format": "pt"})


def test_shards_hold_what_the_index_says(source: Path, tmp_path: Path) -> None:
    seen: list[WrittenFile] = []
    progress: list[tuple[int, int]] = []
    written = write_safetensors(
        open_checkpoint(source),
        tmp_path,
        prefix="weights",
        max_shard_bytes=3000,
        metadata={"kind": "x"},
        on_file=seen.append,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert written.index_file is not None
    assert [*written.files, written.index_file] == seen
    index = json.loads(Path(written.path).read_text())
    assert Path(written.path).name == "weights.safetensors.index.json"
    total = sum(t.numel() * t.element_size() for t in tensors().values())
    assert index["metadata"] == {"total_size": total}
    for file in seen:
        content = Path(file.path).read_bytes()
        assert (file.size_bytes, file.blake3) == (len(content), blake3(content).hexdigest())
    found = open_checkpoint(written.path)
    assert found.metadata == {"format": "pt", "kind": "x"}
    for name, tensor in tensors().items():
        assert torch.equal(found[name].tensor().view(-1).cpu(), tensor.view(-1)), name
        home = safetensors_torch.load_file(tmp_path / index["weight_map"][name])
        assert name in home
    alone = safetensors_torch.load_file(tmp_path / index["weight_map"]["large"])
    assert set(alone) == {"large"}  # above the limit
    done = [step for step, _ in progress]
    assert done == sorted(done)
    assert progress[-1] == (sum(file.size_bytes for file in seen),) * 2


def test_every_run_writes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    runs = []
    for run in ("one", "two"):
        checkpoint = dict(reversed(list(open_checkpoint(source).items())))
        written = write_safetensors(
            checkpoint, tmp_path / run, max_shard_bytes=3000, metadata={"k": "v"}
        )
        runs.append([(Path(file.path).name, file.blake3) for file in written.files])
        runs[-1].append(("index", written.index_file.blake3 if written.index_file else ""))
    assert runs[0] == runs[1]
    again = write_safetensors(
        open_checkpoint(source), tmp_path / "one", max_shard_bytes=3000, metadata={"k": "v"}
    )
    assert [file.blake3 for file in again.files] == [digest for _, digest in runs[0][:-1]]


def test_what_is_no_number_is_counted(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        weights = torch.zeros(5000, dtype=dtype)
        weights[[0, 4999]], weights[17], weights[18] = nan, inf, -inf
        safetensors_torch.save_file({"w": weights, "ok": torch.ones(3)}, tmp_path / "a.safetensors")
        written = write_safetensors(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "out")
        assert written.nonfinite == {"w": (2, 2)}
    eight = torch.tensor([nan, 1.0, nan]).to(torch.float8_e4m3fn)
    five = torch.tensor([nan, inf, -inf, 1.0]).to(torch.float8_e5m2)
    safetensors_torch.save_file({"w": eight, "v": five}, tmp_path / "a.safetensors")
    written = write_safetensors(open_checkpoint(tmp_path / "a.safetensors"), tmp_path / "out")
    assert written.nonfinite == {"w": (2, 0), "v": (1, 2)}


def test_what_a_cast_makes_infinite_is_counted(tmp_path: Path) -> None:
    safetensors_torch.save_file({"w": torch.tensor([1e6, 1.0])}, tmp_path / "a.safetensors")
    checkpoint = open_checkpoint(tmp_path / "a.safetensors")
    written = write_safetensors({"w": cast(checkpoint["w"], "F16")}, tmp_path / "out")
    assert written.nonfinite == {"w": (0, 1)}


def test_an_empty_checkpoint_is_an_empty_file(tmp_path: Path) -> None:
    written = write_safetensors({}, tmp_path)
    assert dict(open_checkpoint(written.path)) == {}


def test_a_whole_recipe_is_written(tmp_path: Path) -> None:
    weights = torch.randn(300, 500)
    safetensors_torch.save_file({"w": weights}, tmp_path / "a.safetensors")
    turned = permute(open_checkpoint(tmp_path / "a.safetensors")["w"], (1, 0))
    written = write_safetensors({"w": turned}, tmp_path / "out")
    assert torch.equal(safetensors_torch.load_file(written.path)["w"], weights.T)


@pytest.mark.parametrize(
    "made",
    [
        torch.zeros(4, dtype=torch.float16),
        torch.zeros(3),
    ],
)
def test_a_recipe_that_breaks_its_promise_leaves_nothing(made: Any, tmp_path: Path) -> None:
    wrong = computed(lambda start, stop: made, shape=(4,), dtype="F32", of=())
    with pytest.raises(ConversionImplementationError, match="'w'") as caught:
        write_safetensors({"a": _ones(), "w": wrong}, tmp_path, max_shard_bytes=1)
    assert isinstance(caught.value, RuntimeError)
    assert (caught.value.tensor, caught.value.step) == ("w", "convert")
    assert names_in(tmp_path) == []


def _ones() -> Any:
    return computed(lambda a, b: torch.ones(b - a), shape=(4,), dtype="F32", of=())


def test_a_source_that_changes_meanwhile_leaves_nothing(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(source, tmp_path / "source.safetensors"))
    checkpoint = open_checkpoint(copy)
    with open(copy, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DamagedFileError, match="it changed"):
        write_safetensors(checkpoint, tmp_path / "new" / "out", max_shard_bytes=3000)
    assert names_in(tmp_path) == ["source.safetensors"]


def test_a_cancel_leaves_nothing(source: Path, tmp_path: Path) -> None:
    token = CancelToken()

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            token.cancel()

    with pytest.raises(CanceledError):
        write_safetensors(
            open_checkpoint(source), tmp_path, max_shard_bytes=3000, progress=stop, token=token
        )
    assert names_in(tmp_path) == []


def test_a_full_disk_is_seen_before_the_first_byte(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 20_000_000))
    with pytest.raises(OutputSpaceError, match="20000000 bytes free") as caught:
        write_safetensors(open_checkpoint(source), tmp_path)
    assert caught.value.needed_bytes == source.stat().st_size
    assert names_in(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_that_fills_up_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    full = os.open("/dev/full", os.O_WRONLY)
    written = [0]

    def write(descriptor: int, data: Any) -> int:
        written[0] += len(data)
        return real(full if written[0] > 6_000_000 else descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputSpaceError, match="free space there") as caught:
        write_safetensors(open_checkpoint(source), tmp_path, max_shard_bytes=3000)
    os.close(full)
    assert "large" not in os.listdir(tmp_path)
    assert Path(caught.value.file).parent == tmp_path
    assert names_in(tmp_path) == []


def test_a_directory_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="cannot be written"):
        OutputFile(tmp_path / "file" / "x")


def test_weights_of_another_run_are_not_mixed_in(source: Path, tmp_path: Path) -> None:
    write_safetensors(open_checkpoint(source), tmp_path, max_shard_bytes=3000)
    before = names_in(tmp_path)
    with pytest.raises(ConversionInputError, match=r"model-00001-of-0000.\.safetensors"):
        write_safetensors(open_checkpoint(source), tmp_path)
    assert names_in(tmp_path) == before
    write_safetensors(open_checkpoint(source), tmp_path, prefix="other")


# Journals


class Stopped(Exception):
    pass


def run(source: Path, out: Path, *, stop_after: int | None = None, recipe: str = "r") -> Any:
    """Write with a journal; stop when so many files are finished."""
    finished: list[str] = []

    def on_file(file: WrittenFile) -> None:
        finished.append(Path(file.path).name)
        if len(finished) == stop_after:
            raise Stopped

    return write_safetensors(
        open_checkpoint(source),
        out,
        max_shard_bytes=3000,
        journal=Journal(out.with_suffix(".journal"), recipe),
        on_file=on_file,
    )


def test_the_next_run_goes_on_after_the_last_whole_file(source: Path, tmp_path: Path) -> None:
    wanted = run(source, tmp_path / "straight")
    out = tmp_path / "out"
    for stop_after in (1, 2):
        with pytest.raises(Stopped):
            run(source, out, stop_after=stop_after)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(times) == 2
    written = run(source, out)
    assert written.resumed == 2
    assert [file.blake3 for file in written.files] == [file.blake3 for file in wanted.files]
    assert written.nonfinite == wanted.nonfinite
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    Journal(out.with_suffix(".journal")).remove()
    assert names_in(tmp_path) == ["out", "straight", "straight.journal"]


def test_counts_are_remembered(tmp_path: Path) -> None:
    weights = {"a": torch.tensor([float("nan")]), "b": torch.ones(2)}
    safetensors_torch.save_file(weights, tmp_path / "a.safetensors")
    journal = Journal(tmp_path / "journal")
    for _ in range(2):
        written = write_safetensors(
            open_checkpoint(tmp_path / "a.safetensors"),
            tmp_path / "out",
            max_shard_bytes=1,
            journal=journal,
        )
        assert written.nonfinite == {"a": (1, 0)}
    assert written.resumed == 2
    assert journal.begin("another plan") == {}


@pytest.mark.parametrize("change", ["recipe", "source", "file", "size", "line", "head"])
def test_what_may_differ_is_written_again(source: Path, tmp_path: Path, change: str) -> None:
    copy = Path(shutil.copyfile(source, tmp_path / "source.safetensors"))
    out, journal = tmp_path / "out", tmp_path / "out.journal"
    with pytest.raises(Stopped):
        run(copy, out, stop_after=3)
    first = sorted(out.iterdir())[0]
    expected = {"recipe": 0, "source": 0, "file": 2, "size": 2, "line": 2, "head": 0}[change]
    if change == "source":
        os.utime(copy, ns=(1, 1))
    elif change == "file":
        first.unlink()
    elif change == "size":
        first.write_bytes(b"short")
    elif change == "line":
        journal.write_bytes(journal.read_bytes()[:-5])
    elif change == "head":
        journal.write_bytes(b"\xff" + journal.read_bytes())
    written = run(copy, out, recipe="other" if change == "recipe" else "r")
    assert written.resumed == expected
    assert set(open_checkpoint(out)) == set(tensors())


# Plans


@settings(max_examples=200)
@given(
    sizes=st.dictionaries(st.text(max_size=4), st.integers(0, 50), max_size=12),
    limit=st.integers(1, 60),
)
def test_plans_fill_files_in_the_order_of_names(sizes: dict[str, int], limit: int) -> None:
    plan = plan_safetensors_shards(sizes, max_shard_bytes=limit, shard_prefix="p")
    assert plan.weight_map.keys() == sizes.keys()
    assert plan.total_size == sum(sizes.values()) == sum(plan.shard_sizes.values())
    order = [plan.weight_map[name] for name in sorted(sizes)]
    assert order == sorted(order)
    for shard in plan.shard_names:
        inside = [name for name, home in plan.weight_map.items() if home == shard]
        assert plan.shard_sizes[shard] == sum(sizes[name] for name in inside)
        assert plan.shard_sizes[shard] <= limit or len([n for n in inside if sizes[n]]) == 1
    assert plan.is_sharded == (plan.shard_names != ("p.safetensors",))
    index = build_safetensors_index(plan)
    assert index == {"metadata": {"total_size": plan.total_size}, "weight_map": plan.weight_map}


@pytest.mark.parametrize("size", [-1, 1.5, True, "1"])
def test_sizes_that_are_none_are_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="tensor_size_invalid:w"):
        plan_safetensors_shards({"w": size})
    with pytest.raises(ConversionInputError, match="max_shard_bytes"):
        plan_safetensors_shards({}, max_shard_bytes=0)


# One by one


def test_tensors_written_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with IncrementalSafetensorsWriter(path, metadata={"a": "b"}) as writer:
        writer.add_tensor_metadata("w", dtype="F32", shape=(2, 3))
        writer.add_tensor_metadata("v", dtype="BF16", shape=[4])
        writer.write_header()
        writer.write_tensor("w", torch.arange(6.0).reshape(2, 3))
        assert not path.exists()
        writer.write_tensor("v", bytes(8))
    writer.close()
    assert writer.written is not None
    assert writer.written.blake3 == blake3(path.read_bytes()).hexdigest()
    found = safetensors_torch.load_file(path)
    assert torch.equal(found["w"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(found["v"], torch.zeros(4, dtype=torch.bfloat16))
    assert open_checkpoint(path).metadata == {"a": "b", "format": "pt"}


def test_misuse_of_the_incremental_writer_is_refused(tmp_path: Path) -> None:
    writer = IncrementalSafetensorsWriter(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="before the header"):
        writer.write_tensor("w", b"")
    with pytest.raises(RuntimeError, match="before its header"):
        writer.close()
    writer.add_tensor_metadata("w", dtype="F32", shape=(1,))
    for dtype, name in (("F32", "w"), ("float32", "v")):
        with pytest.raises(RuntimeError, match=f"'{name}'"):
            writer.add_tensor_metadata(name, dtype=dtype, shape=(1,))
    writer.write_header()
    wrong: list[Any] = [
        writer.write_header,
        lambda: writer.add_tensor_metadata("v", dtype="F32", shape=(1,)),
        lambda: writer.write_tensor("v", bytes(4)),
        lambda: writer.write_tensor("w", bytes(5)),
        writer.close,
    ]
    for call in wrong:
        with pytest.raises(RuntimeError):
            call()
    assert names_in(tmp_path) == []


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with IncrementalSafetensorsWriter(tmp_path / "x.safetensors") as writer:
            writer.add_tensor_metadata("w", dtype="F32", shape=(1,))
            writer.write_header()
            raise Stopped

    with pytest.raises(Stopped):
        fail()
    assert names_in(tmp_path) == []


# The pump


def test_results_come_in_order_and_the_first_error_counts() -> None:
    used: list[int] = []

    def job(number: int) -> int:
        if number >= 5:
            raise ValueError(f"job {number}")
        return number

    jobs = ((1, lambda number=number: job(number)) for number in range(8))
    with pytest.raises(ValueError, match="job 5"):
        pump(jobs, used.append, threads=4, max_cost_bytes=3)
    assert used == [0, 1, 2, 3, 4]


def test_jobs_wait_for_room() -> None:
    held, most = [0], [0]

    def job() -> int:
        return 7

    def jobs() -> Any:
        for _ in range(20):
            held[0] += 1
            most[0] = max(most[0], held[0])
            yield 10, job

    def use(result: int) -> None:
        held[0] -= 1

    pump(jobs(), use, max_cost_bytes=30)
    assert most[0] <= 4  # three wait, and one asks for room
    pump([(1000, job), (1000, job)], lambda result: None, max_cost_bytes=30)


def test_written_facts_are_plain_values(source: Path, tmp_path: Path) -> None:
    written = write_safetensors(open_checkpoint(source), tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(written))
