"""The laptop as a host: the engine over local ports, as the command's options ask."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from gen_worker.cancel import CancelToken
    from gen_worker.cli.project import Endpoint
    from gen_worker.ports import Events, Ports
    from gen_worker.runtime import Engine, EngineLimits, Invocation
    from gen_worker.spec import FunctionSpec

__all__ = [
    "chosen_device",
    "local_owner",
    "new_invocation",
    "open_engine",
    "open_ports",
    "published_ports",
    "tell_gaps",
]


def open_engine(
    endpoint: Endpoint,
    args: argparse.Namespace,
    *,
    events: Events | None = None,
    allow_local_files: bool = True,
    ports: Ports | None = None,
) -> Engine:
    """Build the engine behind `run`, `serve` and `repl`; nothing is set up yet.

    Args:
        endpoint: The imported project.
        args: Has the options of `add_host_options`, and maybe `output`.
        events: Where context events go; stderr when None.
        allow_local_files: Whether payloads may name files of this machine; False where callers
            may sit at another one.
        ports: The host, where it was opened already.
    """
    from gen_worker.runtime import Engine

    if ports is None:
        ports = open_ports(args, events=events, allow_local_files=allow_local_files)
        if args.allow_publish:
            ports = published_ports(ports, lambda request_id: engine.token_of(request_id))
    engine = Engine(endpoint.functions, ports, limits=_limits(), devices=_devices(endpoint, args))
    return engine


def open_ports(
    args: argparse.Namespace, *, events: Events | None = None, allow_local_files: bool = True
) -> Ports:
    """Return this machine as a host that publishes nothing; see `open_engine`.

    Raises:
        UsageError: It is to publish, and never to use the network.
    """
    from gen_worker.cli.reports import open_reports
    from gen_worker.runtime.local import local_ports

    if args.offline and args.allow_publish:
        from gen_worker.cli.failures import UsageError

        raise UsageError("--allow-publish needs the network: leave --offline out")
    return local_ports(
        offline=args.offline,
        output_dir=getattr(args, "output", None),
        events=events or open_reports(),
        allow_local_files=allow_local_files,
    )


def published_ports(ports: Ports, find_token: Callable[[str], CancelToken | None]) -> Ports:
    """Return ports that publish to the hub of this machine's user.

    Args:
        ports: Without one.
        find_token: Says what ends the transfers of a request.
    """
    from gen_worker.cli.hub import users_hub
    from gen_worker.runtime.local.publishing import publishing_ports

    url, token = users_hub()
    return publishing_ports(ports, url=url, token=token, find_token=find_token)


def _limits() -> EngineLimits:
    """Return the engine's bounds with the sizes that the settings allow."""
    from gen_worker.runtime import EngineLimits
    from gen_worker.settings_sources import default_sources

    # Reading the settings takes a tenth of a short `run`, and mostly nobody has said anything.
    if not any(name.startswith("WORKER_MAX_") for name in os.environ) and not default_sources():
        return EngineLimits()
    from gen_worker.settings import load_settings

    settings = load_settings()
    return EngineLimits(
        max_input_bytes=settings.max_input_bytes,
        max_output_bytes=settings.max_output_bytes,
        max_output_delta_bytes=settings.max_output_delta_bytes,
        max_deltas=settings.max_output_delta_events,
    )


def chosen_device(endpoint: Endpoint, args: argparse.Namespace) -> str | None:
    """Return what `--device`, else GEN_WORKER_LOCAL_DEVICE says; None when neither is given."""
    if args.device:
        return str(args.device)
    if not _needs_gpu(endpoint) and not _has_torch():
        return None  # nobody could ask for it, and reading the settings takes a while
    from gen_worker.settings import load_settings

    return load_settings().local_device or None


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _needs_gpu(endpoint: Endpoint) -> bool:
    return any(spec.resources.needs_gpu for spec in endpoint.functions)


def tell_gaps(spec: FunctionSpec) -> None:
    """Say on stderr what a function asks for and this machine lacks; it is tried all the same."""
    if not spec.resources.needs_gpu and not spec.resources.required_libraries:
        return
    from gen_worker.cli.gpus import find_gpus
    from gen_worker.host_requirements import HostFacts, missing_host_requirements

    gpus = find_gpus() if spec.resources.needs_gpu else ()
    for gap in missing_host_requirements(spec.resources, HostFacts(gpus=gpus)):
        text = f"{spec.registered_name} may fail on this machine: {gap.detail} [{gap.reason}]"
        print(f"gen-worker: {text}", file=sys.stderr, flush=True)


def _devices(endpoint: Endpoint, args: argparse.Namespace) -> tuple[str, ...]:
    """Return the chosen device, else every GPU when a function needs one, else the CPU."""
    chosen = chosen_device(endpoint, args)
    if chosen:
        return (chosen,)
    if _needs_gpu(endpoint):
        from gen_worker.cli.gpus import find_gpus

        return tuple(f"cuda:{index}" for index in range(len(find_gpus()))) or ("cpu",)
    return ("cpu",)


def new_invocation(
    spec: FunctionSpec,
    payload: Mapping[str, Any],
    *,
    device: str | None = None,
    timeout_s: float | None = None,
) -> Invocation:
    """Return a call of this machine's user, with an id of its own."""
    import msgspec

    from gen_worker.runtime import Invocation

    request_id = f"local-{os.urandom(4).hex()}"
    return Invocation(
        result_format="json",  # what cannot be sent in production fails here, too
        function=spec.name,
        payload=msgspec.json.encode(payload),
        request_id=request_id,
        job_id=request_id,
        owner=local_owner(),
        timeout_ms=None if timeout_s is None else max(1, int(timeout_s * 1000)),
        device=device,
    )


def local_owner() -> str:
    """Return who is logged in, as every shell tells; not a setting."""
    return os.environ.get("USER") or "local-dev"
