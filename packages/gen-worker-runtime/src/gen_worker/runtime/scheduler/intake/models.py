"""The models of a function as its lock declares them, and as a caller may choose them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.injection import ModelRef, resolve_keyspace
from gen_worker.models.overrides import check_overrides, parse_overrides
from gen_worker.models.permissions import Permissions
from gen_worker.runtime.wire.commands import ResolvedModel
from gen_worker.spec import ModelParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.overrides import HubLookup
    from gen_worker.runtime.scheduler.catalog import FunctionFacts
    from gen_worker.spec import Binding

__all__ = ["Chosen", "FunctionModels"]

_MAX_REMEMBERED = 256
_MAX_CHARS = 512
_NOT_SAID = object()


class Chosen(NamedTuple):
    """Which models one request uses."""

    models: dict[str, ResolvedModel]
    """What its caller chose, by slot."""
    refs: tuple[str, ...]
    """All of them, as canonical text."""


class FunctionModels:
    """What one function of a release may be given."""

    def __init__(self, facts: FunctionFacts) -> None:
        """Read a lock's rows once for all requests."""
        locked = facts.locked
        self._rows: dict[str, Mapping[str, Any]] = dict(locked.bindings)
        self._injections = {row["param"]: _model_ref(row) for row in locked.injection_json}
        self._keyspaces = {"fixed": facts.models, "payload": facts.own_models}
        self._defaults = _defaults_of(locked.input_schema)
        self.parameters: dict[str, ModelParameter] = {
            name: _parameter(name, _permissions_of(row)) for name, row in self._rows.items()
        }
        for name in self._injections:
            self.parameters[name] = _parameter(name, Permissions())
        fields = [row["field"] for row in self._rows.values() if row.get("kind") == "dispatch"]
        fields += [ref.key for ref in self._injections.values() if ref.is_per_call]
        self._deciding = tuple(dict.fromkeys(fields))
        """Fields of a payload that decide about models."""
        self._usual: dict[tuple[Any, ...], tuple[str, ...]] = {}
        """Refs by the values of those fields, where callers choose nothing."""

    def __bool__(self) -> bool:
        return bool(self.parameters)

    async def choose(self, envelope: Any, payload: Mapping[str, Any], hub: HubLookup) -> Chosen:
        """Return which models a request uses, or refuse its `_models` as a whole.

        Args:
            envelope: The value of `_models` as decoded; None when there was none.
            payload: The rest, as plain values.
            hub: Knows models. Asked only about those that the caller chose.

        Raises:
            OverrideError: With one of the six codes.
            ValidationError: The envelope is malformed.
            ArtifactTransferError: The hub could not be asked.
        """
        callers = parse_overrides(envelope, self.parameters)
        if callers:
            await check_overrides(callers, self.parameters, hub)
        return Chosen(self._by_slot(callers), self._refs(callers, payload))

    def _by_slot(self, callers: Mapping[str, ModelChoice]) -> dict[str, ResolvedModel]:
        slots = {name: str(row.get("slot_name") or name) for name, row in self._rows.items()}
        counts = list(slots.values())
        found = {}
        for name, choice in callers.items():
            slot = slots.get(name, name)
            # A worker finds a model by its parameter, too, where several have one slot.
            found[slot if counts.count(slot) == 1 else name] = ResolvedModel(
                slot_name=slot,
                ref=choice.ref,
                tag=choice.tag,
                flavor=choice.flavor,
                provider=choice.provider,
                source="override",
            )
        return found

    def _refs(
        self, callers: Mapping[str, ModelChoice], payload: Mapping[str, Any]
    ) -> tuple[str, ...]:
        # Reading refs takes as long as all the rest, and few fields of a payload decide.
        key = tuple(payload.get(field, _NOT_SAID) for field in self._deciding)
        if callers or not all(map(_is_short, key)):
            return self._read_refs(callers, payload)
        known = self._usual.get(key)
        if known is None:
            if len(self._usual) >= _MAX_REMEMBERED:
                self._usual.clear()
            known = self._usual[key] = self._read_refs(callers, payload)
        return known

    def _read_refs(
        self, callers: Mapping[str, ModelChoice], payload: Mapping[str, Any]
    ) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for name in self.parameters:
            choice = callers.get(name) or self._declared(name, payload)
            if choice is not None and choice.ref:
                found[str(choice.target)] = None
        return tuple(found)

    def _declared(self, name: str, payload: Mapping[str, Any]) -> ModelChoice | None:
        """Return what a parameter is given; None where only the worker can say."""
        try:
            if name in self._injections:
                return self._injected(name, payload)
            row = self._rows[name]
            if row.get("kind") == "dispatch":
                row = self._picked(row, payload)
            return ModelChoice.from_record(row)
        except (ValidationError, ModelResolutionError, LookupError, TypeError):
            return None  # the worker says what is wrong with the payload

    def _injected(self, name: str, payload: Mapping[str, Any]) -> ModelChoice:
        ref = self._injections[name]
        chosen = ref.choose(name, {**self._defaults, **payload}, None)
        return ModelChoice.from_record(resolve_keyspace(chosen, self._keyspaces))

    def _picked(self, row: Mapping[str, Any], payload: Mapping[str, Any]) -> Mapping[str, Any]:
        field, table = row["field"], row["table"]
        value = payload.get(field, self._defaults.get(field))
        key = value.strip() if isinstance(value, str) else ""
        picked: Mapping[str, Any] = table[key if key in table else row["default"]]
        return picked


def _is_short(value: Any) -> bool:
    return value is _NOT_SAID or (isinstance(value, str) and len(value) <= _MAX_CHARS)


def _parameter(name: str, permissions: Permissions) -> ModelParameter:
    # Only permissions are read of what checks envelopes; a lock has nothing to call.
    return ModelParameter(name, cast("Binding", _Locked(permissions)))


class _Locked(NamedTuple):
    permissions: Permissions


def _permissions_of(row: Mapping[str, Any]) -> Permissions:
    # Where overrides are not allowed, the classes are only information.
    classes = tuple(row.get("pipeline_classes", ())) if row.get("allow_override") else ()
    return Permissions(override_classes=classes, allows_lora=bool(row.get("allow_lora")))


def _model_ref(row: Mapping[str, Any]) -> ModelRef:
    declared = row["model_ref"]
    return ModelRef(
        declared["source"],
        declared["key"],
        declared.get("ref"),
        tuple(declared.get("dtypes", ())),
    )


def _defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a payload's fields, as far as its schema says them."""
    target = schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name:
        target = schema.get("$defs", {}).get(name, {})
    fields = target.get("properties", {})
    return {
        field: msgspec.to_builtins(about["default"])
        for field, about in fields.items()
        if isinstance(about, dict) and "default" in about
    }
