"""The checks behind `gen-worker doctor`; each one looks and never changes anything."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Literal

import msgspec

from gen_worker.cli.failures import UsageError
from gen_worker.cli.sizes import size_text
from gen_worker.problems import ProblemsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from gen_worker.cli.fetching import Job
    from gen_worker.cli.project import Endpoint
    from gen_worker.problems import Problem
    from gen_worker.settings import CoreSettings

__all__ = ["Finding", "examine"]

_LOW_DISK_BYTES = 10 * 1024**3


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check saw."""

    level: Literal["ok", "warning", "blocker"]
    check: str
    message: str
    remedy: str = ""
    detail: str = ""
    """Traceback of the author's code, where there is one."""


def examine(args: argparse.Namespace) -> list[Finding]:
    """Run every check; one that cannot run because of an earlier one is left out."""
    from gen_worker.settings import load_settings

    findings = list(_check_settings())
    settings = load_settings(environ={}, files=()) if findings else load_settings()
    findings = findings or [Finding(level="ok", check="settings", message="all are understood")]
    endpoint, found = _open(args)
    findings += found
    findings += _check_python(os.path.dirname(os.path.abspath(args.config or "endpoint.toml")))
    models = _models(endpoint)
    if endpoint is not None:
        findings += _check_hardware(endpoint)
        findings += _check_tokens(models, settings)
        findings += _check_hub(models, settings)
    findings += _check_directories(settings, has_models=bool(models))
    findings += _check_leftovers(endpoint)
    return findings


def _check_settings() -> Iterator[Finding]:
    from gen_worker.settings import SettingsError, explain, records

    try:
        problems = [row.problem for _, record in records() for row in explain(record)]
    except SettingsError as error:
        problems = list(error.problems)
    for problem in filter(None, problems):
        yield Finding(
            level="blocker",
            check="settings",
            message=problem,
            remedy="correct it where it is set; `gen-worker env` shows where that is",
        )


def _open(args: argparse.Namespace) -> tuple[Endpoint | None, list[Finding]]:
    from gen_worker.cli.project import open_endpoint

    deadly = _deadly_import(args)
    if deadly:
        return None, deadly
    try:
        endpoint = open_endpoint(args)
    except ProblemsError as error:
        return None, [_from_problem(problem) for problem in error.problems]
    except UsageError as error:
        return None, [Finding(level="blocker", check="project", message=str(error))]
    from gen_worker.discovery.lock import function_entries

    _, problems = function_entries(endpoint.functions)
    if problems:
        return endpoint, [_from_problem(problem) for problem in problems]
    names = ", ".join(sorted(spec.registered_name for spec in endpoint.functions))
    return endpoint, [Finding(level="ok", check="project", message=f"functions: {names}")]


def _deadly_import(args: argparse.Namespace) -> list[Finding]:
    """Import the project in another process first: this one has to live to tell what it found."""
    config = args.config or "endpoint.toml"
    if args.module or not os.path.isfile(config):
        return []
    from gen_worker.discovery.isolated import build_lock
    from gen_worker.project import load_project

    try:
        build_lock(load_project(config))
    except ProblemsError as error:
        return [
            msgspec.structs.replace(_from_problem(problem), remedy=remedy)
            for problem in error.problems
            if (remedy := _REMEDIES_OF_DEADLY.get(problem.code))
        ]
    return []


_REMEDIES_OF_DEADLY = {
    "import_crashes": "import that module by itself to see why",
    "import_timeout": "move work out of module level",
}


def _from_problem(problem: Problem) -> Finding:
    place = f"{problem.file}:{problem.line}: " if problem.line else f"{problem.file}: "
    return Finding(
        level="blocker",
        check="project",
        message=f"{place if problem.file else ''}{problem.message} [{problem.code}]",
        remedy=problem.hint,
        detail=problem.detail,
    )


def _check_python(root: str) -> Iterator[Finding]:
    """Compare this interpreter with what the project says it needs."""
    import tomllib

    version = ".".join(map(str, sys.version_info[:2]))
    try:
        with open(os.path.join(root, "pyproject.toml"), "rb") as file:
            needed = tomllib.load(file).get("project", {}).get("requires-python", "")
    except OSError:
        needed = ""
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield Finding(
            level="blocker",
            check="python",
            message=f"pyproject.toml is not valid TOML: {error}",
            remedy="correct it",
        )
        return
    minimum = _lower_bound(needed)
    if minimum and sys.version_info[:2] < minimum:
        yield Finding(
            level="blocker",
            check="python",
            message=f"this is Python {version}, the project needs {needed!r}",
            remedy=f"run it with Python {minimum[0]}.{minimum[1]} or newer",
        )
        return
    yield Finding(level="ok", check="python", message=f"Python {version} at {sys.executable}")


def _lower_bound(specifier: object) -> tuple[int, ...] | None:
    import re

    match = re.search(r">=\s*(\d+)\.(\d+)", str(specifier))
    return tuple(int(part) for part in match.groups()) if match else None


