"""The laptop as a host: the engine over local ports, as the command's options ask."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from gen_worker.cli.project import Endpoint
    from gen_worker.ports import Events, Ports
    from gen_worker.runtime import Engine

__all__ = ["chosen_device", "new_request_id", "open_engine", "open_ports"]


def open_engine(
    endpoint: Endpoint,
    args: argparse.Namespace,
    *,
    events: Events | None = None,
    allow_local_files: bool = True,
) -> Engine:
    """Build the engine behind `run`, `serve` and `repl`; nothing is set up yet.

    Args:
        endpoint: The imported project.
        args: Has the options of `add_host_options`, and maybe `output`.
        events: Where context events go; stderr when None.
        allow_local_files: Whether payloads may name files of this machine; False where callers
            may sit at another one.
    """
    from gen_worker.cli.reports import open_reports
    from gen_worker.runtime import Engine

    ports = open_ports(
        endpoint,
        offline=args.offline,
        allow_publish=args.allow_publish,
        output_dir=getattr(args, "output", None),
        events=events or open_reports(),
        allow_local_files=allow_local_files,
    )
    return Engine(endpoint.functions, ports, devices=_devices(endpoint, chosen_device(args)))


def chosen_device(args: argparse.Namespace) -> str | None:
    """Return what `--device`, else GEN_WORKER_LOCAL_DEVICE says; None when neither is given."""
    from gen_worker.settings import load_settings

    chosen: str | None = args.device
    return chosen or load_settings().local_device or None


def open_ports(
    endpoint: Endpoint,
    *,
    events: Events,
    offline: bool,
    allow_publish: bool = False,
    output_dir: str | None = None,
    allow_local_files: bool = True,
) -> Ports:
    from gen_worker.runtime.local import local_ports

    return local_ports(
        events=events,
        offline=offline,
        allow_publish=allow_publish,
        output_dir=output_dir,
        allow_local_files=allow_local_files,
    )


def _devices(endpoint: Endpoint, chosen: str | None) -> tuple[str, ...]:
    """Return the chosen device, else every GPU when a function needs one, else the CPU."""
    if chosen:
        return (chosen,)
    if any(spec.resources.needs_gpu for spec in endpoint.functions):
        from gen_worker.cli.gpus import find_gpus

        return tuple(f"cuda:{index}" for index in range(len(find_gpus()))) or ("cpu",)
    return ("cpu",)


def new_request_id() -> str:
    return f"local-{os.urandom(4).hex()}"
