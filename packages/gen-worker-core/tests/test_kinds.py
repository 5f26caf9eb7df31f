"""Endpoint kinds: inference is built in, the others come from installed packages."""

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import gen_worker.kinds
from gen_worker.errors import FunctionUnavailableError, classify
from gen_worker.kinds import INFERENCE, KIND_GROUP, kind_named
from gen_worker.spec import ProvidedParameter


@pytest.fixture(autouse=True)
def fresh_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gen_worker.kinds, "_kinds", {"inference": INFERENCE})


def publish(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let the installed packages publish these kinds: `name=value`, several split by spaces."""

    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        assert group == KIND_GROUP
        return [EntryPoint(name, value, group) for value in values.get(name, "").split()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_inference_needs_no_look_at_installed_packages() -> None:
    code = """
import sys
from gen_worker.kinds import kind_named
kind = kind_named("inference")
print(kind.name, "importlib.metadata" in sys.modules, "gen_worker.context" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["inference", "False", "False"]


def test_inference_hands_everything_through() -> None:
    kind: Any = kind_named("inference")
    result = object()
    with pytest.raises(StopIteration) as stopped:
        kind.finish(None, None, result).send(None)
    assert stopped.value.value is result
    with pytest.raises(LookupError, match="'source'"):
        kind.provide(ProvidedParameter("source"), None)


def test_a_published_kind_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, training="gen_worker.kinds:INFERENCE")
    assert kind_named("training") is kind_named("training") is INFERENCE


@pytest.mark.parametrize(
    ("name", "values", "reason", "message"),
    [
        ("training", "", "kind_not_installed", 'install "gen-worker-trainer"'),
        ("dataset", "", "kind_not_installed", 'install "gen-worker-conversion"'),
        ("magic", "", "kind_not_installed", "install the package that publishes it"),
        ("magic", "a.b:C d.e:F", "kind_ambiguous", "a.b:C, d.e:F"),
        ("magic", "no_such_module:C", "kind_not_importable", "no_such_module"),
        ("magic", "gen_worker.kinds:Missing", "kind_not_importable", "Missing"),
    ],
)
def test_a_kind_that_cannot_be_had_says_why(
    monkeypatch: pytest.MonkeyPatch, name: str, values: str, reason: str, message: str
) -> None:
    publish(monkeypatch, **{name: values})
    with pytest.raises(FunctionUnavailableError, match=message) as caught:
        kind_named(name)
    assert caught.value.reason == reason
    assert classify(caught.value).error_type == "function_unavailable"


def test_the_same_package_found_twice_is_one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install beside a built one lists its entry points twice."""
    publish(monkeypatch, magic="gen_worker.kinds:INFERENCE gen_worker.kinds:INFERENCE")
    assert kind_named("magic") is INFERENCE
