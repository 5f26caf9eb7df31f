"""A training state comes back from a checkpoint as it was, or not at all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gen_worker.trainer import StepContext, TrainingJobSpec
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.state import TrainingState
from gen_worker.trainer.state.restoring import restore_training_state
from gen_worker.trainer.state.training_state import training_state_of
from gen_worker.trainer.writer import LocalArtifactWriter

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CTX = StepContext(TrainingJobSpec("run", 9))


def net(seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(4, 8, **more), torch.nn.BatchNorm1d(8, **more)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 1, **more))


def learn(model: Any, optimizer: Any, *numbers: int) -> None:
    dtype = next(model.parameters()).dtype
    for number in numbers:
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(number)).to(dtype)
        optimizer.zero_grad()
        model(data).float().square().mean().backward()
        optimizer.step()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LocalArtifactWriter]:
    made = LocalArtifactWriter(
        checkpoints_dir=tmp_path / "c", samples_dir=tmp_path / "s", small_bytes=0
    )
    yield made
    made.close()


@pytest.fixture
def keep(writer: LocalArtifactWriter) -> Callable[..., str]:
    def keep(state: Any, step: int = 1) -> str:
        """Keep a state, and return the directory of the checkpoint."""
        writer.write_checkpoint(step=step, state_payload={}, trainer=None, state=state, ctx=_CTX)
        found = writer.store.newest()
        assert found is not None
        return found.directory

    return keep


def same(one: Any, two: Any) -> None:
    mine, theirs = one.state_dict(), two.state_dict()
    assert list(mine) == list(theirs)
    for name, tensor in mine.items():
        assert tensor.dtype is theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_model_and_its_optimizer(keep: Any, dtype: str) -> None:
    made = []
    for seed in (0, 1):
        model = net(seed, dtype=getattr(torch, dtype))
        made.append(TrainingState(model, torch.optim.AdamW(model.parameters(), lr=0.01)))
    one, two = made
    learn(one.model, one.optimizer, 1, 2, 3)

    restore_training_state(two, keep(one))

    learn(one.model, one.optimizer, 4, 5)
    learn(two.model, two.optimizer, 4, 5)
    same(one.model, two.model)


def test_wide_numbers_of_a_narrow_parameter_stay_wide(keep: Any) -> None:
    """Torch would round them to the parameter's dtype."""

    def made() -> TrainingState:
        model = net(dtype=torch.bfloat16)
        return TrainingState(model, torch.optim.AdamW(model.parameters()))

    one, two = made(), made()
    learn(one.model, one.optimizer, 1)
    for state in one.optimizer.state.values():
        state["exp_avg"] = torch.rand_like(state["exp_avg"], dtype=torch.float32)

    restore_training_state(two, keep(one))

    for mine, theirs in zip(
        one.optimizer.state.values(), two.optimizer.state.values(), strict=True
    ):
        assert theirs["exp_avg"].dtype is torch.float32
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])


def test_everything_there_is(keep: Any) -> None:
    def made(seed: int) -> TrainingState:
        models = {"generator": net(seed), "critic": net(seed + 10)}
        optimizers = {
            name: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for name, model in models.items()
        }
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            optimizers["critic"],
            [
                torch.optim.lr_scheduler.LinearLR(optimizers["critic"], 0.1, total_iters=3),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizers["critic"], 10),
            ],
            [3],
        )
        return TrainingState(
            models,
            optimizers,
            scheduler=scheduler,
            scaler=torch.amp.GradScaler("cpu", enabled=True),
            ema=torch.optim.swa_utils.AveragedModel(models["generator"]),
            extra={
                "seen": [seed, (2, 3)],
                "noise": torch.full((2,), float(seed)),
                "torch": torch.Generator().manual_seed(seed),
                "python": random.Random(seed),
            },
        )

    one, two = made(0), made(1)
    for number in range(5):
        for name in ("generator", "critic"):
            learn(one.model[name], one.optimizer[name], number)
        one.scheduler.step()
        one.ema.update_parameters(one.model["generator"])
    one.scaler.load_state_dict({**one.scaler.state_dict(), "scale": 77.0})
    torch.rand(3, generator=one.extra["torch"])
    one.extra["python"].gauss(0, 1)

    restore_training_state(two, keep(one))

    for name in ("generator", "critic"):
        same(one.model[name], two.model[name])
        rates = [
            [group["lr"] for group in made.optimizer[name].param_groups] for made in (one, two)
        ]
        assert rates[0] == rates[1]
    same(one.ema, two.ema)
    assert two.scheduler.state_dict() == one.scheduler.state_dict()
    assert two.scaler.state_dict() == one.scaler.state_dict()
    assert two.extra["seen"] == [0, (2, 3)]
    assert two.extra["noise"].tolist() == [0.0, 0.0]
    drawn = [
        (torch.rand(3, generator=made.extra["torch"]).tolist(), made.extra["python"].gauss(0, 1))
        for made in (one, two)
    ]
    assert drawn[0] == drawn[1]


