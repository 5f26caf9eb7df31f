"""The meta-package installs the set that was tested together, and nothing heavy."""

import importlib
import os
import re
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest

PARTS = ("errors", "models", "runtime", "trainer", "conversion", "cli")
PACKAGES = ("core", "models", "runtime", "trainer", "conversion", "cli")
HEAVY = ("PIL", "diffusers", "numpy", "pyarrow", "soundfile", "torch", "transformers")
README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("package", [f"gen-worker-{name}" for name in PACKAGES])
def test_each_package_is_pinned_to_the_version_installed_with_it(package: str) -> None:
    pins = [re.sub(r"\[.*\]", "", pin) for pin in requires("gen-worker") or []]
    assert f"{package}=={version(package)}" in pins


def test_the_version_is_one_that_authors_already_ask_for() -> None:
    major, minor, *_ = map(int, version("gen-worker").split("."))
    assert (major, minor) >= (0, 9)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_imports_without_heavy_libraries(part: str) -> None:
    importlib.import_module(f"gen_worker.{part}")
    code = f"import gen_worker.{part}, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (loaded.stdout.split(), loaded.returncode) == ([], 0), loaded.stderr


def test_the_command_is_installed() -> None:
    command = [os.path.join(os.path.dirname(sys.executable), "gen-worker"), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert version("gen-worker") in answer.stdout


def test_the_readme_lists_every_extra() -> None:
    extras = set(metadata("gen-worker").get_all("Provides-Extra") or [])
    listed = re.findall(r"^\| `([a-z0-9]+)` \|", README.read_text(), flags=re.M)
    assert set(listed) == extras
