"""How a package declares its settings: a record whose fields carry a `Setting`."""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

__all__ = ["MASK", "Declared", "Setting", "SettingsRecord", "settings_in"]

MASK = "***"
"""Stands for a secret that is set."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How one field of a settings record is named outside, and what it means."""

    env: str
    """Name in the environment; `.env`, secrets and configuration files know it too."""
    meaning: str
    """One line for `gen-worker env`, with the unit."""
    group: str = "tuning"
    """Heading it is listed under."""
    aliases: tuple[str, ...] = ()
    """Older names, asked after `env`."""
    is_secret: bool = False
    """Never shown: not in listings, not in errors."""
    parse: Callable[[str], Any] | None = None
    """Turns text into the value; its `ValueError` says what was expected. None: by field type."""


class SettingsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Base of settings records: secrets are not shown."""

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({facts})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            (field, MASK if setting.is_secret and value else value)
            for field, _, setting in settings_in(type(self))
            for value in (getattr(self, field),)
        ]


class Declared(NamedTuple):
    """One field of a settings record."""

    field: str
    annotation: Any
    setting: Setting


@lru_cache(maxsize=64)
def settings_in(record: type[msgspec.Struct]) -> tuple[Declared, ...]:
    """List the settings a record declares, in order.

    Raises:
        TypeError: A field carries no `Setting`, or a secret would be shown.
    """
    hints = typing.get_type_hints(record, include_extras=True)
    found = []
    for field in record.__struct_fields__:
        metadata = getattr(hints[field], "__metadata__", ())
        setting = next((item for item in metadata if isinstance(item, Setting)), None)
        if setting is None:
            raise TypeError(f"{record.__name__}.{field} is not annotated with a Setting")
        if setting.is_secret and not issubclass(record, SettingsRecord):
            raise TypeError(f"{record.__name__} has a secret: derive it from SettingsRecord")
        found.append(Declared(field, hints[field].__origin__, setting))
    return tuple(found)