def test_gradients_that_wait(keep: Any) -> None:
    def made(seed: int) -> TrainingState:
        return TrainingState(net(seed))

    one, two = made(0), made(1)
    one.model(torch.ones(2, 4)).sum().backward()
    one.accumulated = 2
    two.model(torch.ones(2, 4)).sum().backward()

    directory = keep(one)
    restore_training_state(two, directory)

    assert two.accumulated == 2
    for mine, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    one.accumulated = 0
    restore_training_state(two, keep(one, 2))
    assert all(parameter.grad is None for parameter in two.model.parameters())


def test_tied_weights_are_kept_once(keep: Any) -> None:
    def made(seed: int) -> TrainingState:
        torch.manual_seed(seed)
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return TrainingState(model)

    one, two = made(0), made(1)
    directory = keep(one)
    restore_training_state(two, directory)

    from safetensors.torch import load_file

    kept = load_file(Path(directory, "training_state", "model.safetensors"))
    assert sorted(kept) == ["a.bias", "a.weight", "b.bias"]
    assert two.model["b"].weight is two.model["a"].weight
    same(one.model, two.model)


def test_only_what_is_trained(keep: Any) -> None:
    def made(seed: int) -> TrainingState:
        model = net(seed)
        model[0].requires_grad_(False)
        trained = [one for one in model.parameters() if one.requires_grad]
        return TrainingState(model, torch.optim.AdamW(trained), trainable_only=True)

    one, two = made(0), made(1)
    learn(one.model, one.optimizer, 1)
    frozen = two.model[0].weight.clone()

    directory = keep(one)
    restore_training_state(two, directory)

    from safetensors import safe_open

    with safe_open(Path(directory, "training_state", "model.safetensors"), "pt") as file:
        assert "0.weight" not in file.keys()
    assert torch.equal(two.model[0].weight, frozen)
    same(one.model[1], two.model[1])
    same(one.model[2], two.model[2])


