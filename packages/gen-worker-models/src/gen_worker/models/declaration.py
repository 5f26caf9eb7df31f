"""What declared models have in common: they never change, and say what their callers may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import msgspec

from gen_worker.errors import ValidationError, WorkerError
from gen_worker.models.choice import ModelChoice
from gen_worker.models.permissions import Permissions, qualified_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BindingError", "Declaration", "ImmutableValue", "lock_permissions", "replacement"]


class BindingError(WorkerError, ValueError):
    """A declared model cannot be bound as written; `code` says which rule it breaks."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ImmutableValue:
    """Equal, hashed, copied and pickled by the fields it names in `FIELDS`; never changed.

    Not a msgspec.Struct because authors construct these in more than one shape.
    """

    __slots__ = ()
    FIELDS: ClassVar[tuple[str, ...]] = ()

    def _with(self, **changes: Any) -> Self:
        new = object.__new__(type(self))
        new._fill(**{name: getattr(self, name) for name in self.FIELDS} | changes)
        return new

    def _fill(self, **fields: Any) -> None:
        for name in self.FIELDS:
            object.__setattr__(self, name, fields[name])

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.FIELDS)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{type(self).__name__} is immutable: its modifiers return a new one, "
            "as in `repo = repo.tag('dev')`"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (type(self), dict(zip(self.FIELDS, self._values(), strict=True))))


class Declaration(ImmutableValue):
    """A declared model that callers may replace, or put LoRAs over, if the author allows it."""

    __slots__ = ("_permissions",)
    FIELDS: ClassVar[tuple[str, ...]] = ("_permissions",)

    _permissions: Permissions

    @property
    def dialect(self) -> Literal["binding", "injection"]:
        return "binding"

    @property
    def permissions(self) -> Permissions:
        """What callers may change."""
        return self._permissions

    def allow_override(self, *classes: type | str) -> Self:
        """Let callers put another model here, if its pipeline class is one of `classes`.

        Args:
            classes: Classes, or their full names (`"diffusers.StableDiffusionXLPipeline"`).

        Raises:
            ValueError: No class is given.
        """
        return self._with(_permissions=self._permissions.with_override(*classes))

    def allow_lora(self) -> Self:
        """Let LoRAs be put over this model for single calls."""
        return self._with(_permissions=self._permissions.with_lora())


def _restore(cls: type[ImmutableValue], fields: dict[str, Any]) -> ImmutableValue:
    value = object.__new__(cls)
    value._fill(**fields)
    return value


def replacement(
    permissions: Permissions, parameter: str, override: Mapping[str, Any] | ModelChoice | None
) -> ModelChoice | None:
    """Return the model one call gets instead of the declared one; None when there is none.

    Args:
        permissions: What the author allows.
        parameter: The receiving parameter.
        override: A caller's choice or a record of the orchestrator; an empty ref says nothing.

    Raises:
        OverrideError: The author does not allow what `override` asks for.
        ValidationError: `override` is no model record.
    """
    choice = _read(override, parameter) if override is not None else None
    if choice is None or not choice.ref:
        return None
    # Only the orchestrator says `default`; whatever does not is a caller's wish.
    choice = msgspec.structs.replace(choice, source=choice.source or "override")
    permissions.check(parameter, choice)
    return choice


def lock_permissions(permissions: Permissions, annotation: Any) -> dict[str, Any]:
    """Return what endpoint.lock says about overrides.

    Where the author named no classes, the annotated one is written as information.
    """
    annotated = qualified_name(annotation)
    classes = permissions.override_classes or ((annotated,) if annotated else ())
    return permissions.to_dict() | {"pipeline_classes": list(classes)}


def _read(override: Mapping[str, Any] | ModelChoice, parameter: str) -> ModelChoice:
    if isinstance(override, ModelChoice):
        return override
    try:
        return ModelChoice.from_record(override)
    except ValidationError as error:
        raise ValidationError(
            f"_models[{parameter!r}]: {error}", path=f"$._models.{parameter}"
        ) from error
