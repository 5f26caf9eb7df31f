"""The only code that reads the environment.

Each package declares one record whose fields carry a `Setting`; `load` fills it. A value comes
from, in this order: the call's arguments, the environment, `./.env`, `/run/secrets/<NAME>`, the
first configuration file that exists, the field's default. Blank values count as unset.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec

from gen_worker.errors import SettingsError
from gen_worker.settings_records import MASK, Declared, Setting, SettingsRecord, settings_in
from gen_worker.settings_values import parse_count, parse_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gen_worker.settings_sources import Source

__all__ = [
    "CoreSettings",
    "Declared",
    "Explanation",
    "Setting",
    "SettingsError",
    "SettingsRecord",
    "explain",
    "load",
    "load_settings",
    "records",
    "settings_in",
]

ENTRY_POINT_GROUP = "gen_worker.settings"

Record = TypeVar("Record", bound=msgspec.Struct)


class Explanation(NamedTuple):
    """One setting as `gen-worker env` lists it."""

    name: str
    aliases: tuple[str, ...]
    value: Any
    """What is in force; `***` for a secret that is set."""
    source: str
    """`argument`, `environment`, the path of a file, or `default`."""
    meaning: str
    group: str
    problem: str = ""
    """Why the given value was not understood; `value` is the default then."""


class _Resolved(NamedTuple):
    """What the sources say, by field; a field that none mentions is in none of these."""

    values: dict[str, Any]
    origins: dict[str, str]
    problems: dict[str, str]


def load(
    record: type[Record],
    *,
    environ: Mapping[str, str] | None = None,
    files: tuple[Source, ...] | None = None,
    on_problem: Callable[[str], None] | None = None,
    **arguments: Any,
) -> Record:
    """Read one package's settings. Nothing is cached: the next call reads again.

    Args:
        record: A Struct whose fields carry a `Setting` and have defaults.
        environ: Stands in for the process environment.
        files: Stand in for the files; `()` reads none.
        on_problem: Told of each value that could not be understood; the default stands in for it.
        arguments: Values of fields that win over everything else; None means not given.

    Raises:
        SettingsError: Values could not be understood and `on_problem` is not given; all of them are
            named.
    """
    resolved = _resolve(record, environ, files, arguments)
    if resolved.problems and on_problem is None:
        raise SettingsError(tuple(resolved.problems.values()))
    for problem in resolved.problems.values():
        assert on_problem is not None
        on_problem(problem)
    return record(**resolved.values)


def explain(
    record: type[msgspec.Struct],
    *,
    environ: Mapping[str, str] | None = None,
    files: tuple[Source, ...] | None = None,
    **arguments: Any,
) -> tuple[Explanation, ...]:
    """List every setting with its value, source and meaning; secrets are masked.

    Raises:
        SettingsError: A file itself could not be read. Wrong values are reported in `problem`.
    """
    resolved = _resolve(record, environ, files, arguments)
    in_force = record(**resolved.values)
    return tuple(
        Explanation(
            name=setting.env,
            aliases=setting.aliases,
            value=MASK if setting.is_secret and value else value,
            source=resolved.origins.get(field, "default"),
            meaning=setting.meaning,
            group=setting.group,
            problem=resolved.problems.get(field, ""),
        )
        for field, _, setting in settings_in(record)
        for value in (getattr(in_force, field),)
    )


def _resolve(
    record: type[msgspec.Struct],
    environ: Mapping[str, str] | None,
    files: tuple[Source, ...] | None,
    arguments: Mapping[str, Any],
) -> _Resolved:
    if environ is None:
        environ = os.environ
    if files is None:
        from gen_worker.settings_sources import default_sources

        files = default_sources()
    unknown = arguments.keys() - set(record.__struct_fields__)
    if unknown:
        raise TypeError(f"{record.__name__} has no setting {', '.join(sorted(unknown))}")
    resolved = _Resolved({}, {}, {})
    for item in settings_in(record):
        given = arguments.get(item.field)
        if given is not None:
            resolved.values[item.field] = given
            resolved.origins[item.field] = "argument"
        elif (found := _find(item, environ, files)) is not None:
            _accept(item, *found, resolved)
    return resolved


def _find(
    item: Declared, environ: Mapping[str, str], files: tuple[Source, ...]
) -> tuple[str, Any, str] | None:
    """Return name, raw value and origin of the first source that has the setting."""
    names = (item.setting.env, *item.setting.aliases)
    for name in names:
        if not _is_blank(environ.get(name)):
            return name, environ[name], "environment"
    for source in files:
        for name in (*names, item.field):
            raw = source.get(name)
            if not _is_blank(raw):
                return name, raw, source.name
    return None


def _is_blank(raw: Any) -> bool:
    return raw is None or (isinstance(raw, str) and not raw.strip())


def _accept(item: Declared, name: str, raw: Any, origin: str, resolved: _Resolved) -> None:
    parse = item.setting.parse
    try:
        value = parse(str(raw).strip()) if parse else parse_value(item.annotation, raw)
    except ValueError as error:
        expected, shown = str(error), f"{raw!r:.200}"
        if item.setting.is_secret:
            # A parser of the record's own may say what it was given.
            expected, shown = "another one" if parse else expected, "the secret given"
        resolved.problems[item.field] = f"{name} must be {expected}, not {shown} (from {origin})"
    else:
        resolved.values[item.field] = value
        resolved.origins[item.field] = origin


def records() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Yield `(package, record)` of every installed package.

    Scans all installed distributions: only for commands that list settings.
    """
    from importlib.metadata import entry_points

    yield "core", CoreSettings
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        yield entry.name, entry.load()


