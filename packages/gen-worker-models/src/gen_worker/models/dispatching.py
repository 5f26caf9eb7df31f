"""`dispatch`: a field of the payload decides which model a call gets."""

from __future__ import annotations

import enum
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Generic

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.bindings import ModelT_co, Repo
from gen_worker.models.choice import ModelChoice
from gen_worker.models.declaration import BindingError, Declaration, lock_permissions, replacement
from gen_worker.models.payload_fields import field_type, listed, names_of, value_of
from gen_worker.models.permissions import Permissions

__all__ = ["Dispatch", "dispatch"]


class Dispatch(Declaration, Generic[ModelT_co]):
    """A table of models, and the payload field whose value picks one; see `dispatch`."""

    __slots__ = ("_default", "_field", "_rows")
    FIELDS: ClassVar[tuple[str, ...]] = ("_permissions", "_field", "_rows", "_default")

    _field: str
    _rows: tuple[tuple[str, Repo[ModelT_co]], ...]
    _default: str | None

    def __init__(
        self,
        field: str,
        table: Mapping[Any, Repo[ModelT_co]],
        *,
        default: str | enum.Enum | None = None,
    ) -> None:
        rows = _checked_rows(table)
        field = field.strip() if isinstance(field, str) else field
        if not isinstance(field, str):
            raise TypeError(f"the dispatch field must be a str, not {field!r}")
        if not field:
            raise BindingError("the dispatch field is blank: name a payload field", code="no_field")
        key = None if default is None else _key(default)
        if key is not None and key not in dict(rows):
            raise BindingError(
                f"the default {key!r} is not in the table: use one of {listed(dict(rows))}",
                code="unknown_default",
            )
        self._fill(_permissions=Permissions(), _field=field, _rows=rows, _default=key)

    @property
    def field(self) -> str:
        """Name of the payload field."""
        return self._field

    @property
    def table(self) -> Mapping[str, Repo[ModelT_co]]:
        """Model by field value; read-only."""
        return types.MappingProxyType(dict(self._rows))

    @property
    def default(self) -> str | None:
        """Key that stands for every value the table lacks; None when it must be complete."""
        return self._default

    @property
    def slot_name(self) -> str:
        """That of the first entry; empty when the parameter's name stands for it."""
        return self._rows[0][1].slot_name

    @property
    def is_per_call(self) -> bool:
        return True

    def check(self, parameter: str, payload_type: type | None) -> None:
        """Raise when the payload's field and the table do not fit each other.

        Raises:
            BindingError: There is no such field, it is no set of names, a key of the table is none
                of them, or one of them has no entry and there is no default.
        """
        where = f"dispatch field {self._field!r}"
        names = names_of(field_type(where, self._field, payload_type))
        if not names:
            raise BindingError(
                f"{where} is not a choice of names: annotate it Literal['draft', 'final'] "
                "or with an Enum of strings",
                code="dispatch_field_type",
            )
        problems = [
            f"{key!r} in the table is none of {listed(names)}"
            for key, _ in self._rows
            if key not in names
        ]
        missing = [name for name in names if name not in dict(self._rows)]
        if missing and self._default is None:
            problems.append(f"no entry for {listed(missing)}: add it, or give default=<key>")
        if problems:
            raise BindingError(f"{where}: {'; '.join(problems)}", code="dispatch_table")

    def pick(self, payload: Any) -> str:
        """Return the key of the entry that a payload, or a mapping of its fields, chooses.

        Raises:
            ValidationError: The field's value has no entry, and there is no default.
        """
        value = value_of(payload, self._field)
        keys = [key for key, _ in self._rows]
        if isinstance(value, str) and value.strip() in keys:
            return value.strip()
        if self._default is not None:
            return self._default
        raise ValidationError(
            f"{self._field} is {value!r}: use one of {listed(keys)}", path=f"$.{self._field}"
        )

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | ModelChoice | None
    ) -> dict[str, Any]:
        """Return what one call loads; see `gen_worker.spec.Binding`."""
        slot = ModelChoice(ref="", slot_name=self.slot_name or parameter)
        chosen = replacement(self._permissions, parameter, override)
        if chosen is None:
            key = self.pick(payload)
            chosen = msgspec.structs.replace(self.table[key].choice, key=key)
        return chosen.in_place_of(slot).to_dict()

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        """Return the `bindings.<parameter>` table of endpoint.lock."""
        slot_name = self.slot_name or parameter
        head = {"kind": "dispatch", "field": self._field, "slot_name": slot_name}
        if self._default is not None:
            head["default"] = self._default
        return {
            **head,
            **lock_permissions(self._permissions, annotation),
            "table": {key: repo.to_lock_row(slot_name) for key, repo in self._rows},
        }

    def describe(self) -> dict[str, Any]:
        """Return the descriptor of `gen-worker describe`."""
        table = {key: repo.describe() for key, repo in self._rows}
        return {"type": "Dispatch", "slot_name": None} | self.to_dict() | {"table": table}

    def to_dict(self) -> dict[str, Any]:
        """Return everything declared, as plain data; what is not set is left out."""
        plain = {"type": "Dispatch", "field": self._field}
        plain |= {"slot_name": self.slot_name} if self.slot_name else {}
        plain |= {"default": self._default} if self._default is not None else {}
        table = {key: repo.to_dict() for key, repo in self._rows}
        return {**plain, **self._permissions.to_dict(), "table": table}

    def __repr__(self) -> str:
        default = f", default={self._default!r}" if self._default is not None else ""
        return f"dispatch({self._field!r}, {dict(self._rows)!r}{default})"


def dispatch(
    field: str,
    table: Mapping[Any, Repo[ModelT_co]],
    *,
    default: str | enum.Enum | None = None,
) -> Dispatch[ModelT_co]:
    """Let a payload field pick the model.

    Args:
        field: A payload field annotated `Literal[...]` or with an `Enum` of strings.
        table: Model by value of the field. Entries may come from different providers. Every value
            the field can have needs an entry, unless there is a default.
        default: Key of the entry that stands for every value without one, and for None.
    """
    return Dispatch(field, table, default=default)


def _checked_rows(table: Mapping[Any, Any]) -> tuple[tuple[str, Repo[Any]], ...]:
    if not isinstance(table, Mapping):
        raise TypeError(f"the dispatch table must be a mapping, not {table!r}")
    if not table:
        raise BindingError("the dispatch table is empty: map each value to a Repo", code="no_table")
    rows: dict[str, Repo[Any]] = {}
    for given, repo in table.items():
        key = _key(given)
        if not isinstance(repo, Repo):
            raise TypeError(f"dispatch entry {key!r} must be a Repo, not {repo!r}")
        if key in rows:
            raise BindingError(f"dispatch key {key!r} is given twice", code="given_twice")
        rows[key] = repo
    return tuple(rows.items())


def _key(given: Any) -> str:
    value = given.value if isinstance(given, enum.Enum) else given
    if not isinstance(value, str):
        raise TypeError(f"a dispatch key must be a str, not {given!r}")
    if not value.strip():
        raise BindingError("a dispatch key is blank: name the field's value", code="no_key")
    return value.strip()
