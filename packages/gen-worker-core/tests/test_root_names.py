"""`gen_worker` itself: every public name, loaded at first use, or an error that says what to do."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gen_worker

HEAVY = ("asyncio", "inspect", "dataclasses", "logging", "json", "importlib.metadata", "tomllib")


def run(code: str) -> str:
    """Run `code` in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_root_imports_nothing_else() -> None:
    code = """
import sys, gen_worker
print([name for name in sys.modules if name.startswith(("gen_worker", "msgspec"))])
"""
    assert run(code) == "['gen_worker']"


def test_what_every_endpoint_imports_adds_nothing_heavy_to_msgspec() -> None:
    code = f"""
import sys, msgspec
before = set(sys.modules)
from gen_worker import inference_function, RequestContext, ValidationError
print(sorted((set(sys.modules) - before) & set({HEAVY!r})))
"""
    assert run(code) == "[]"


def test_a_function_endpoint_loads_no_class_machinery() -> None:
    code = """
import sys
from gen_worker import inference_function
print("gen_worker.endpoint.classes" in sys.modules, "gen_worker.models" in sys.modules)
"""
    assert run(code) == "False False"


# `conversion` is also a package above this one, which takes the name over when it is imported.
CORE_NAMES = [
    name
    for name, (_, package) in gen_worker._EXPORTS.items()
    if package == "gen-worker-core" and name not in ("conversion", "errors", "io")
]


@pytest.mark.parametrize("name", CORE_NAMES)
def test_every_core_name_loads(name: str) -> None:
    module, _ = gen_worker._EXPORTS[name]
    assert getattr(gen_worker, name) is getattr(sys.modules[module], name)
    assert name in dir(gen_worker)


@pytest.mark.parametrize("name", ["errors", "io"])
def test_submodules_need_no_import_of_their_own(name: str) -> None:
    assert run(f"import gen_worker as gw; print(gw.{name}.__name__)") == f"gen_worker.{name}"


def test_a_name_of_a_package_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    novelty = ("gen_worker.novelty", "gen-worker-novelty")
    monkeypatch.setitem(gen_worker._EXPORTS, "Novelty", novelty)
    with pytest.raises(ImportError, match=r'Novelty is part of .*: install "gen-worker-novelty"'):
        getattr(gen_worker, "Novelty")  # noqa: B009


def test_a_submodule_of_a_package_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(gen_worker._EXPORTS, "novelty", ("gen_worker", "gen-worker-novelty"))
    with pytest.raises(ImportError, match='install "gen-worker-novelty"'):
        getattr(gen_worker, "novelty")  # noqa: B009


@pytest.mark.parametrize("module", ["gen_worker.novelty", "gen_worker.errors"])
def test_a_name_an_installed_package_does_not_have_names_the_installed_version(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(gen_worker._EXPORTS, "Novelty", (module, "gen-worker-core"))
    with pytest.raises(ImportError, match=r"needs a newer gen-worker-core: \d+\.\d+"):
        getattr(gen_worker, "Novelty")  # noqa: B009


def test_a_missing_library_below_a_name_is_reported_as_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(gen_worker._EXPORTS, "Novelty", ("needs_more", "gen-worker-core"))
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        getattr(gen_worker, "Novelty")  # noqa: B009


@pytest.mark.parametrize("name", sorted(gen_worker._GONE))
def test_names_that_moved_say_where_to(name: str) -> None:
    with pytest.raises(ImportError, match=f"gen_worker.{name} is gone: "):
        getattr(gen_worker, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gen_worker.nonsense  # type: ignore[attr-defined]


def test_a_star_import_offers_what_is_installed() -> None:
    code = "from gen_worker import *; print(inference_function.__name__, Asset.__name__)"
    assert run(code) == "inference_function Asset"


def test_type_checkers_see_the_same_table() -> None:
    """The names under TYPE_CHECKING are the table."""
    source = Path(str(gen_worker.__file__)).read_text()
    shown = {
        (alias.asname, node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gen_worker")
        for alias in node.names
    }
    table = {(name, module) for name, (module, _) in gen_worker._EXPORTS.items()}
    assert shown == table


def test_no_submodule_hides_a_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(gen_worker.__path__)}
    names = {name for name, (module, _) in gen_worker._EXPORTS.items() if module != "gen_worker"}
    assert modules & names <= {"conversion"}
