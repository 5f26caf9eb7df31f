"""What a container becomes: modes come from installed packages, or from the caller itself."""

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from gen_worker.errors import SettingsError
from gen_worker.modes import MODE_GROUP, mode_named

KNOWN = "gen_worker.modes:mode_named"


def publish(monkeypatch: pytest.MonkeyPatch, *modes: tuple[str, str]) -> None:
    """Let the installed packages publish these modes."""

    def entry_points(*, group: str) -> EntryPoints:
        assert group == MODE_GROUP
        return EntryPoints(EntryPoint(name, value, group) for name, value in modes)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def test_a_known_mode_needs_no_look_at_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.metadata, "entry_points")
    assert mode_named("own", known={"own": KNOWN}) is mode_named  # type: ignore[comparison-overlap]


def test_a_published_mode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, ("trainer", KNOWN), ("other", "no.such:thing"), ("trainer", KNOWN))
    assert mode_named("trainer") is mode_named  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    ("name", "modes", "message"),
    [
        ("trainer", [], "WORKER_MODE 'trainer': install 'gen-worker-trainer'"),
        ("inference", [], "WORKER_MODE 'inference': install 'gen-worker-runtime'"),
        ("x", [("y", KNOWN)], "WORKER_MODE must be inference or trainer or y, not 'x'"),
        ("x", [("x", "a:b"), ("x", "c:d")], "published more than once, by a:b, c:d"),
    ],
)
def test_a_mode_nobody_has_or_several_have(
    monkeypatch: pytest.MonkeyPatch, name: str, modes: list[tuple[str, str]], message: str
) -> None:
    publish(monkeypatch, *modes)
    with pytest.raises(SettingsError, match=message):
        mode_named(name)
