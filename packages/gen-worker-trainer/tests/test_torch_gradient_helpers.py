"""What trainers that do their steps themselves are helped with, and that nothing is pickled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")

import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.models.formats import UnsafeFileFormat
from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.helpers import (
    OptimizerBundle,
    build_default_adamw_bundle,
    load_trainable_module_checkpoint,
    save_trainable_module_checkpoint,
    to_float_scalar,
)


def module(outputs: int = 2, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, outputs)
    )
    layers[0].requires_grad_(False)
    return layers


def learn(layers: Any, optimizer: Any, steps: int = 3) -> None:
    for number in range(steps):
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        layers(rows).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("value", [2, 2.0, torch.tensor(2.0, requires_grad=True)])
def test_numbers_are_floats(value: Any) -> None:
    assert repr(to_float_scalar(value)) == "2.0"


@pytest.mark.parametrize("given", [None, 3, [], torch.nn.Identity(), ["text"]])
def test_nothing_gives_an_empty_bundle(given: Any) -> None:
    assert build_default_adamw_bundle(given) == OptimizerBundle(None)


def test_hyperparameters_are_those_of_the_optimizer() -> None:
    usual = build_default_adamw_bundle(module())
    assert usual.scheduler is None
    group = usual.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-4, 0.0, (0.9, 0.999))
    given = {"lr": 0.5, "weight_decay": 0.1, "betas": [0.8]}
    group = build_default_adamw_bundle(
        module().parameters(), hyperparams=given
    ).optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.5, 0.1, (0.9, 0.999))
    given = {"lr": 0.5, "learning_rate": 0.25, "betas": [0.8, 0.9]}
    group = build_default_adamw_bundle(module(), hyperparams=given).optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (0.25, (0.8, 0.9))


@pytest.mark.parametrize(
    ("warmup", "rates"),
    [
        (0, [1.0, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0.0]),
        (2, [0.1, 0.55, 1.0, 0.5, 0.0]),
    ],
)
def test_rates_fall_as_a_cosine_after_a_warm_up(warmup: int, rates: list[float]) -> None:
    bundle = build_default_adamw_bundle(
        module(), hyperparams={"lr": 1.0, "max_steps": 4, "warmup_steps": warmup}
    )
    found = []
    for _ in rates:
        found.append(bundle.optimizer.param_groups[0]["lr"])
        bundle.optimizer.step()
        bundle.scheduler.step()
    assert found == pytest.approx(rates, abs=1e-9)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_module_goes_on_where_it_was(tmp_path: Path, kind: Any) -> None:
    first = module()
    optimizer = kind(first[2].parameters(), lr=0.1)
    learn(first, optimizer)
    told = save_trainable_module_checkpoint(
        module=first,
        optimizer=optimizer,
        output_dir=tmp_path / "made",
        step=3,
        final=False,
        model_name_or_path="acme/base",
        metadata={"task": "t"},
    )
    assert told == json.loads((tmp_path / "made/checkpoint_meta.json").read_text())
    assert told == {
        "format": "lora_safetensors_v1",
        "step": 3,
        "final": False,
        "primary_path": "lora.safetensors",
        "optimizer_path": "optimizer.safetensors",
        "model_name_or_path": "acme/base",
        "task": "t",
    }
    second = module(seed=1)
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    other = kind(second[2].parameters(), lr=0.1)
    report = load_trainable_module_checkpoint(
        module=second, optimizer=other, checkpoint_dir=tmp_path / "made"
    )
    assert report == {
        "loaded": ["1.bias", "1.weight", "2.bias", "2.weight"],
        "missing": [],
        "unexpected": [],
        "optimizer": True,
    }
    learn(first, optimizer)
    learn(second, other)
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]


def test_names_that_match_nothing_are_reported(tmp_path: Path) -> None:
    save_trainable_module_checkpoint(
        module=module(), optimizer=None, output_dir=tmp_path, step=1, final=True
    )
    other = torch.nn.ModuleDict({"2": torch.nn.Linear(4, 2), "new": torch.nn.Linear(1, 1)})
    report = load_trainable_module_checkpoint(module=other, optimizer=None, checkpoint_dir=tmp_path)
    assert report == {
        "loaded": ["2.bias", "2.weight"],
        "missing": ["new.bias", "new.weight"],
        "unexpected": ["1.bias", "1.weight"],
        "optimizer": False,
    }


def test_another_shape_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    save_trainable_module_checkpoint(
        module=module(), optimizer=None, output_dir=tmp_path, step=1, final=True
    )
    other = module(outputs=5, seed=3)
    before = [one.clone() for one in other.parameters()]
    with pytest.raises(CheckpointError, match=r"'2.weight' is \[2, 4\], the module has \[5, 4\]"):
        load_trainable_module_checkpoint(module=other, optimizer=None, checkpoint_dir=tmp_path)
    assert all(map(torch.equal, before, other.parameters()))


def test_nothing_trained_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        save_trainable_module_checkpoint(
            module=module().requires_grad_(False),
            optimizer=None,
            output_dir=tmp_path,
            step=1,
            final=True,
        )


def test_pickles_are_not_read(tmp_path: Path) -> None:
    layers = module()
    optimizer = torch.optim.AdamW(layers.parameters())
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_trainable_module_checkpoint(module=layers, optimizer=None, checkpoint_dir=tmp_path)
    (tmp_path / "lora.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileFormat, match="weights_only=True"):
        load_trainable_module_checkpoint(module=layers, optimizer=None, checkpoint_dir=tmp_path)
    save_trainable_module_checkpoint(
        module=layers, optimizer=None, output_dir=tmp_path, step=1, final=True
    )
    (tmp_path / "optimizer.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(UnsafeFileFormat, match=r"optimizer\.pt"):
        load_trainable_module_checkpoint(
            module=layers, optimizer=optimizer, checkpoint_dir=tmp_path
        )


def test_a_checkpoint_may_be_written_over(tmp_path: Path) -> None:
    layers = module()
    for step in (1, 2):
        told = save_trainable_module_checkpoint(
            module=layers, optimizer=None, output_dir=tmp_path, step=step, final=False
        )
        assert told["step"] == step
