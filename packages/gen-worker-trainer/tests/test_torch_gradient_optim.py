"""Optimizers and schedules are what their names say; wrong names are told with the right ones."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest

pytest.importorskip("torch")

import torch  # type: ignore[import-not-found,unused-ignore]

from gen_worker.trainer.optim import (
    OPTIMIZERS,
    SCHEDULES,
    build_optimizer,
    build_schedule,
    groups_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of what is imported

_HALF = math.sqrt(0.5) / 2


def module() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))


@pytest.mark.parametrize("name", [one for one in OPTIMIZERS if "8bit" not in one and one != "lion"])
def test_a_named_optimizer_learns_and_is_kept(name: str) -> None:
    model = module()
    optimizer = build_optimizer(name, model, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)
    rows = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(8):
        loss = (model(rows) - rows.sum(1, keepdim=True)).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    again = build_optimizer(name, module(), lr=0.01, weight_decay=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert len(again.state_dict()["state"]) == 6


def test_optimizers_of_other_packages_are_known_by_their_path() -> None:
    optimizer = build_optimizer("torch.optim:NAdam", module(), lr=0.5)
    assert type(optimizer) is torch.optim.NAdam
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_norms_and_biases_do_not_decay() -> None:
    model = module()
    decaying, other = groups_of({"a": model}, 0.1)
    assert [tuple(one.shape) for one in decaying["params"]] == [(8, 4), (1, 8)]
    assert [one.ndim for one in other["params"]] == [1, 1, 1, 1]
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.1, 0.0)
    assert len(groups_of(model, 0.0)) == 1


def test_shared_and_frozen_parameters_are_not_taken_twice_or_at_all() -> None:
    model = module()
    model[0].requires_grad_(False)
    (group,) = groups_of({"first": model, "again": model}, 0.0)
    assert [tuple(one.shape) for one in group["params"]] == [(8,), (8,), (1, 8), (1,)]


def test_unknown_names_are_said_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'adamm'.*adamw, adamw8bit, adafactor.*module:Class"):
        build_optimizer("adamm", module())
    with pytest.raises(ValueError, match="no optimizer 'NoSuch'"):
        build_optimizer("torch.optim:NoSuch", module())
    with pytest.raises(
        ValueError, match=r"'adamw' has no 'momentum', 'nesterov': it takes lr, betas"
    ):
        build_optimizer("adamw", module(), momentum=0.9, nesterov=True)
    optimizer = build_optimizer("sgd", module())
    with pytest.raises(ValueError, match=r"'cosin'.*constant, cosine"):
        build_schedule("cosin", optimizer, max_steps=5)
    with pytest.raises(ValueError, match=r"'linear' has no 'power': it takes max_steps, warmup_st"):
        build_schedule("linear", optimizer, max_steps=5, power=2)
    with pytest.raises(ValueError, match=r"warmup_steps must not be negative.*decay_ratio"):
        build_schedule("wsd", optimizer, max_steps=5, warmup_steps=-1, decay_ratio=0)


@pytest.mark.parametrize(
    ("name", "package"), [("adamw8bit", "bitsandbytes"), ("lion", "bitsandbytes")]
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=f"needs the package '{package}': install it"):
        build_optimizer(name, module())


def rates(name: str, count: int, **options: Any) -> list[float]:
    optimizer = build_optimizer("sgd", module(), lr=2.0)
    schedule = build_schedule(name, optimizer, **options)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, [1, 1, 1, 1, 1]),
        ("warmup", {"warmup_steps": 3}, [0.25, 0.5, 0.75, 1, 1]),
        ("linear", {}, [1, 0.75, 0.5, 0.25, 0]),
        ("linear", {"min_ratio": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", {"warmup_steps": 2}, [1 / 3, 2 / 3, 1, 0.5, 0]),
        ("cosine", {}, [1, 0.5 + _HALF, 0.5, 0.5 - _HALF, 0]),
        ("cosine", {"min_ratio": 0.5}, [1, 0.75 + _HALF / 2, 0.75, 0.75 - _HALF / 2, 0.5]),
        ("cosine_with_restarts", {"cycles": 2}, [1, 0.5, 1, 0.5, 0]),
        ("polynomial", {}, [1, 9 / 16, 4 / 16, 1 / 16, 0]),
        ("polynomial", {"power": 1}, [1, 0.75, 0.5, 0.25, 0]),
        ("wsd", {"decay_ratio": 0.5}, [1, 1, 1, 0.5, 0]),
        ("wsd", {"decay_ratio": 0.5, "min_ratio": 0.5}, [1, 1, 1, 0.75, 0.5]),
    ],
)  # fmt: skip
def test_rates_are_those_of_the_schedule(
    name: str, options: dict[str, Any], expected: list[float]
) -> None:
    found = rates(name, 7, max_steps=4, **options)
    assert found == pytest.approx([*expected, expected[-1], expected[-1]], abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_without_steps_has_a_schedule(name: str) -> None:
    assert len(rates(name, 2, max_steps=0)) == 2
