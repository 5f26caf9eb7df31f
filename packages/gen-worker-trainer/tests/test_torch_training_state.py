"""Nothing of a run's state is lost on its way through tensors and JSON."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from gen_worker.trainer.errors import CheckpointError
from gen_worker.trainer.state import capture_rng, flatten, restore_rng, unflatten

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")


def through(value: Any) -> Any:
    """Send it through what is on disk."""
    from safetensors.torch import load, save

    tensors, skeleton = flatten(value, "state")
    kept = load(save({name: one.contiguous().clone() for name, one in tensors.items()}))
    return unflatten(json.loads(json.dumps(skeleton)), kept)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -5,
        2**53,
        -(2**80),
        0.1,
        math.inf,
        -math.inf,
        "",
        "text",
        b"\x00\xff",
        (),
        [],
        {},
        (1, [2, (3,)], {"a": (4, None)}),
        {0: "int", "0": "text", (1, 2): "tuple", None: 1, 1.5: 2, True: 3},
        ["dict", []],
        [["tensor", "x"], ["float", "nan"]],
    ],
)
def test_values(value: Any) -> None:
    found = through(value)

    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(through(math.nan))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "bfloat16", "float16", "int64", "uint8", "bool"]
)
def test_tensors(dtype: str) -> None:
    value = {"a": [torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).T], "b": torch.tensor(3)}

    found = through(value)

    assert found["a"][0].dtype is getattr(torch, dtype)
    assert torch.equal(found["a"][0], value["a"][0])
    assert found["b"].shape == ()


def test_what_appears_twice_is_kept_once() -> None:
    shared = torch.ones(3)
    tensors, skeleton = flatten({"a": shared, "b": [shared]}, "model")

    assert list(tensors) == ["model.0"]
    found = unflatten(skeleton, tensors)
    assert found["a"] is found["b"][0]


def test_numbers_of_numpy_are_numbers() -> None:
    assert through({"step": np.float64(0.25), "n": np.int32(7)}) == {"step": 0.25, "n": 7}


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": [lambda: 0]}, 1j, np.zeros(3)])
def test_what_cannot_be_kept_is_named(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"optimizer.* is a .*, which a checkpoint cannot"):
        flatten(value, "optimizer")


@pytest.mark.parametrize("skeleton", [["tensor", "gone"], ["what", 1], [], [1, 2, 3]])
def test_what_is_no_skeleton(skeleton: Any) -> None:
    with pytest.raises(CheckpointError):
        unflatten(skeleton, {})


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad", "RMSprop", "Adafactor"])
def test_an_optimizer_goes_on_bit_for_bit(name: str) -> None:
    def made() -> tuple[Any, Any]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        more = {"momentum": 0.9} if name == "SGD" else {}
        return model, getattr(torch.optim, name)(model.parameters(), lr=0.01, **more)

    def step(model: Any, optimizer: Any, number: int) -> None:
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()

    model, optimizer = made()
    for number in range(3):
        step(model, optimizer, number)
    kept = through({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    again, other = made()
    again.load_state_dict(kept["model"])
    other.load_state_dict(kept["optimizer"])
    for number in range(3, 6):
        step(model, optimizer, number)
        step(again, other, number)

    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_random_numbers_go_on() -> None:
    def drawn() -> list[Any]:
        return [
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.rand(3).tolist(),
        ]

    random.gauss(0, 1)  # keeps a second one
    np.random.randn()
    kept = json.loads(json.dumps(capture_rng()))
    expected = drawn()

    drawn()
    restore_rng(kept)

    assert drawn() == expected
