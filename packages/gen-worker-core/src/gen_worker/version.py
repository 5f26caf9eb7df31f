"""Which gen-worker this is."""

from __future__ import annotations

import os
import sys

__all__ = ["sdk_version"]

_SUFFIX = ".dist-info"


def sdk_version() -> str:
    """Return the version of `gen-worker`, or of its core where only parts are installed.

    `unknown` when neither is installed.
    """
    for find in (_from_folder_name, _from_metadata):  # the slow way only where the quick one fails
        for distribution in ("gen-worker", "gen-worker-core"):
            version = find(distribution)
            if version is not None:
                return version
    return "unknown"


def _from_folder_name(distribution: str) -> str | None:
    """Read it off `<name>-<version>.dist-info`, as every installer names that folder.

    Importing `importlib.metadata` instead would hold up the first answer of `serve` by 30 ms.
    """
    prefix = f"{distribution.replace('-', '_')}-"
    for entry in sys.path:
        try:
            names = os.listdir(entry or os.curdir)
        except OSError:
            continue
        for name in names:
            if name.startswith(prefix) and name.endswith(_SUFFIX):
                return name[len(prefix) : -len(_SUFFIX)]
    return None


def _from_metadata(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
