"""From a path to a `Project`, or to every mistake in its endpoint.toml."""

from __future__ import annotations

import os
import stat
from typing import Any

import msgspec

from gen_worker.problems import Problem, ProblemsError
from gen_worker.project import checks
from gen_worker.project.values import EndpointFile, Profile, Project, ResourceLimits

__all__ = ["ENDPOINT_FILE", "ProjectError", "load_project"]

ENDPOINT_FILE = "endpoint.toml"
MAX_FILE_BYTES = 256 * 1024


class ProjectError(ProblemsError):
    """The project's endpoint.toml is missing or wrong; `problems` lists every mistake."""


def load_project(path: str | os.PathLike[str] = ".") -> Project:
    """Read and check a project.

    Args:
        path: The project's directory, or an endpoint.toml (of any name) inside it.

    Raises:
        ProjectError: The file is missing, unreadable or wrong, with all its mistakes.
    """
    file = os.path.abspath(path)
    if os.path.isdir(file):
        file = os.path.join(file, ENDPOINT_FILE)
    text = _read(file)
    try:
        return _project(file, *_check(_parse(text, file)))
    except _Mistakes as error:
        from gen_worker.project.diagnosis import locate

        raise ProjectError(locate(error.problems, text, file)) from None
    except RecursionError:
        raise _invalid(file, "it is nested too deeply: flatten it") from None


class _Mistakes(ProblemsError):
    """Mistakes whose lines are not known yet."""


def _check(raw: dict[str, Any]) -> tuple[EndpointFile, checks.Keyspaces]:
    found = checks.unprintable(raw)
    try:
        declared = msgspec.convert(checks.with_text_capabilities(raw), EndpointFile)
    except (msgspec.ValidationError, UnicodeEncodeError):
        # One conversion stops at the first mistake: look again, slowly, for all of them.
        from gen_worker.project.diagnosis import readable_part, structural_problems

        found += structural_problems(raw)
        declared = readable_part(raw)
    found += checks.semantic_problems(declared)
    spaces = checks.Keyspaces()
    if declared.models:
        from gen_worker.project.models import parse_keyspaces

        spaces = parse_keyspaces(declared.models)
        found += spaces.problems
    if found:
        raise _Mistakes(found)
    return declared, spaces


def _project(file: str, declared: EndpointFile, spaces: checks.Keyspaces) -> Project:
    root = os.path.dirname(file)
    return Project(
        root=root,
        file=file,
        main=declared.main,
        name=checks.slugify_name(declared.name) if declared.name is not None else None,
        profiles=tuple(_canonical_profile(profile) for profile in declared.build.profiles),
        resources=_canonical_limits(declared.resources),
        host=declared.host.requirements,
        models=spaces.fixed,
        models_by_function=spaces.by_function,
        functions={
            checks.slugify_name(name): options for name, options in declared.functions.items()
        },
        has_dockerfile=os.path.isfile(os.path.join(root, "Dockerfile")),
    )


def _canonical_profile(profile: Profile) -> Profile:
    limits = profile.resources
    return msgspec.structs.replace(
        profile,
        cpu_arch="x86" if profile.cpu_arch == "amd64" else profile.cpu_arch,
        resources=_canonical_limits(limits) if limits is not None else None,
    )


def _canonical_limits(limits: ResourceLimits) -> ResourceLimits:
    memory_gb = limits.memory_gb if limits.memory_gb is not None else limits.ram_gb
    return msgspec.structs.replace(
        limits,
        memory_gb=memory_gb,
        ram_gb=None,
        min_compute_capability=limits.min_compute_capability or limits.cuda_compute_min,
        cuda_compute_min=None,
    )


def _read(file: str) -> str:
    try:
        facts = os.stat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise _unreadable(file, "toml_unreadable", "it is not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            reason = f"it has {facts.st_size} bytes, at most {MAX_FILE_BYTES} are read"
            raise _unreadable(file, "toml_too_large", reason)
        with open(file, "rb") as stream:
            return stream.read().decode().removeprefix("\ufeff")
    except FileNotFoundError:
        problem = Problem(
            code="toml_missing",
            message=f"there is no {os.path.basename(file)} in {os.path.dirname(file)!r}",
            hint="create one (`gen-worker init` does), or name the project's directory",
        )
        raise ProjectError([problem]) from None
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8: save the file as UTF-8"
        raise _unreadable(file, "toml_encoding", reason) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ProjectError):
            raise
        raise _unreadable(file, "toml_unreadable", str(error)) from error


def _unreadable(file: str, code: str, reason: str) -> ProjectError:
    name = os.path.basename(file)
    return ProjectError([Problem(code=code, message=f"{name} cannot be read, {reason}", file=file)])


def _parse(text: str, file: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
        raise _invalid(file, str(error), _line_in(str(error), text)) from None


def _invalid(file: str, reason: str, line: int = 0) -> ProjectError:
    message = f"not valid TOML, {reason}"
    return ProjectError([Problem(code="toml_syntax", message=message, file=file, line=line)])


def _line_in(message: str, text: str) -> int:
    if message.endswith("(at end of document)"):
        return text.rstrip("\n").count("\n") + 1
    _, _, place = message.rpartition("(at line ")
    number = place.partition(",")[0]
    return int(number) if number.isdecimal() else 0
