"""What to load for one parameter in one call, as plain data.

A `ModelChoice` is what a binding declares, what a caller's override says, and what an orchestrator
stamps on a request (`resolved_models`); it is also what an author reads in `ctx.models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gen_worker.errors import ValidationError
from gen_worker.models.ref_types import (
    DEFAULT_TAG,
    CivitaiRef,
    HFRef,
    ModelScopeRef,
    Ref,
    RefError,
    TensorhubRef,
)
from gen_worker.models.refs import parse_ref

__all__ = ["LoraChoice", "ModelChoice", "plain"]


class LoraChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An adapter put over a model for one call."""

    ref: str
    tag: str = ""
    flavor: str = ""
    provider: str = "tensorhub"
    weight: float = 1.0
    compatibility_status: str = ""
    compatibility_detail: str = ""

    def __post_init__(self) -> None:
        if not abs(self.weight) < float("inf"):
            raise ValueError(f"the LoRA weight {self.weight!r} is not a finite number")

    @property
    def target(self) -> Ref:
        """The checked ref."""
        return _join(self.ref, self.provider, tag=self.tag, flavor=self.flavor)


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model to load."""

    slot_name: str = ""
    ref: str
    """Repository without tag and flavor, with its digest when pinned; for Civitai an id."""
    tag: str = ""
    """Empty when a digest pins the ref. Only the hub reads it."""
    flavor: str = ""
    provider: str = "tensorhub"
    source: str = ""
    """Empty: declared by the author; `default`: the owner's current slot; else the caller's."""
    checkpoint_id: str = ""
    compatibility_status: str = ""
    compatibility_detail: str = ""
    loras: tuple[LoraChoice, ...] = ()
    revision: str = ""
    dtype: str = ""
    subfolder: str = ""
    allow_patterns: tuple[str, ...] = ()
    """Only files these globs match, whatever the layout; empty means what the model needs."""
    version_id: str = ""
    key: str = ""
    """Which entry of the binding's table this is; empty when it has none or was replaced."""
    attributes: Mapping[str, tuple[str, ...]] = {}
    """Properties the hub picks an artifact by, such as `dtype`; values in order of preference."""

    @classmethod
    def of(cls, ref: Ref, **options: Any) -> ModelChoice:
        """Return the choice of `ref`; `options` are fields that are no part of a ref."""
        return cls(**{"tag": DEFAULT_TAG, **_fields(ref), **options})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ModelChoice:
        """Read a record as the wire carries it; empty strings there mean unset.

        A tag or flavor inside the ref's text counts, and must not contradict the record's own.

        Raises:
            ValidationError: A field has the wrong type, or the ref breaks its grammar.
        """
        if not isinstance(record, Mapping):
            raise ValidationError(f"malformed model record: {record!r:.120} is no object")
        filled = {key: value for key, value in record.items() if value not in ("", None)}
        try:
            choice = msgspec.convert({"ref": "", **filled}, cls)
        except msgspec.ValidationError as error:
            raise ValidationError(f"malformed model record: {error}") from error
        if not choice.ref:
            return choice
        fields = {"tag": choice.tag or DEFAULT_TAG, **_fields(choice.target)}
        loras = tuple(msgspec.structs.replace(x, **_fields(x.target)) for x in choice.loras)
        return msgspec.structs.replace(choice, **fields, loras=loras)

    @property
    def target(self) -> Ref:
        """The checked ref, with the tag, flavor, revision or version this choice carries.

        Raises:
            RefError: The parts make no ref of the provider.
        """
        return _join(
            self.ref,
            self.provider,
            tag=self.tag,
            flavor=self.flavor,
            revision=self.revision,
            version_id=self.version_id,
        )

    def __hash__(self) -> int:
        return hash((self.provider, self.ref, self.tag, self.flavor, self.slot_name))

    @property
    def is_callers(self) -> bool:
        """Whether the caller of the function, not its owner, chose this model."""
        return self.source not in ("", "default")

    def in_place_of(self, declared: ModelChoice) -> ModelChoice:
        """Return this choice in the other's slot, loaded with the other's precision."""
        return msgspec.structs.replace(
            self,
            slot_name=self.slot_name or declared.slot_name,
            dtype=self.dtype or declared.dtype,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: always ref, tag, flavor and provider, the rest where it is set."""
        always = {
            "ref": self.ref,
            "tag": self.tag,
            "flavor": self.flavor,
            "provider": self.provider,
        }
        return always | plain(self)


def plain(choice: msgspec.Struct) -> dict[str, Any]:
    """Return the fields that are set as data any format can write: no structs, no tuples."""
    listed: dict[str, Any] = _with_lists(msgspec.to_builtins(choice))
    return listed


def _with_lists(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return value


def _fields(ref: Ref) -> dict[str, str]:
    """Return what of a choice the ref decides."""
    fields = {"ref": ref.repository, "provider": ref.provider}
    for name in ("tag", "flavor", "revision", "version_id"):
        if hasattr(ref, name):
            fields[name] = getattr(ref, name)
    return fields


def _join(text: str, provider: str, **parts: str) -> Ref:
    """Return the ref that `text` and the parts given beside it name together."""
    ref = parse_ref(text, provider)
    written = _written(ref, text)
    if isinstance(ref, TensorhubRef):
        parts = {name: part.lower() if part.isascii() else part for name, part in parts.items()}
        # Senders stamp the default tag where nobody named one.
        if ref.digest and parts["tag"] == DEFAULT_TAG:
            parts["tag"] = ""
    for name, value in written.items():
        given = parts.get(name, "")
        if value and given and value != given:
            raise RefError(
                f"its {name} is {value!r}, but {given!r} is given beside it: keep one of them",
                ref=text,
                provider=provider,
                code="contradiction",
            )
    named = {name: value or parts.get(name, "") for name, value in written.items()}
    if isinstance(ref, CivitaiRef) and named["version_id"]:
        return CivitaiRef(version_id=named["version_id"])
    return msgspec.structs.replace(ref, **named)


def _written(ref: Ref, text: str) -> dict[str, str]:
    """Return the parts that can stand beside a ref, as its own text names them."""
    if isinstance(ref, TensorhubRef):
        names_tag = not ref.digest and ":" in text.partition("#")[0]
        return {"tag": ref.tag if names_tag else "", "flavor": ref.flavor}
    if isinstance(ref, HFRef):
        return {"revision": ref.revision, "flavor": ref.flavor}
    if isinstance(ref, ModelScopeRef):
        return {"revision": ref.revision}
    return {"version_id": ref.version_id}
