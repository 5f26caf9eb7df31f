"""What the command line reads from its surroundings."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gen_worker.settings import Setting

__all__ = ["CliSettings"]


class CliSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the `gen-worker` command."""

    no_color: Annotated[
        str,
        Setting(
            env="NO_COLOR",
            group="local",
            meaning="anything here means no colour at a terminal (see no-color.org)",
        ),
    ] = ""
