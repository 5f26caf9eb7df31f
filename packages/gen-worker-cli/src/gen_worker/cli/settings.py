"""What the command line reads from its surroundings."""

from __future__ import annotations

from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord

__all__ = ["CliSettings"]


class CliSettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings of the `gen-worker` command."""

    no_color: Annotated[
        str,
        Setting(
            env="NO_COLOR",
            group="local",
            meaning="anything here means no colour at a terminal (see no-color.org)",
        ),
    ] = ""
    platform_url: Annotated[
        str,
        Setting(
            env="GEN_WORKER_URL",
            group="local",
            meaning="platform that deploy, promote, ps, requests and the like ask; empty is the "
            "one that runs on this machine",
        ),
    ] = ""
    platform_token: Annotated[
        str,
        Setting(
            env="GEN_WORKER_TOKEN",
            group="local",
            meaning="token that the platform wants, where it wants one",
            is_secret=True,
        ),
    ] = ""
