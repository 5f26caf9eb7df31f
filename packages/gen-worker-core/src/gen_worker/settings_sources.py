"""The files that settings may come from. Each is read once, and only when it exists."""

from __future__ import annotations

import os
import re
from typing import Any, Protocol

from gen_worker.errors import SettingsError

__all__ = [
    "ConfigFile",
    "DotEnv",
    "Secrets",
    "Source",
    "default_sources",
]

CONFIG_FILES = (
    "/etc/gen-worker/config.toml",
    "/etc/gen-worker/config.yaml",
    "gen-worker.toml",
    "gen-worker.yaml",
)
"""Only the first that exists is read."""

_LINE_REMEDY = "correct the line, or begin it with # to leave it out"


class Source(Protocol):
    """One place below the environment where settings are looked up."""

    name: str
    """What `gen-worker env` calls it, usually the path."""

    def get(self, name: str) -> Any:
        """Return the value under an environment or field name; None when there is none."""
        ...


def default_sources() -> tuple[Source, ...]:
    """Return the sources that exist here, the most important first."""
    sources: list[Source] = []
    if os.path.exists(".env") and not os.path.isdir(".env"):  # the name of many a virtualenv
        sources.append(DotEnv(".env"))
    if os.path.isdir("/run/secrets"):
        sources.append(Secrets("/run/secrets"))
    config = next((path for path in CONFIG_FILES if os.path.exists(path)), None)
    if config is not None:
        sources.append(ConfigFile(config))
    return tuple(sources)


class Secrets:
    """A directory of files that are named like the settings, as container platforms mount them."""

    def __init__(self, directory: str) -> None:
        self.name = directory
        try:
            self._present = frozenset(os.listdir(directory))
        except OSError as error:
            raise _unreadable(directory, error) from error

    def get(self, name: str) -> str | None:
        if name not in self._present:
            return None
        path = os.path.join(self.name, name)
        return _read(path).strip() if os.path.isfile(path) else None


class DotEnv:
    """A file of `NAME=value` lines; `export`, quotes and `# comments` are understood."""

    # A text, which `re` compiles when there is such a file.
    _LINE = r"""(?x)\s*(?:export\s+)?(?P<name>[A-Za-z_][\w.-]*)\s*=\s*
        (?:"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>[^']*)'|(?P<bare>.*?))
        \s*(?:(?<!\S)\#.*)?"""

    def __init__(self, path: str) -> None:
        self.name = path
        problems = []
        self._values: dict[str, str] = {}
        for number, line in enumerate(_read(path).splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = re.fullmatch(self._LINE, line)
            if match is None:
                problems.append(f"{path}:{number} is not NAME=value: {_LINE_REMEDY}")
                continue
            self._values[match["name"]] = _unquoted(match)
        if problems:
            raise SettingsError(tuple(problems))

    def get(self, name: str) -> str | None:
        return self._values.get(name)


def _unquoted(match: re.Match[str]) -> str:
    if match["double"] is not None:
        escapes = {"n": "\n", "t": "\t", "r": "\r"}
        return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), match["double"])
    return match["single"] if match["single"] is not None else match["bare"]


class ConfigFile:
    """A TOML file of settings by environment or field name; the older YAML needs PyYAML."""

    def __init__(self, path: str) -> None:
        self.name = path
        read = _read_toml if path.endswith(".toml") else _read_yaml
        self._values = read(path)

    def get(self, name: str) -> Any:
        return self._values.get(name)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
    # Raised out here: a decoding error carries the whole content, secrets included.
    raise SettingsError((f"{path}:{number} is not UTF-8: save the file as UTF-8",))


def _unreadable(path: str, error: OSError) -> SettingsError:
    return SettingsError((f"{path} cannot be read: {error.strerror or error}",))


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    text = _read(path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError((f"{path} is not valid TOML: {error}",)) from None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        remedy = f"rename it to {path.removesuffix('.yaml')}.toml, or install PyYAML"
        raise SettingsError((f"{path} is an older YAML configuration: {remedy}",)) from error
    text = _read(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError((f"{path} is not valid YAML{_yaml_place(error)}",)) from None
    if values is not None and not isinstance(values, dict):
        raise SettingsError((f"{path} must hold names with values, not {type(values).__name__}",))
    return values or {}


def _yaml_place(error: Exception) -> str:
    """Say where, but not what stands there, as PyYAML's own text does."""
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f" (at line {mark.line + 1}, column {mark.column + 1})"
