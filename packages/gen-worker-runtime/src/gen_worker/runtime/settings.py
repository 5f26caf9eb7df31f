"""What the runtime reads from its surroundings."""

from __future__ import annotations

from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord, load

__all__ = ["RuntimeSettings", "serve_token"]


class RuntimeSettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings of the servers in this package."""

    serve_token: Annotated[
        str,
        Setting(
            env="GEN_WORKER_SERVE_TOKEN",
            group="local",
            meaning="what frames must carry where `serve` listens beyond this machine",
            is_secret=True,
        ),
    ] = ""


def serve_token() -> str:
    """Return the configured token of `gen-worker serve`; empty when none is."""
    return load(RuntimeSettings).serve_token
