"""Rules of endpoint.toml that types cannot express. Pure: facts in, problems out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.names import slugify_name
from gen_worker.problems import Problem
from gen_worker.project.values import ModelEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gen_worker.project.values import EndpointFile, HostRequirements, Profile

__all__ = [
    "Keyspaces",
    "key_problem",
    "semantic_problems",
    "short",
    "slugify_name",
    "unprintable",
    "with_text_capabilities",
]

_CLAUSE = r"\s*(>=|<=|==|~=|>|<)?\s*[0-9]{1,4}(\.[0-9]{1,4}){0,2}(\.x)?\s*"
_MIN_PYTHON = (3, 11)
_CAPABILITY_KEYS = ("min_compute_capability", "cuda_compute_min")


class Keyspaces(msgspec.Struct, kw_only=True):
    """What `[models]` declares, and what is wrong with it."""

    fixed: dict[str, ModelEntry] = {}
    by_function: dict[str, dict[str, ModelEntry]] = {}
    problems: list[Problem] = []


def key_problem(code: str, key: str, message: str, hint: str = "") -> Problem:
    """Return a problem of one key; its line is looked up later."""
    return Problem(code=code, key=key, message=message, hint=hint)


def with_text_capabilities(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the file with numeric compute capabilities (8.0) as text, as older files write them.

    Only `[resources]` took them so; a profile's own table follows suit.
    """
    tables = [raw.get("resources"), *_profile_resources(raw)]
    for table in tables:
        for key in _CAPABILITY_KEYS if isinstance(table, dict) else ():
            value = table.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                table[key] = f"{value:.1f}" if abs(value) < 1000 else "inf"
    return raw


def _profile_resources(raw: Mapping[str, Any]) -> Iterator[Any]:
    build = raw.get("build")
    profiles = build.get("profiles") if isinstance(build, dict) else None
    for profile in profiles if isinstance(profiles, list) else ():
        if isinstance(profile, dict):
            yield profile.get("resources")


def unprintable(value: Any, path: str = "") -> list[Problem]:
    """Find keys and strings with control characters: none of them belongs into a build."""
    found: list[Problem] = []
    if isinstance(value, str):
        if not value.isprintable():
            found.append(
                key_problem(
                    "control_character",
                    path,
                    f"{path} has a control character",
                    "keep it on one line, without escapes such as \\n or \\u0000",
                )
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            found += unprintable(item, f"{path}.{key}" if path else key)
            if not key.isprintable():
                found += unprintable(key, f"{path}.{key!r}" if path else repr(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += unprintable(item, f"{path}[{index}]")
    return found


def semantic_problems(declared: EndpointFile) -> list[Problem]:
    """Return every mistake of a file whose types are right."""
    found = [*_main(declared.main), *_name(declared.name)]
    found += _profiles(declared.build.profiles)
    limits = {"resources": declared.resources}
    for index, profile in enumerate(declared.build.profiles):
        if profile.resources is not None:
            limits[f"build.profiles[{index}].resources"] = profile.resources
    for path, table in limits.items():
        for key in _CAPABILITY_KEYS:
            found += _clauses(f"{path}.{key}", getattr(table, key))
    found += _host(declared.host.requirements)
    found += _functions(declared)
    return found


def _main(main: str) -> Iterator[Problem]:
    import keyword

    parts = main.split(".")
    if all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        return
    guess = re.sub(r"[/\\:]+", ".", re.sub(r"\.py$", "", main.removeprefix("src/"))).strip(".")
    is_better = guess != main and all(part.isidentifier() for part in guess.split("."))
    yield key_problem(
        "bad_value",
        "main",
        f"main = {short(main)} is not a dotted import path",
        f'write main = "{guess}"' if is_better else 'write it like main = "painter.app"',
    )


def _name(name: str | None) -> Iterator[Problem]:
    if name is not None and not slugify_name(name):
        yield key_problem(
            "empty_slug",
            "name",
            f"name = {short(name)} leaves nothing to build a URL from",
            "use ASCII letters or digits in it",
        )


def _profiles(profiles: tuple[Profile, ...]) -> Iterator[Problem]:
    holders: dict[str, str] = {}
    for index, profile in enumerate(profiles):
        path = f"build.profiles[{index}]"
        slug = slugify_name(profile.name)
        if not slug:
            yield from _name_of_profile(path, profile.name)
        elif slug in holders:
            yield key_problem(
                "duplicate_profile",
                f"{path}.name",
                f"{holders[slug]} and {path} are both named {short(profile.name)}",
                "give each profile a name of its own",
            )
        holders.setdefault(slug, path)
        yield from _placement(path, profile)
        yield from _python(path, profile.python)


def _name_of_profile(path: str, name: str) -> Iterator[Problem]:
    yield key_problem(
        "empty_slug",
        f"{path}.name",
        f"{path}.name = {short(name)} leaves nothing to name an image with",
        "use ASCII letters or digits in it",
    )


def _placement(path: str, profile: Profile) -> Iterator[Problem]:
    if profile.accelerator == "none":
        gpu_only = {
            "cuda_min": profile.cuda_min,
            "compute_capabilities": profile.compute_capabilities,
        }
        for key, value in gpu_only.items():
            if value:
                yield key_problem(
                    "contradiction",
                    f"{path}.{key}",
                    f'{path}.{key} asks for a GPU, but accelerator = "none"',
                    f'drop {key}, or write accelerator = "cuda"',
                )
    for index, clause in enumerate(profile.compute_capabilities):
        yield from _clauses(f"{path}.compute_capabilities[{index}]", clause)


def _python(path: str, version: str | None) -> Iterator[Problem]:
    numbers = [int(part) for part in (version or "").split(".") if part.isdecimal()]
    if len(numbers) >= 2 and tuple(numbers[:2]) < _MIN_PYTHON:
        yield key_problem(
            "bad_value",
            f"{path}.python",
            f"{path}.python = {version!r} is too old",
            "gen-worker needs Python 3.11 or newer",
        )


def _host(host: HostRequirements) -> Iterator[Problem]:
    yield from _clauses("host.requirements.cuda", host.cuda)
    for index, clause in enumerate(host.compute_capabilities):
        yield from _clauses(f"host.requirements.compute_capabilities[{index}]", clause)


def _clauses(path: str, value: str | None) -> Iterator[Problem]:
    if value and not all(re.fullmatch(_CLAUSE, clause) for clause in value.split(",")):
        yield key_problem(
            "bad_value",
            path,
            f"{path} = {short(value)} is no list of version clauses",
            'write it like ">=8.0" or ">=12.4,<13"',
        )


def _functions(declared: EndpointFile) -> Iterator[Problem]:
    holders: dict[str, str] = {}
    for name, options in declared.functions.items():
        path = f"functions.{name}"
        slug = slugify_name(name)
        if not slug:
            yield key_problem("empty_slug", path, f"{path} names no function")
        elif slug in holders:
            yield key_problem(
                "duplicate_function",
                path,
                f"[functions.{holders[slug]}] and [functions.{name}] are the same function",
                "merge them",
            )
        holders.setdefault(slug, name)
        dimension = options.batch_dimension
        if dimension is not None and (dimension.startswith("input.") or not dimension.strip()):
            yield key_problem(
                "bad_value",
                f"{path}.batch_dimension",
                f"{path}.batch_dimension = {short(dimension)} is no path inside the payload",
                'begin at a payload field, like "clips"',
            )


def short(value: object) -> str:
    """Return a repr that fits into a sentence, whatever the value."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a deeply nested value"
    return text if len(text) <= 80 else f"{text[:77]}…"
