"""Which reader is used, decided without a GPU: modules that look like the real ones stand in."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from gen_worker.errors import FunctionUnavailableError
from gen_worker.models.reader import available_backends
from gen_worker.models.reader.backends import Backend, chosen_backends


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in ("instanttensor", "fastsafetensors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


WHOLE: dict[str, Any] = {"device_type": "cuda", "is_hashed": False, "is_partial": False}


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        (("instanttensor", "fastsafetensors"), ("instanttensor", "fastsafetensors", "own")),
        (("fastsafetensors",), ("fastsafetensors", "own")),
        ((), ("own",)),
    ],
)
def test_installed_readers_come_first_on_a_gpu(
    installed: tuple[str, ...], chosen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, *installed)
    assert available_backends() == chosen
    assert chosen_backends("auto", **WHOLE) == chosen
    assert chosen_backends("own", **WHOLE) == ("own",)


@pytest.mark.parametrize("change", [{"device_type": "cpu"}, {"is_hashed": True},
                                    {"is_partial": True}])  # fmt: skip
def test_what_they_cannot_do_is_done_by_our_own(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "instanttensor")
    assert chosen_backends("auto", **{**WHOLE, **change}) == ("own",)
    with pytest.raises(FunctionUnavailableError, match="without hashing") as caught:
        chosen_backends("instanttensor", **{**WHOLE, **change})
    assert caught.value.reason == "backend_unfit"


@pytest.mark.parametrize("name", ["instanttensor", "fastsafetensors"])
def test_one_that_was_asked_for_is_the_only_one_and_must_be_there(
    name: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, name)
    assert chosen_backends(name, **WHOLE) == (name,)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FunctionUnavailableError, match=f"pip install {name}"):
        chosen_backends(name, **WHOLE)


def test_asking_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    available_backends()
    assert not {"instanttensor", "fastsafetensors", "torch"} & (set(sys.modules) - before)
