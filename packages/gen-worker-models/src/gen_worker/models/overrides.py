"""The `_models` envelope: a caller's own models for single parameters, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gen_worker.errors import OverrideError, ValidationError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.permissions import Permissions, is_pipeline_class_allowed
from gen_worker.models.refs import DEFAULT_TAG, Ref, TensorhubRef

if TYPE_CHECKING:
    from gen_worker.spec import ModelParameter

__all__ = ["OVERRIDE_CODES", "HubLookup", "RepoFacts", "check_overrides", "parse_overrides"]

OVERRIDE_CODES = (
    "unknown_override_param",
    "model_override_not_allowed",
    "override_ref_not_found",
    "override_tag_not_found",
    "override_flavor_not_found",
    "incompatible_pipeline_class",
)
"""Every `OverrideError.code`."""

_ENTRY_KEYS = ("ref", "tag", "flavor", "provider")


class RepoFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a repository that exists and that the caller may read."""

    tags: frozenset[str] = frozenset()
    flavors: frozenset[str] = frozenset()
    """Flavors of the checkpoint the ref's tag or digest points to."""
    pipeline_class: str = ""
    """Class its files name, with or without the module; empty when they name none."""


class HubLookup(Protocol):
    """Where refs are looked up: the hub, or a double of it in tests."""

    async def look_up(self, ref: Ref) -> RepoFacts | None:
        """Return what is known of `ref`; None when it does not exist or may not be read.

        Called once per override, before anything is queued or downloaded. May raise
        `ArtifactTransferError` when the question could not be asked.
        """
        ...


def parse_overrides(
    envelope: Any, parameters: Mapping[str, ModelParameter]
) -> dict[str, ModelChoice]:
    """Read a `_models` envelope, and refuse it as a whole when one entry is wrong.

    Args:
        envelope: The value of `_models` as decoded; None when there was none.
        parameters: Every model of the function, those of its `setup` too, by parameter name.

    Returns:
        The caller's choice by parameter name; each has `source` `override`.

    Raises:
        OverrideError: An entry names no model parameter, or one that callers may not change.
        ValidationError: The envelope or an entry is malformed.
    """
    if envelope is None:
        return {}
    if not isinstance(envelope, Mapping):
        raise ValidationError(
            f"_models must be an object of refs by parameter name, not {envelope!r:.120}",
            path="$._models",
        )
    choices: dict[str, ModelChoice] = {}
    refusals: list[ValidationError] = []
    for name, entry in envelope.items():
        try:
            choices[name] = _override(str(name), entry, parameters)
        except ValidationError as error:
            refusals.append(error)
    _raise_all(refusals)
    return choices


async def check_overrides(
    overrides: Mapping[str, ModelChoice],
    parameters: Mapping[str, ModelParameter],
    lookup: HubLookup,
) -> None:
    """Refuse overrides that do not exist, or whose pipeline class the author did not allow.

    Raises:
        OverrideError: With one of the last four of `OVERRIDE_CODES`.
    """
    refusals: list[ValidationError] = []
    for name, choice in overrides.items():
        facts = await lookup.look_up(choice.target)
        permissions = _permissions(parameters[name])
        refusals += _mismatches(name, choice.target, facts, permissions)
    _raise_all(refusals)


def _override(name: str, entry: Any, parameters: Mapping[str, ModelParameter]) -> ModelChoice:
    parameter = parameters.get(name)
    if parameter is None:
        known = ", ".join(map(repr, parameters)) or "none"
        raise OverrideError(
            f"_models[{name!r}]: there is no such model parameter: the function's are {known}",
            code="unknown_override_param",
            param=name,
        )
    try:
        choice = ModelChoice.from_record(_record(entry) | {"source": "override"})
    except ValidationError as error:
        raise ValidationError(f"_models[{name!r}]: {error}", path=f"$._models.{name}") from error
    _permissions(parameter).check(name, choice)
    return choice


def _record(entry: Any) -> dict[str, Any]:
    """Return an entry in its long form, its shape checked."""
    record = {"ref": entry} if isinstance(entry, str) else entry
    if not isinstance(record, Mapping):
        raise ValidationError(f"{entry!r:.120} is neither a ref nor an object with a ref")
    unknown = [key for key in record if key not in _ENTRY_KEYS]
    if unknown:
        raise ValidationError(f"unknown keys {unknown!r:.120}: use {', '.join(_ENTRY_KEYS)}")
    ref = record.get("ref")
    if not isinstance(ref, str) or not ref.strip():
        raise ValidationError(f"its ref is {ref!r:.120}: write it as 'owner/repo:tag#flavor'")
    tag, provider = record.get("tag"), record.get("provider")
    if provider not in (None, "", "tensorhub") and tag not in (None, "", DEFAULT_TAG):
        raise ValidationError(
            f"{provider!r:.40} has no tags, but {tag!r:.80} is given: pin it inside the ref"
        )
    return dict(record)


def _permissions(parameter: ModelParameter) -> Permissions:
    """Return what callers may change; nothing for a binding of the older dialect."""
    permissions = getattr(parameter.binding, "permissions", None)
    return permissions if isinstance(permissions, Permissions) else Permissions()


def _mismatches(
    name: str, ref: Ref, facts: RepoFacts | None, permissions: Permissions
) -> Iterator[OverrideError]:
    """Yield the first thing that speaks against `ref`, if any."""
    found = facts or RepoFacts()
    allowed = permissions.override_classes
    if facts is None:
        code, problem = "override_ref_not_found", "does not exist, or you may not read it"
    elif isinstance(ref, TensorhubRef) and ref.tag and ref.tag not in found.tags:
        code, problem = "override_tag_not_found", f"has no tag {ref.tag!r}{_has(found.tags)}"
    elif isinstance(ref, TensorhubRef) and ref.flavor and ref.flavor not in found.flavors:
        code = "override_flavor_not_found"
        problem = f"has no flavor {ref.flavor!r}{_has(found.flavors)}"
    elif not is_pipeline_class_allowed(found.pipeline_class, allowed):
        code = "incompatible_pipeline_class"
        problem = f"is a {found.pipeline_class}, this parameter takes {', '.join(allowed)}"
    else:
        return
    yield OverrideError(f"_models[{name!r}]: {str(ref)!r} {problem}", code=code, param=name)


def _has(names: frozenset[str]) -> str:
    return f": it has {', '.join(map(repr, sorted(names)[:20]))}" if names else ""


def _raise_all(refusals: list[ValidationError]) -> None:
    """Raise the first refusal; its message tells the others too."""
    if not refusals:
        return
    first, *others = refusals
    if others:
        first.args = ("; ".join(str(refusal) for refusal in refusals),)
    raise first
