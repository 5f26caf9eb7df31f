"""The older way to declare a model: `Annotated[T, ModelRef(...)]`, refs kept in endpoint.toml."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from gen_worker.errors import ModelResolutionError, ValidationError
from gen_worker.models.choice import ModelChoice, plain
from gen_worker.models.declaration import BindingError, replacement
from gen_worker.models.payload_fields import field_type, listed, value_of
from gen_worker.models.permissions import Permissions, qualified_name
from gen_worker.models.refs import RefError, parse_ref

__all__ = ["Injection", "ModelRef", "ModelRefSource", "parse_injection", "resolve_keyspace"]


class ModelRefSource(enum.StrEnum):
    """Where a `ModelRef` finds its model."""

    FIXED = "fixed"
    """Under a key of `[models]`."""
    PAYLOAD = "payload"
    """Under a key of `[models.<function>]` that a payload field names."""
    PAYLOAD_REF = "payload_ref"
    """In a payload field that holds a ref."""
    RELEASE = "fixed"
    """Older name of `FIXED`."""

    @classmethod
    def _missing_(cls, value: object) -> ModelRefSource | None:
        return cls.FIXED if value == "release" else None


class ModelRef(msgspec.Struct, frozen=True):
    """Says where the model of a parameter comes from.

    The fields after `dtypes` restrict what a caller's ref may be, and need `PAYLOAD_REF`.
    """

    source: ModelRefSource
    key: str
    """For `FIXED` a key of `[models]`, otherwise the name of a payload field."""
    ref: str | None = None
    """Refused for `FIXED` and `PAYLOAD`: their refs belong in endpoint.toml."""
    dtypes: tuple[str, ...] = ()
    """Accepted precisions in order of preference."""
    allow_pipeline_classes: tuple[str, ...] = ()
    allow_architectures: tuple[str, ...] = ()
    required_file_layout: Literal["", "diffusers", "singlefile"] = ""
    required_components: Mapping[str, str] | tuple[str, ...] = ()
    """Names of components, or the class each must have."""
    require_lineage_descendant_of: str = ""
    require_lineage_verified: bool = False
    required_attributes: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key.strip():
            raise BindingError(
                f"ModelRef needs the name of a model or a field, not {self.key!r}", code="no_key"
            )
        changes: dict[str, Any] = {"source": _source(self.source), "key": self.key.strip()}
        for name in ("dtypes", "allow_pipeline_classes", "allow_architectures"):
            values = getattr(self, name)
            changes[name] = (values,) if isinstance(values, str) else tuple(values)
        for name, value in changes.items():
            msgspec.structs.force_setattr(self, name, value)

    def __hash__(self) -> int:
        return hash((self.source, self.key, self.ref, self.dtypes))

    @property
    def slot_name(self) -> str:
        """Empty: the parameter's name stands for it."""
        return ""

    @property
    def dialect(self) -> Literal["binding", "injection"]:
        return "injection"

    @property
    def is_per_call(self) -> bool:
        return self.source is not ModelRefSource.FIXED

    def check(self, parameter: str, payload_type: type | None) -> None:
        """Raise when this says something its source has no use for.

        Raises:
            BindingError: A ref beside `FIXED` or `PAYLOAD`, restrictions without `PAYLOAD_REF`,
                or a field the payload does not have.
        """
        where = f"ModelRef({self.source.name}, {self.key!r})"
        if self.source is not ModelRefSource.PAYLOAD_REF:
            if self.ref is not None:
                table = "[models]" if self.source is ModelRefSource.FIXED else "[models.<function>]"
                raise BindingError(
                    f"{where} has ref={self.ref!r}: move it to {table} of endpoint.toml",
                    code="injection_inline_ref",
                )
            if self.compatibility:
                raise BindingError(
                    f"{where} restricts a caller's ref ({listed(self.compatibility)}), "
                    "which only PAYLOAD_REF takes",
                    code="injection_restriction",
                )
        if self.is_per_call:
            field_type(where, self.key, payload_type)

    @property
    def compatibility(self) -> dict[str, Any]:
        """What a caller's ref must fulfil, as plain data; empty when nothing."""
        return {k: v for k, v in plain(self).items() if k in _RESTRICTIONS and v}

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | ModelChoice | None
    ) -> dict[str, Any]:
        """Return what one call loads.

        For `FIXED` and `PAYLOAD` that is `{source, key, field, …}`, which `resolve_keyspace` turns
        into a ref: only the project knows its `[models]`.
        """
        chosen = replacement(Permissions(), parameter, override)
        if chosen is not None:
            return chosen.in_place_of(ModelChoice(ref="", slot_name=parameter)).to_dict()
        if self.source is ModelRefSource.PAYLOAD_REF:
            return self._callers_choice(parameter, payload).to_dict()
        choice = {"source": str(self.source), "key": self.key, "slot_name": parameter}
        if self.source is ModelRefSource.PAYLOAD:
            choice |= {"key": self._selector(payload), "field": self.key}
        return choice | ({"attributes": {"dtype": list(self.dtypes)}} if self.dtypes else {})

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        """Return the entry of `injection_json` in endpoint.lock."""
        model_ref: dict[str, Any] = {
            "source": str(self.source),
            "key": self.key,
            "dtypes": list(self.dtypes),
        }
        if self.ref is not None:
            model_ref["ref"] = self.ref
        if self.compatibility:
            model_ref["compat_spec"] = self.compatibility
        return {"param": parameter, "type": qualified_name(annotation), "model_ref": model_ref}

    def describe(self) -> dict[str, Any]:
        """Return the descriptor of `gen-worker describe`."""
        kept = {k: v for k, v in plain(self).items() if v}
        return {"type": "ModelRef", **kept, "allow_override": False, "allow_lora": False}

    def _selector(self, payload: Any) -> str:
        value = value_of(payload, self.key)
        if not isinstance(value, str) or not value.strip():
            raise ValidationError(
                f"{self.key} is {value!r}: name one of the function's models", path=f"$.{self.key}"
            )
        return value.strip()

    def _callers_choice(self, parameter: str, payload: Any) -> ModelChoice:
        value = value_of(payload, self.key)
        text = getattr(value, "ref", value) if value is not None else self.ref
        if not isinstance(text, str):
            raise ValidationError(f"{self.key} holds no model ref: {value!r}", path=f"$.{self.key}")
        try:
            ref = parse_ref(text)
        except RefError as error:
            raise error.at(f"$.{self.key}") from None
        return ModelChoice.of(
            ref,
            slot_name=parameter,
            source=str(self.source) if value is not None else "",
            checkpoint_id=getattr(value, "checkpoint_id", None) or "",
            attributes={"dtype": self.dtypes} if self.dtypes else {},
        )


