"""The version that commands and locks report."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import TYPE_CHECKING

from gen_worker.version import sdk_version

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def installed() -> str:
    for name in ("gen-worker", "gen-worker-core"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def test_it_is_what_the_package_metadata_says() -> None:
    assert sdk_version() == installed()


def test_the_first_installation_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, version in (("a", "9.1+local"), ("b", "9.2")):
        metadata = tmp_path / folder / f"gen_worker-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.4\nName: gen-worker\nVersion: {version}\n")
    (tmp_path / "a" / "gen_worker_extras-1.0.dist-info").mkdir()
    places = [str(tmp_path / name) for name in ("absent", "a", "b")]
    monkeypatch.setattr(sys, "path", [*places, *sys.path])
    assert sdk_version() == installed() == "9.1+local"


def test_metadata_that_is_no_folder_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gen_worker.egg-info").write_text(
        "Metadata-Version: 2.4\nName: gen-worker\nVersion: 7.5\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert sdk_version() == "7.5"


def test_it_is_unknown_where_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert sdk_version() == "unknown"


def test_an_installed_version_is_found_without_importlib_metadata() -> None:
    code = (
        "import sys; from gen_worker.version import sdk_version; sdk_version();"
        "print('importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
