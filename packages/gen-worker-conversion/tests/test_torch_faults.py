"""Killed at any call of the system, or with any bit of its source turned: no promise is broken."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gen_worker.conversion.convert import plan_conversion, run_conversion
from gen_worker.conversion.gguf import plan_gguf_file, write_gguf
from gen_worker.conversion.writer import Journal
from gen_worker.errors import WorkerError

torch: Any = pytest.importorskip("torch")
pytest.importorskip("gguf")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

WEIGHTS = (".safetensors", ".gguf")


Convert = Callable[[Path, Path], object]
"""From the folder of all sources to that of the outputs."""


def converted(source: str, *targets: str, **options: Any) -> Convert:
    def convert(root: Path, out: Path) -> None:
        options.setdefault("max_shard_bytes", 70_000)
        plan = plan_conversion(root / source, targets, out=out, **options)
        assert not plan.refusals, plan.refusals
        run_conversion(plan)

    return convert


def split_gguf(root: Path, out: Path) -> None:
    plan = plan_gguf_file(root / "model.gguf", "f16")
    write_gguf(
        plan.tensors,
        plan.metadata,
        out / "made.gguf",
        split_max_bytes=70_000,
        journal=Journal(out.with_suffix(".journal")),
    )
    Journal(out.with_suffix(".journal")).remove()


KINDS: dict[str, Convert] = {
    "shards": converted("model", "bf16", max_shard_bytes=33_000),
    "flavors": converted("shards", "bf16", "fp16", "fp8:e4m3:storage"),
    "pipeline": converted("pipeline", "bf16", components=["unet"]),
    "gguf": converted("model.gguf", "gguf:q8_0"),
    "split gguf": split_gguf,
    "unpacked": converted("single.safetensors", "bf16", layout="diffusers"),
    "unpacked twice": converted("single.safetensors", "fp16", "bf16", layout="diffusers"),
    "packed": converted("tiny", "fp16", layout="singlefile"),
}


@pytest.fixture(scope="module")
def sources(writing_places: Any, matrix: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gen_worker.conversion.layout import diffusers_to_singlefile
    from gen_worker.models.tiny import tiny_stable_diffusion

    root = tmp_path_factory.mktemp("sources")
    writing_places.make_sources(root)
    tiny_stable_diffusion(root / "tiny")
    diffusers_to_singlefile(matrix.pipeline, root / "single.safetensors", dtype="")
    return root


@pytest.fixture(scope="module")
def undisturbed(
    sources: Path, killed_conversions: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, bytes], int]]:
    """Return the files that a kind makes, and the calls that it takes."""
    known: dict[str, tuple[dict[str, bytes], int]] = {}

    def of(kind: str) -> tuple[dict[str, bytes], int]:
        if kind not in known:
            out = tmp_path_factory.mktemp("wanted") / "out"
            calls = killed_conversions.calls_of(lambda: KINDS[kind](sources, out))
            known[kind] = (killed_conversions.files_below(out), calls)
        return known[kind]

    return of


def weights_in(place: Path) -> dict[str, int]:
    """Return which files of weights are whole there: another one of the same name counts as new."""
    return {
        str(path.relative_to(place)): path.stat().st_ino
        for path in place.rglob("[!.]*")
        if path.suffix in WEIGHTS
    }


@pytest.mark.chaos(seeds=2)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_conversion_goes_on_where_it_was(
    kind: str,
    sources: Path,
    undisturbed: Callable[[str], tuple[dict[str, bytes], int]],
    killed_conversions: Any,
    tmp_path: Path,
    seed: int,
) -> None:
    chance = random.Random(f"{kind} {seed}")
    wanted, calls = undisturbed(kind)
    before = killed_conversions.files_below(sources)
    out = tmp_path / "out"
    work = KINDS[kind]
    is_killed, kills = True, chance.randrange(1, 4)
    while is_killed and kills:
        number, kills = chance.randrange(1, calls), kills - 1
        is_killed = killed_conversions.kill_at(number, lambda: work(sources, out))
    made = weights_in(tmp_path / ".out.converting" / "output") | weights_in(out)
    if is_killed:
        work(sources, out)
    assert len(made.items() - weights_in(out).items()) <= 1, "more than one file was made again"
    assert killed_conversions.files_below(tmp_path) == {
        f"out/{name}": content for name, content in wanted.items()
    }
    assert killed_conversions.files_below(sources) == before


# Damaged sources


def outcome(path: Path, target: str) -> str:
    """Convert to a folder beside a file; return why that was refused, empty where it was not."""
    plan = plan_conversion(path, [target], out=path.parent / "out")
    if plan.refusals:
        return " ".join(one.reason for one in plan.refusals)
    try:
        run_conversion(plan)
    except WorkerError as error:
        return str(error)
    return ""


def damaged(chance: random.Random, source: Path, path: Path, header_bytes: int) -> None:
    """Copy a file with bits turned, most of them where the header is, or cut off."""
    data = bytearray(source.read_bytes())
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(chance.choice((8, header_bytes, header_bytes, len(data))))
        data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data[: len(data) if chance.random() < 0.8 else chance.randrange(len(data))])


def bits_of(tensors: dict[str, Any]) -> dict[str, bytes]:
    return {
        name: one.contiguous().view(torch.uint8).numpy().tobytes() for name, one in tensors.items()
    }


@pytest.mark.chaos(seeds=10)
def test_a_damaged_source_is_named_or_read_as_others_read_it(
    sources: Path, tmp_path: Path, seed: int
) -> None:
    path, whole = tmp_path / "model.safetensors", sources / "model" / "model.safetensors"
    header_bytes = 8 + struct.unpack("<Q", whole.read_bytes()[:8])[0]
    damaged(random.Random(seed), whole, path, header_bytes)
    reason = outcome(path, "bf16")
    assert not reason or str(path) in reason
    if not reason:
        made = safetensors_torch.load_file(tmp_path / "out" / "model.safetensors")
        read = safetensors_torch.load_file(path)  # by the library
        wanted = {n: t.bfloat16() if t.dtype.is_floating_point else t for n, t in read.items()}
        assert bits_of(made) == bits_of(wanted)
    left = {"model.safetensors", *([] if reason else ["out"])}
    assert {one.name for one in tmp_path.iterdir()} == left


@pytest.mark.chaos(seeds=10)
def test_a_damaged_gguf_file_is_named_or_converted(
    sources: Path, tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "model.gguf"
    damaged(random.Random(seed), sources / "model.gguf", path, 400)
    reason = outcome(path, "gguf:q8_0")
    assert not reason or str(path) in reason or "tensor" in reason, reason
    left = {"model.gguf", *([] if reason else ["out"])}
    assert {one.name for one in tmp_path.iterdir()} == left
