"""Who shares components with whom, while pipelines of variants come and go."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from gen_worker.models import variants
from gen_worker.models.loading import LoadedComponentKey
from gen_worker.models.variants import Variants

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[str], Any]


class Pipeline:
    def __init__(self, vae: Any, unet: Any) -> None:
        self.vae = vae
        self.unet = unet


class FakePart(NamedTuple):
    name: str
    is_shared: bool

    def plan(self, device: str) -> str:
        return self.name

    def key(self, device: str) -> LoadedComponentKey:
        return LoadedComponentKey(ref=f"acme/{self.name}", component_set=(self.name,))


class Loaded(NamedTuple):
    object: Any


class Residency:
    def __init__(self) -> None:
        self.present: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        return self.present.get(name)


@pytest.fixture
def residency() -> Residency:
    return Residency()


@pytest.fixture
def known(residency: Residency) -> Variants:
    return Variants(residency)  # type: ignore[arg-type]


@pytest.fixture
def make(known: Variants, residency: Residency, monkeypatch: pytest.MonkeyPatch) -> Make:
    def load(plan: str, **_: Any) -> Loaded:
        return Loaded([plan])

    def build(shared: dict[str, Any], cls: Any, **own: Any) -> Any:
        return cls(**shared, **own)

    monkeypatch.setattr(variants, "load", load)
    monkeypatch.setattr(variants, "build_function_owned_pipeline", build)
    parts: Any = (FakePart("vae", True), FakePart("unet", False))

    def made(name: str) -> Any:
        residency.present[name] = known.build(
            name, Pipeline, parts, device="cpu", token=None, tell=None
        )
        return residency.present[name]

    return made


def test_variants_are_companions_while_both_are_loaded(
    make: Make, known: Variants, residency: Residency
) -> None:
    first, second = make("first"), make("second")
    assert first.vae is second.vae
    assert first.unet is not second.unet
    assert known.companions("first") == {"second": second}
    del residency.present["second"], second
    assert known.companions("first") == {}


def test_a_successor_of_the_same_name_stays_a_companion(make: Make, known: Variants) -> None:
    old, other = make("first"), make("second")
    new = make("first")
    del old  # collected after its successor came
    assert known.companions("second") == {"first": new}
    assert other.vae is new.vae


def test_the_last_one_takes_the_shared_components_with_it(
    make: Make, known: Variants, residency: Residency
) -> None:
    vae = make("first").vae
    residency.present.clear()
    assert make("first").vae is not vae
    assert known.companions("first") == {}


def test_a_pipeline_that_is_collected_inside_blocks_nobody(
    make: Make, known: Variants, residency: Residency
) -> None:
    """The collector runs where it likes: in a thread that is about to ask for companions, too."""
    doomed = [make("first")]
    residency.present.clear()

    def ask() -> None:
        with known._lock:
            doomed.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
