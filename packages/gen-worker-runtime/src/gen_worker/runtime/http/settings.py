"""What the dev HTTP runner reads from its surroundings."""

from __future__ import annotations

import os
from typing import Annotated

from gen_worker.settings import Setting, SettingsRecord

__all__ = ["HttpRunnerSettings"]


class HttpRunnerSettings(SettingsRecord, frozen=True, kw_only=True):
    """Settings of `python -m gen_worker.testing.http_runner`; its options are stronger."""

    listen: Annotated[
        str,
        Setting(
            env="GEN_WORKER_HTTP_LISTEN",
            group="local",
            meaning="host:port that the dev HTTP runner listens on",
        ),
    ] = "127.0.0.1:8081"
    endpoint_root: Annotated[
        str,
        Setting(
            env="GEN_WORKER_ENDPOINT_ROOT",
            group="local",
            meaning="project that the dev HTTP runner imports; it and its src are put on the path",
            parse=os.path.expanduser,
        ),
    ] = "/app"
    outputs: Annotated[
        str,
        Setting(
            env="GEN_WORKER_OUTPUT_DIR",
            group="local",
            meaning="directory that outputs of the dev HTTP runner go to",
            parse=os.path.expanduser,
        ),
    ] = "/outputs"