def _check_hardware(endpoint: Endpoint) -> Iterator[Finding]:
    from gen_worker.cli.gpus import find_gpus
    from gen_worker.host_requirements import HostFacts, missing_host_requirements

    gpus = find_gpus()
    for spec in endpoint.functions:
        for gap in missing_host_requirements(spec.resources, HostFacts(gpus=gpus)):
            yield Finding(
                level="blocker",
                check="hardware" if gap.reason != "missing_optional_library" else "libraries",
                message=f"{spec.registered_name}: {gap.detail} [{gap.reason}]",
                remedy=_remedy(gap.reason),
            )
    described = ", ".join(f"{gpu.vram_gb:g} GiB (sm {gpu.compute_capability})" for gpu in gpus)
    yield Finding(level="ok", check="gpu", message=described or "none found")


def _remedy(reason: str) -> str:
    if reason == "missing_optional_library":
        return 'add it to the project\'s dependencies, such as "gen-worker[torch]" for torch'
    if reason == "cuda_unavailable":
        return "run on a machine with an NVIDIA GPU and its driver (`nvidia-smi` must work)"
    return "run on a larger or newer GPU, or lower the function's `resources`"


def _models(endpoint: Endpoint | None) -> tuple[Job, ...]:
    """Return every model the project declares."""
    if endpoint is None or not any(spec.bindings for spec in endpoint.functions):
        return ()
    from gen_worker.cli.fetching import plan

    return plan(endpoint, all_variants=True).jobs


def _check_tokens(models: tuple[Job, ...], settings: CoreSettings) -> Iterator[Finding]:
    if any(model.provider == "hf" for model in models) and not settings.hf_token:
        yield Finding(
            level="warning",
            check="tokens",
            message="HF_TOKEN is not set, and models come from Hugging Face",
            remedy="set it if one of them is gated or private",
        )


def _check_hub(models: tuple[Job, ...], settings: CoreSettings) -> Iterator[Finding]:
    """Name the models that only a hub could bring, where none is configured."""
    wanted = [model for model in models if model.provider == "tensorhub"]
    if not wanted:
        return
    from gen_worker.models.assembly import open_store
    from gen_worker.models.settings import ModelSettings, load_model_settings
    from gen_worker.models.sources import open_sources
    from gen_worker.settings import SettingsError

    try:
        model_settings = load_model_settings()
    except SettingsError:  # told by an earlier check
        model_settings = ModelSettings()
    if model_settings.hub_url:
        return
    store = open_store(settings.cas_dir, model_settings)
    with open_sources(store, model_settings, is_offline=True) as sources:
        for model in wanted:
            if sources.find(model.choice) is None:
                yield Finding(
                    level="blocker",
                    check="models",
                    message=f"{model.ref} is not on this machine, and no hub is configured",
                    remedy="set TENSORHUB_URL; `gen-worker hub serve` is a hub of your own",
                )


def _check_directories(settings: CoreSettings, *, has_models: bool) -> Iterator[Finding]:
    import shutil

    for check, path in (("cache", settings.cache_dir), ("outputs", settings.local_output_dir)):
        existing = _nearest_existing(path)
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK):
            yield Finding(
                level="blocker",
                check=check,
                message=f"{path!r} cannot be written",
                remedy=f"make {existing!r} a writable folder, or set {_SETTING_OF[check]}",
            )
            continue
        free = shutil.disk_usage(existing).free
        is_low = check == "cache" and has_models and free < _LOW_DISK_BYTES
        yield Finding(
            level="warning" if is_low else "ok",
            check=check,
            message=f"{path!r} has {size_text(free)} free",
            remedy="models may not fit: free some space, or set TENSORHUB_CACHE_DIR"
            if is_low
            else "",
        )


_SETTING_OF = {"cache": "TENSORHUB_CACHE_DIR", "outputs": "GEN_WORKER_LOCAL_OUTPUT_DIR"}


def _nearest_existing(path: str) -> str:
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _check_leftovers(endpoint: Endpoint | None) -> Iterator[Finding]:
    from gen_worker.cli.attach import sidecar_of
    from gen_worker.cli.serve import DEFAULT_SOCKET
    from gen_worker.runtime.ndjson.address import parse_address
    from gen_worker.runtime.ndjson.client import Client, NoServerError

    try:
        is_socket = stat.S_ISSOCK(os.lstat(DEFAULT_SOCKET).st_mode)
    except OSError:
        return
    if not is_socket:
        yield Finding(
            level="blocker",
            check="socket",
            message=f"./{DEFAULT_SOCKET} is not a socket, so `serve` cannot listen there",
            remedy="move it away",
        )
        return
    try:
        Client(DEFAULT_SOCKET).close()
    except NoServerError:
        yield Finding(
            level="warning",
            check="socket",
            message=f"./{DEFAULT_SOCKET} was left by a server that is gone",
            remedy="nothing to do: the next `gen-worker serve` replaces it",
        )
        return
    served = sidecar_of(parse_address(DEFAULT_SOCKET))
    foreign = endpoint is not None and served.get("root") not in (None, endpoint.root)
    yield Finding(
        level="warning" if foreign else "ok",
        check="socket",
        message=f"a server is running here (pid {served.get('pid')})"
        + (f", of another project: {served.get('root')}" if foreign else ""),
        remedy="give --socket to `serve` and `invoke`" if foreign else "",
    )
