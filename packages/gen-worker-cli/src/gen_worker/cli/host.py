"""The laptop as a host: the engine over local ports, as the command's options ask."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.project import Endpoint
    from gen_worker.ports import Events
    from gen_worker.runtime import Engine

__all__ = ["new_request_id", "open_engine"]


def open_engine(
    endpoint: Endpoint, args: argparse.Namespace, *, events: Events | None = None
) -> Engine:
    """Build the engine behind `run`, `serve` and `repl`; nothing is set up yet.

    Args:
        endpoint: The imported project.
        args: Has the options of `add_host_options`, and maybe `output`.
        events: Where context events go; stderr when None.
    """
    from gen_worker.cli.reports import open_reports
    from gen_worker.runtime import Engine
    from gen_worker.runtime.local import local_ports

    ports = local_ports(
        events=events or open_reports(),
        output_dir=getattr(args, "output", None),
        offline=args.offline,
        allow_publish=args.allow_publish,
    )
    devices = (args.device,) if args.device else ("cpu",)
    return Engine(endpoint.functions, ports, devices=devices)


def new_request_id() -> str:
    return f"local-{os.urandom(4).hex()}"
