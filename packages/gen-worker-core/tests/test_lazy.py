"""A package's public names, each loaded at first use."""

import sys
from pathlib import Path

import pytest

INIT = """
from gen_worker.lazy import lazy_names
__all__ = ["ONE", "TWO"]
__getattr__, __dir__ = lazy_names(__name__, {"numbers": ("ONE", "TWO"), "absent": ("THREE",)})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "lazy_sample"
    folder.mkdir()
    (folder / "__init__.py").write_text(INIT)
    (folder / "numbers.py").write_text("ONE, TWO = 1, 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("lazy_sample", "lazy_sample.numbers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder.name


def test_a_name_loads_its_module_and_stays(package: str) -> None:
    loaded = __import__(package)
    assert f"{package}.numbers" not in sys.modules
    assert loaded.TWO == 2
    assert f"{package}.numbers" in sys.modules
    assert vars(loaded)["TWO"] == 2
    assert "ONE" not in vars(loaded)


def test_all_names_are_listed_and_star_imported(package: str) -> None:
    loaded = __import__(package)
    assert {"ONE", "TWO", "THREE"} <= set(dir(loaded))
    scope: dict[str, object] = {}
    exec(f"from {package} import *", scope)
    assert (scope["ONE"], scope["TWO"]) == (1, 2)


def test_what_is_missing_is_named(package: str) -> None:
    loaded = __import__(package)
    with pytest.raises(AttributeError, match="module 'lazy_sample' has no attribute 'FOUR'"):
        _ = loaded.FOUR
    with pytest.raises(ModuleNotFoundError, match=r"lazy_sample\.absent"):
        _ = loaded.THREE
