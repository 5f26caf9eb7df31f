"""Which gen-worker this is."""

from __future__ import annotations

__all__ = ["sdk_version"]


def sdk_version() -> str:
    """Return the version of `gen-worker`, or of its core where only parts are installed.

    `unknown` when neither is installed. Reads package metadata, which takes tens of milliseconds.
    """
    from importlib.metadata import PackageNotFoundError, version

    for distribution in ("gen-worker", "gen-worker-core"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