class Changes:
    """What may have become of a trainer between two runs."""

    @staticmethod
    def another_layer(state: TrainingState) -> None:
        state.model.append(torch.nn.Linear(1, 1))

    @staticmethod
    def a_layer_less(state: TrainingState) -> None:
        del state.model[2]

    @staticmethod
    def another_shape(state: TrainingState) -> None:
        state.model[2] = torch.nn.Linear(8, 2)

    @staticmethod
    def another_dtype(state: TrainingState) -> None:
        state.model[2].to(torch.float64)

    @staticmethod
    def no_optimizer(state: TrainingState) -> None:
        state.optimizer = None

    @staticmethod
    def another_order(state: TrainingState) -> None:
        state.optimizer = torch.optim.AdamW(reversed(list(state.model.parameters())))

    @staticmethod
    def fewer_parameters(state: TrainingState) -> None:
        state.optimizer = torch.optim.AdamW(list(state.model.parameters())[1:])

    @staticmethod
    def another_scheduler(state: TrainingState) -> None:
        state.scheduler = torch.optim.lr_scheduler.ConstantLR(state.optimizer)

    @staticmethod
    def another_extra(state: TrainingState) -> None:
        state.extra["new"] = 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Changes.another_layer, r"'3.weight' is missing"),
        (Changes.a_layer_less, r"'2.weight' is not in the model"),
        (Changes.another_shape, r"'2.weight' is float32\[1, 8\], the model has float32\[2, 8\]"),
        (Changes.another_dtype, r"'2.bias' is float32\[1\], the model has float64\[1\]"),
        (Changes.no_optimizer, r"the optimizer is kept, and not in the state"),
        (Changes.another_order, r"has 'model:2.bias' where 'model:0.weight' was kept"),
        (Changes.fewer_parameters, r"has groups of \[5\] parameters, \[6\] were kept"),
        (Changes.another_scheduler, r"the scheduler is missing"),
        (Changes.another_extra, r"extra 'new' is missing"),
    ],
)
def test_what_does_not_fit_is_named(keep: Any, change: Any, told: str) -> None:
    def made(seed: int) -> TrainingState:
        model = net(seed)
        return TrainingState(model, torch.optim.AdamW(model.parameters()))

    directory = keep(made(0))
    state = made(1)
    change(state)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}

    with pytest.raises(CheckpointError, match=told):
        restore_training_state(state, directory)

    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_checkpoint_of_another_kind(keep: Any) -> None:
    directory = keep(TrainingState(net()))
    with pytest.raises(CheckpointError, match="`configure` returned none"):
        restore_training_state({}, directory)
    with pytest.raises(CheckpointError, match="holds no training state"):
        restore_training_state(TrainingState(net()), keep(None, 2))


@pytest.mark.parametrize("value", [object(), torch.zeros(2).to_sparse()])
def test_what_cannot_be_kept(keep: Any, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"extra|state\.0"):
        keep(TrainingState(net(), extra={"what": value}))


def test_where_it_may_be() -> None:
    class Holder:
        def __init__(self) -> None:
            self.training = TrainingState()

    holder = Holder()
    assert training_state_of(holder) is holder.training
    assert training_state_of({"a": 1, "b": holder.training}) is holder.training
    assert training_state_of(3) is None
    with pytest.raises(TypeError, match="has 2 training states"):
        training_state_of({"a": TrainingState(), "b": TrainingState()})


@pytest.mark.parametrize("name", ["ema", "state", "../model", ".hidden", "a/b"])
def test_names_that_cannot_be_files(name: str) -> None:
    with pytest.raises(ValueError, match="becomes a file's"):
        TrainingState({name: net()})


def test_memory_is_used_again(writer: LocalArtifactWriter) -> None:
    """Also by states of another size, and nothing of the one before is left."""
    sizes = [(1000,), (1000,), (10,), (3000,), ()]
    for step, size in enumerate(sizes, 1):
        state = TrainingState(extra={"a": torch.full(size, float(step)), "b": step, "c": None})
        writer.begin_checkpoint(step=step, state_payload={}, trainer=None, state=state, ctx=_CTX)
        state.extra["a"].fill_(-1.0)  # the run goes on

    assert len(list(writer.ended_checkpoints(wait=True))) == len(sizes)
    for step, size in enumerate(sizes, 1):
        state = TrainingState(extra={"a": torch.zeros(size), "b": 0, "c": 1})
        restore_training_state(state, str(Path(writer.store.root, f"step-{step:08d}")))
        assert torch.equal(state.extra["a"], torch.full(size, float(step)))
        assert (state.extra["b"], state.extra["c"]) == (step, None)


def test_no_pickle_anywhere(keep: Any) -> None:
    model = net()
    state = TrainingState(model, torch.optim.AdamW(model.parameters()))
    learn(model, state.optimizer, 1)
    directory = Path(keep(state))

    names = sorted(path.name for path in directory.rglob("*") if path.is_file())
    assert names == ["checkpoint.json", "model.safetensors", "state.json", "state.safetensors"]
    json.loads((directory / "training_state" / "state.json").read_bytes())
