"""A checkpoint is read while it is verified; what is damaged of it is never anybody's state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.state import TrainingState, held
from gen_worker.trainer.state.held import HeldFiles, has_memory_of_its_own, verify_and_hold
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.writer import LocalArtifactWriter

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gen_worker.trainer.checkpoints.store import Found

_CTX = StepContext(TrainingJobSpec("run", 9))
_WIDTH = 128
"""Its squares fill 64 KiB, and stay where they were read."""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LocalArtifactWriter]:
    made = LocalArtifactWriter(
        checkpoints_dir=tmp_path / "c", samples_dir=tmp_path / "s", small_bytes=0
    )
    yield made
    made.close()


def made(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.Linear(_WIDTH, 1))
    shared = torch.rand(_WIDTH, _WIDTH)
    extra = {"one": shared, "two": shared}
    return TrainingState(model, torch.optim.AdamW(model.parameters(), lr=0.01), extra=extra)


def learn(state: TrainingState, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        state.model(torch.randn(8, _WIDTH, generator=generator)).square().mean().backward()
        state.optimizer.step()


def kept(writer: LocalArtifactWriter, state: TrainingState, step: int) -> Found:
    writer.write_checkpoint(step=step, state_payload={}, trainer=None, state=state, ctx=_CTX)
    found = writer.store.newest(verify_and_hold)
    assert found is not None
    assert found.checkpoint.step == step
    return found


def numbers(state: TrainingState) -> list[Any]:
    moments = [one[name] for one in state.optimizer.state.values() for name in sorted(one)]
    gradients = [one.grad for one in state.model.parameters()]
    return [*state.model.state_dict().values(), *moments, *gradients, *state.extra.values()]


def test_a_state_goes_on_as_from_its_files(writer: LocalArtifactWriter) -> None:
    one, two, three = made(0), made(1), made(2)
    learn(one, 3)
    found = kept(writer, one, 3)

    restore_training_state(two, found.directory, held=found.held)
    restore_training_state(three, found.directory)

    for state in (one, two, three):
        learn(state, 2)
    for mine, held_one, mapped in zip(numbers(one), numbers(two), numbers(three), strict=True):
        assert torch.equal(mine, held_one)
        assert torch.equal(mine, mapped)


def test_large_tensors_stay_where_they_were_read_and_small_ones_do_not(
    writer: LocalArtifactWriter,
) -> None:
    """Each is given once, and none keeps what it does not need."""
    one, two = made(0), made(1)
    learn(one, 1)
    found = kept(writer, one, 1)
    path = os.path.join(found.directory, "training_state", "state.safetensors")
    assert path in found.held
    reads = found.held._reads  # where the memory is
    memory = reads[os.path.abspath(path)].memory
    begin = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()

    restore_training_state(two, found.directory, held=found.held)

    assert path not in found.held
    moments = [tensor for state in two.optimizer.state.values() for tensor in state.values()]
    inside = [begin <= tensor.data_ptr() < begin + len(memory) for tensor in moments]
    assert inside == [tensor.nbytes >= 64 << 10 for tensor in moments]
    assert any(inside)
    assert all(has_memory_of_its_own(tensor) for tensor in moments)
    assert two.extra["one"].data_ptr() != two.extra["two"].data_ptr()


@pytest.mark.parametrize("place", [0, 9, 200, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json"])
def test_a_damaged_file_is_passed_over_and_said(tmp_path: Path, name: str, place: int) -> None:
    said: list[str] = []
    writer = LocalArtifactWriter(checkpoints_dir=tmp_path / "c", samples_dir=tmp_path / "s")
    with writer.store as store:
        store._warn = said.append
        state = made(0)
        learn(state, 1)
        kept(writer, state, 1)
        path = Path(kept(writer, state, 2).directory, "training_state", name)
        body = bytearray(path.read_bytes())
        body[place] ^= 1
        path.chmod(0o644)
        path.write_bytes(body)

        found = store.newest(verify_and_hold)

    assert found is not None
    assert found.checkpoint.step == 1
    assert len(said) == 1
    assert str(path) in said[0]
    assert "is not what was written" in said[0]
    writer.close()


@pytest.mark.parametrize("change", ["cut", "remove"])
def test_a_file_that_is_cut_off_or_missing(writer: LocalArtifactWriter, change: str) -> None:
    found = kept(writer, made(0), 1)
    path = os.path.join(found.directory, "training_state", "model.safetensors")
    if change == "cut":
        os.truncate(path, 100)
    else:
        os.unlink(path)

    with pytest.raises(CheckpointError, match=r"model\.safetensors' is"):
        verify_and_hold(found.directory, found.checkpoint.files)


def test_where_memory_is_scarce_nothing_is_held(
    writer: LocalArtifactWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made(0), made(1)
    found = kept(writer, one, 1)
    monkeypatch.setattr(held, "_available_bytes", lambda: 1000)

    nothing = verify_and_hold(found.directory, found.checkpoint.files)

    assert os.path.join(found.directory, "training_state", "model.safetensors") not in nothing
    restore_training_state(two, found.directory, held=nothing)
    assert all(map(torch.equal, one.model.state_dict().values(), two.model.state_dict().values()))


def test_what_is_not_held_cannot_be_taken() -> None:
    assert "a.safetensors" not in HeldFiles()
    with pytest.raises(KeyError):
        HeldFiles().take("a.safetensors")
