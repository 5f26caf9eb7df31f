"""`WORKER_MODE=inference`: a worker that runs the functions of its image."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

from gen_worker.errors import AuthError, SettingsError
from gen_worker.manifest import IMAGE_LOCK_PATH, LockError, load_lock
from gen_worker.runtime.entry.directories import check_writable
from gen_worker.runtime.entry.unread import warn_of_unread
from gen_worker.runtime.telemetry.logs import log_fatal
from gen_worker.runtime.worker.phases import log_phase
from gen_worker.settings import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gen_worker.manifest import Manifest
    from gen_worker.runtime.worker.settings import WorkerSettings
    from gen_worker.settings import CoreSettings
    from gen_worker.spec import FunctionSpec

__all__ = ["run"]


def run(settings: CoreSettings) -> int:
    """Work until there is a reason to end; return the exit code."""
    gc.disable()  # what is imported stays; `run_worker` enables it again
    try:
        return _run(settings)
    finally:
        gc.enable()


def _run(settings: CoreSettings) -> int:
    warn_of_unread()
    places = (settings.lock_path,) if settings.lock_path else (IMAGE_LOCK_PATH, _own_lock_path())
    path = next((place for place in places if os.path.isfile(place)), places[0])
    manifest = _read_manifest(path)
    if not _can_cache(settings.cas_dir):
        return 1
    try:
        own = _load_settings(_problems_of(manifest, path, places))
    except SettingsError as error:
        return log_fatal("settings_load", error)
    assert manifest is not None, "one without modules is refused above"
    try:
        functions = _import_functions(manifest, _root_of(path))
    except Exception as error:
        return log_fatal("import", error)
    from gen_worker.runtime.worker.process import run_worker

    try:
        return run_worker(own, functions, manifest=manifest)
    except AuthError as error:
        problem = f"WORKER_JWT, checked with the keys of SCHEDULER_JWKS_URL: {error}"
        return log_fatal("settings_load", SettingsError((problem,)))
    except Exception as error:
        return log_fatal("runtime", error)


def _own_lock_path() -> str:
    """Return where the lock of a project is that is the current directory."""
    return os.path.join(os.getcwd(), *IMAGE_LOCK_PATH.split("/")[-2:])


def _read_manifest(path: str) -> Manifest | None:
    try:
        manifest = load_lock(path)
    except LockError as error:
        reason = "missing_or_invalid_manifest"
        log_phase("manifest_loaded", "error", reason=reason, detail=str(error))
        return None
    log_phase(
        "manifest_loaded",
        path=path,
        functions=len(manifest.functions),
        modules=len(manifest.modules),
        models=len(manifest.models),
    )
    return manifest


def _can_cache(directory: str) -> bool:
    """Tell whether models can be kept, and log it either way."""
    facts = {"label": "TENSORHUB_CAS_DIR", "path": directory}
    log_phase("cache_preflight_started", **facts)
    try:
        check_writable(directory)
    except OSError as error:
        log_phase("cache_preflight_failed", "error", reason=str(error), **facts)
        return False
    log_phase("cache_preflight_ok", **facts)
    return True


def _problems_of(manifest: Manifest | None, path: str, places: Sequence[str]) -> list[str]:
    """Return what is wrong with a lock: a worker cannot do without modules."""
    if manifest is not None and manifest.modules:
        return []
    wrong = f"{path!r} names no functions"
    if not os.path.exists(path):
        wrong = f"there is no endpoint.lock at {' or '.join(map(repr, places))}"
    return [
        f"{wrong}: build it with `python -m gen_worker.discover`, or set GEN_WORKER_LOCK to "
        "where it is"
    ]


def _load_settings(problems: list[str]) -> WorkerSettings:
    """Return how the worker connects and works.

    Args:
        problems: What is wrong already.

    Raises:
        SettingsError: That, what is missing, and all that is not understood.
    """
    from gen_worker.models.settings import ModelSettings
    from gen_worker.runtime.files.settings import FileSettings
    from gen_worker.runtime.telemetry.settings import load_telemetry_settings
    from gen_worker.runtime.worker.settings import WorkerSettings

    own = load(WorkerSettings, on_problem=problems.append)
    for record in (ModelSettings, FileSettings):
        load(record, on_problem=problems.append)
    metrics_address = load_telemetry_settings().metrics_addr
    if metrics_address:
        from gen_worker.runtime.telemetry.listener import parse_metrics_address

        try:
            parse_metrics_address(metrics_address)
        except SettingsError as error:
            problems.extend(error.problems)
    if own.address or own.more_addresses:
        try:
            if any(seed.uses_tls for seed in own.policy().seeds):
                problems.extend(_certificate_problems())
        except SettingsError as error:
            problems.extend(error.problems)
    else:
        problems.append(
            "there is no orchestrator to connect to: set PUBLIC_ORCHESTRATOR_GRPC_ADDR to its "
            "host:port"
        )
    if not own.token:
        problems.append("there is no token to connect with: set WORKER_JWT")
    if own.jwks_url and not own.jwks_url.startswith(("http://", "https://")):
        problems.append("SCHEDULER_JWKS_URL is no URL: write https://host/path")
    if problems:
        raise SettingsError(tuple(problems))
    return own


def _certificate_problems() -> list[str]:
    """Return what is wrong with the file of certificates; without it others would be trusted."""
    import ssl  # only for those who use TLS, as it takes some megabytes

    name = ssl.get_default_verify_paths().openssl_cafile_env
    path = os.environ.get(name)
    return [] if not path or os.path.isfile(path) else [f"{name} names no file: {path!r}"]


def _root_of(path: str) -> str:
    """Return the project's directory: the one that has `.tensorhub/endpoint.lock`, or this one."""
    folder = os.path.dirname(os.path.abspath(path))
    is_usual = os.path.basename(folder) == os.path.basename(os.path.dirname(IMAGE_LOCK_PATH))
    return os.path.dirname(folder) if is_usual else os.getcwd()


def _import_functions(manifest: Manifest, root: str) -> tuple[FunctionSpec, ...]:
    """Import what the lock names; a broken module that it does not name only warns.

    Raises:
        DiscoveryError: One that it names is broken, or a function is wrong.
    """
    from gen_worker.discovery.walk import DiscoveryError, discover

    discovery = discover(root, manifest.modules, skip_broken=True)
    for warning in discovery.warnings:
        log_phase("module_skipped", "error", detail=str(warning))
    # Without any function the worker still connects, and refuses every job.
    grave = [problem for problem in discovery.problems if problem.code != "nothing_found"]
    if grave:
        raise DiscoveryError(grave)
    return discovery.functions