_RESTRICTIONS = frozenset(ModelRef.__struct_fields__[4:])


def _source(value: str) -> ModelRefSource:
    try:
        return ModelRefSource(value)
    except ValueError:
        names = listed(ModelRefSource.__members__)
        raise BindingError(
            f"{value!r} is not where a model can come from: use one of {names}", code="bad_source"
        ) from None


class Injection(NamedTuple):
    """A parameter of the older dialect: the type it receives, and from where."""

    annotation: Any
    model_ref: ModelRef


def parse_injection(annotation: Any) -> Injection | None:
    """Read `Annotated[T, ModelRef(...)]`; None for any other annotation.

    Raises:
        BindingError: There are several `ModelRef`s.
    """
    if get_origin(annotation) is not Annotated:
        return None
    base, *metadata = get_args(annotation)
    refs = [item for item in metadata if isinstance(item, ModelRef)]
    if len(refs) > 1:
        raise BindingError(
            f"{annotation!r} has {len(refs)} ModelRefs: keep one", code="several_model_refs"
        )
    return Injection(base, refs[0]) if refs else None


Keyspaces = Mapping[str, Mapping[str, Any]]
"""`fixed`: the project's `[models]`; `payload`: its `[models.<function>]` for one function."""


def resolve_keyspace(choice: Mapping[str, Any], keyspaces: Keyspaces) -> dict[str, Any]:
    """Turn the key a `ModelRef` chose into the ref that endpoint.toml keeps under it.

    A choice that has a ref already is returned as it is, so a host may call this for every choice.

    Args:
        choice: What `Binding.choose` returned.
        keyspaces: Entries by key, by source. An entry is a ref, or a table or record with `ref`
            and `attributes`.

    Raises:
        ValidationError: The payload names a model the function does not offer.
        ModelResolutionError: The author's own key is not in `[models]`.
    """
    if choice.get("ref") or "key" not in choice:
        return dict(choice)
    entries = keyspaces.get(choice["source"], {})
    entry = entries.get(choice["key"])
    if entry is None:
        raise _unknown_key(choice, entries)
    record = _record(entry, choice)
    try:
        resolved = ModelChoice.from_record(record)
    except ValidationError as error:
        raise ModelResolutionError(
            f"the model {choice['key']!r} of endpoint.toml cannot be used: {error}"
        ) from error
    return msgspec.structs.replace(resolved, key=choice["key"]).to_dict()


def _record(entry: Any, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a keyspace as a model record, whichever way it is written."""
    table: dict[str, Any] = {"ref": entry} if isinstance(entry, str) else msgspec.to_builtins(entry)
    attributes = dict(choice.get("attributes", {}))
    for name, value in table.get("attributes", {}).items():
        attributes[name] = [value] if isinstance(value, str) else list(value)
    # One flavor is a name; several are wishes, which the hub answers in their order.
    flavors = attributes.get("flavor", ())
    flavor = attributes.pop("flavor")[0] if len(flavors) == 1 else table.get("flavor", "")
    return {
        "ref": table.get("ref", ""),
        "flavor": flavor,
        "attributes": attributes,
        "slot_name": choice.get("slot_name", ""),
    }


def _unknown_key(choice: Mapping[str, Any], entries: Mapping[str, Any]) -> Exception:
    key, field = choice["key"], choice.get("field")
    if field:
        return ValidationError(
            f"{field} is {key!r}: use one of {listed(entries) or '(none)'}", path=f"$.{field}"
        )
    return ModelResolutionError(
        f"there is no model {key!r} in [models] of endpoint.toml: add it, or use one of "
        f"{listed(entries) or '(none)'}"
    )
