"""`python -m gen_worker.testing.http_runner`: an endpoint on a laptop, answering over HTTP.

No token is asked for on any address. Statuses are 200, 400, 404 and 500; everything else is as in
`gen-worker serve --http`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from gen_worker.context.local import LocalOutputs, run_blocking
from gen_worker.errors import SettingsError, ValidationError, WorkerError
from gen_worker.manifest import IMAGE_LOCK_PATH, load_lock
from gen_worker.models.keyed import with_keyspaces
from gen_worker.names import slugify_name
from gen_worker.ports import Ports
from gen_worker.runtime.engine import Engine, EngineLimits
from gen_worker.runtime.entry.directories import check_writable
from gen_worker.runtime.http import (
    HttpApp,
    HttpOptions,
    LocalBackend,
    LocalFileRoom,
    LocalModelRoom,
    open_listener,
    open_local_files,
    parse_http_address,
    serve_app,
    url_of,
)
from gen_worker.runtime.http.settings import HttpRunnerSettings
from gen_worker.runtime.local import JsonLineEvents, LocalModels, StubPublisher
from gen_worker.runtime.loop import run
from gen_worker.runtime.stopping import StopSignals
from gen_worker.settings import load, load_settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from gen_worker.errors import Failure
    from gen_worker.manifest import Manifest
    from gen_worker.models.injection import Keyspaces
    from gen_worker.project import Project
    from gen_worker.runtime.ndjson.address import TcpAddress, UnixAddress
    from gen_worker.settings import CoreSettings
    from gen_worker.spec import FunctionSpec

__all__ = ["main"]

_ENDPOINT = "endpoint.toml"
_OWNER = "local-dev"
_GRACE_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop; return the exit code."""
    signals = StopSignals()
    try:
        with signals.watching():
            return _main(arguments, signals)
    except WorkerError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return signals.exit_code


def _main(arguments: Sequence[str] | None, signals: StopSignals) -> int:
    settings = load_settings()
    args = _parser(load(HttpRunnerSettings), settings).parse_args(arguments)
    _check_outputs(args.outputs)
    address = args.listen
    with open_listener(address) as listener:
        name, functions = _import_endpoint(args.manifest, args.endpoint_root)
        if not address.is_private:
            _say(f"{address} is reachable from other machines, and no token is asked for")
        return run(_serve(args, settings, signals, listener, name, functions))


def _parser(defaults: HttpRunnerSettings, settings: CoreSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m gen_worker.testing.http_runner",
        description="Run an endpoint's functions on this machine, for requests over HTTP.",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_address,
        default=defaults.listen,
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--manifest",
        metavar="PATH",
        default=settings.lock_path or IMAGE_LOCK_PATH,
        help="endpoint.lock; without one the project's endpoint.toml counts (default: %(default)s)",
    )
    parser.add_argument(
        "--endpoint-root",
        metavar="DIR",
        default=defaults.endpoint_root,
        help="the project; it and its src are put on the import path (default: %(default)s)",
    )
    parser.add_argument(
        "--outputs",
        metavar="DIR",
        default=defaults.outputs,
        help="where outputs go, as jobs/<request_id>/outputs/... (default: %(default)s)",
    )
    return parser


def _address(text: str) -> TcpAddress | UnixAddress:
    try:
        return parse_http_address(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check_outputs(directory: str) -> None:
    """Fail before anything is imported rather than at the first output."""
    try:
        check_writable(directory)
    except OSError as error:
        reason = error.strerror or error
        problem = f"--outputs {directory!r} cannot be written, {reason}: name another directory"
        raise SettingsError((problem,)) from error


def _import_endpoint(manifest: str, root: str) -> tuple[str, tuple[FunctionSpec, ...]]:
    """Return the endpoint's name and its functions.

    Raises:
        SettingsError: There is neither a lock nor a project.
        ProblemsError: The lock or the project is wrong.
    """
    from gen_worker.discovery import discover

    project = os.path.join(root, _ENDPOINT)
    if not os.path.exists(manifest):
        if not os.path.exists(project):
            problem = (
                f"there is no lock, --manifest {manifest!r}, and no {_ENDPOINT} in "
                f"--endpoint-root {root!r}: name the project's directory, or its lock"
            )
            raise SettingsError((problem,))
        from gen_worker.project import load_project

        loaded = load_project(project)
        found = discover(root, loaded.main).raise_if_wrong().functions
        return loaded.endpoint_name, _with_refs(found, loaded)
    lock = load_lock(manifest)
    modules = lock.modules
    found = discover(root, modules, skip_broken=True).raise_if_wrong().functions
    name = ""
    if os.path.exists(project):
        from gen_worker.project import load_project

        name = load_project(project).endpoint_name
    return name or slugify_name(modules[0].partition(".")[0]), _with_refs(found, lock)


def _with_refs(
    functions: Sequence[FunctionSpec], declared: Manifest | Project
) -> tuple[FunctionSpec, ...]:
    """Return functions whose models are found by the keys of `[models]`."""

    def keyspaces(name: str) -> Keyspaces:
        return {"fixed": declared.models, "payload": declared.models_by_function.get(name, {})}

    return tuple(with_keyspaces(spec, partial(keyspaces, spec.name)) for spec in functions)


async def _serve(
    args: argparse.Namespace,
    settings: CoreSettings,
    signals: StopSignals,
    listener: socket.socket,
    name: str,
    functions: tuple[FunctionSpec, ...],
) -> int:
    events = JsonLineEvents(sys.stderr)
    files = open_local_files(args.outputs, events, lambda one: engine.token_of(one))
    models = LocalModels(events)
    publisher = StubPublisher(files, events)
    ports = Ports(files=files, events=events, models=models, publisher=publisher, run=run_blocking)
    limits = EngineLimits(
        max_input_bytes=settings.max_input_bytes,
        max_output_bytes=settings.max_output_bytes,
        max_output_delta_bytes=settings.max_output_delta_bytes,
        max_deltas=settings.max_output_delta_events,
    )
    devices = _devices(functions, settings.local_device)
    engine = Engine(functions, ports, limits=limits, devices=devices)
    backend = LocalBackend(
        engine,
        endpoint=name,
        files=LocalFileRoom(LocalOutputs(args.outputs)),
        models=LocalModelRoom(models, functions, devices[0]),
        device=settings.local_device or None,
        report=_report,
    )
    app = HttpApp(backend, HttpOptions(owner=_OWNER, is_plain=True), report=_report)
    stop = asyncio.Event()
    signals.stops(asyncio.get_running_loop(), stop)

    def ready() -> None:
        names = ", ".join(sorted(engine.functions))
        _say(f"listening on {url_of(listener)} (functions: {names})")

    try:
        await serve_app(app, listener, stop, ready=ready)
    finally:
        await engine.close(_GRACE_S)
        files.close()
    return 0


def _devices(functions: Sequence[FunctionSpec], chosen: str) -> tuple[str, ...]:
    """Return the chosen device, else every GPU when a function needs one, else the CPU."""
    if chosen:
        return (chosen,)
    if any(spec.resources.needs_gpu for spec in functions):
        try:
            torch = import_module("torch")
        except ImportError:
            return ("cpu",)
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) or ("cpu",)
    return ("cpu",)


def _report(failure: Failure) -> None:
    if failure.error_type != "canceled" and failure.detail:
        print(failure.detail.rstrip("\n"), file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(f"http_runner: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