class CoreSettings(SettingsRecord, frozen=True, kw_only=True):
    """What core reads: where files are, which device to use, how large payloads may be."""

    lock_path: Annotated[
        str,
        Setting(
            env="GEN_WORKER_LOCK",
            aliases=("GEN_WORKER_MANIFEST_PATH",),
            group="local",
            meaning="path of endpoint.lock; empty looks in the project and in the image",
            parse=os.path.expanduser,
        ),
    ] = ""
    endpoint_toml_path: Annotated[
        str,
        Setting(
            env="ENDPOINT_TOML_PATH",
            group="local",
            meaning="path of endpoint.toml; empty looks in the project",
            parse=os.path.expanduser,
        ),
    ] = ""
    local_output_dir: Annotated[
        str,
        Setting(
            env="GEN_WORKER_LOCAL_OUTPUT_DIR",
            group="local",
            meaning="directory that outputs of local runs go to",
            parse=os.path.expanduser,
        ),
    ] = "./.gen-worker-run/outputs"
    local_device: Annotated[
        str,
        Setting(
            env="GEN_WORKER_LOCAL_DEVICE",
            group="local",
            meaning="device of local runs, such as cpu or cuda:1; empty chooses",
        ),
    ] = ""
    torch_device: Annotated[
        str,
        Setting(
            env="WORKER_TORCH_DEVICE",
            aliases=("WORKER_DEVICE",),
            meaning="device that ctx.device names, such as cuda:1; empty chooses",
        ),
    ] = ""
    cache_dir: Annotated[
        str,
        Setting(
            env="TENSORHUB_CACHE_DIR",
            group="models",
            meaning="directory of everything that is kept between runs",
            parse=os.path.expanduser,
        ),
    ] = "~/.cache/tensorhub"
    cas_dir: Annotated[
        str,
        Setting(
            env="TENSORHUB_CAS_DIR",
            group="models",
            meaning="directory of model files; empty is `cas` below TENSORHUB_CACHE_DIR",
            parse=os.path.expanduser,
        ),
    ] = ""
    hf_token: Annotated[
        str,
        Setting(
            env="HF_TOKEN",
            aliases=("HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HUGGINGFACEHUB_API_TOKEN"),
            group="models",
            meaning="Hugging Face token for gated and private models",
            is_secret=True,
        ),
    ] = ""
    max_input_bytes: Annotated[
        int,
        Setting(
            env="WORKER_MAX_INPUT_BYTES",
            group="limits",
            meaning="largest encoded payload in bytes; 0 is no limit",
            parse=parse_count,
        ),
    ] = 0
    max_output_bytes: Annotated[
        int,
        Setting(
            env="WORKER_MAX_OUTPUT_BYTES",
            group="limits",
            meaning="largest encoded result in bytes; 0 is no limit",
            parse=parse_count,
        ),
    ] = 0
    max_output_delta_bytes: Annotated[
        int,
        Setting(
            env="WORKER_MAX_OUTPUT_DELTA_BYTES",
            group="limits",
            meaning="largest encoded item of a stream in bytes; longer plain text is split",
            parse=parse_count,
        ),
    ] = 65_536
    max_output_delta_events: Annotated[
        int,
        Setting(
            env="WORKER_MAX_OUTPUT_DELTA_EVENTS",
            group="limits",
            meaning="items after which a stream is ended, in success; 0 is no limit",
            parse=parse_count,
        ),
    ] = 0

    def __post_init__(self) -> None:
        cache_dir = os.path.expanduser(self.cache_dir)
        msgspec.structs.force_setattr(self, "cache_dir", cache_dir)
        if not self.cas_dir:
            msgspec.structs.force_setattr(self, "cas_dir", os.path.join(cache_dir, "cas"))


def load_settings(**arguments: Any) -> CoreSettings:
    """Read core's own settings; see `load`."""
    return load(CoreSettings, **arguments)
