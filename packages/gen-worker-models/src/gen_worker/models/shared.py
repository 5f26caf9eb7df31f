"""`SharedBase`: components loaded once, and variants that differ in one or more of them."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar

from gen_worker.models.bindings import Repo
from gen_worker.models.declaration import BindingError, ImmutableValue
from gen_worker.models.permissions import Permissions, qualified_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gen_worker.models.choice import ModelChoice

__all__ = ["SharedBase", "Variant", "variant_of"]

_Parts = tuple[tuple[str, Repo[Any]], ...]


class SharedBase(ImmutableValue):
    """The part of a pipeline that several models have in common.

    `SharedBase(Pipeline, vae=Repo("acme/vae")).variant(unet=Repo("acme/unet"))` loads the VAE once
    for all variants and the UNet for this one.
    """

    __slots__ = ("_components", "_pipeline_class")
    FIELDS: ClassVar[tuple[str, ...]] = ("_pipeline_class", "_components")

    _pipeline_class: str
    _components: _Parts

    def __init__(self, pipeline_cls: type | str, /, **components: Repo[Any]) -> None:
        """Name the pipeline and its shared parts.

        Args:
            pipeline_cls: Class, or full name of the class, that takes the parts by name.
            components: Repositories of the shared parts.
        """
        name = (
            pipeline_cls.strip() if isinstance(pipeline_cls, str) else qualified_name(pipeline_cls)
        )
        if not name:
            raise BindingError(
                f"SharedBase needs a pipeline class or its full name, not {pipeline_cls!r}",
                code="no_pipeline_class",
            )
        parts = _checked_parts("component", components)
        self._fill(_pipeline_class=name, _components=parts)

    @property
    def pipeline_class_fqn(self) -> str:
        return self._pipeline_class

    @property
    def shared_components(self) -> Mapping[str, Repo[Any]]:
        return types.MappingProxyType(dict(self._components))

    def variant(self, **slots: Repo[Any]) -> Variant:
        """Return the model made of the shared parts and `slots`."""
        return Variant(self, slots)

    def __repr__(self) -> str:
        parts = "".join(f", {name}={repo!r}" for name, repo in self._components)
        return f"SharedBase({self._pipeline_class!r}{parts})"


class Variant(Repo[Any]):
    """A model over a `SharedBase`; stands wherever a `Repo` does. Its first slot gives the ref."""

    __slots__ = ("_base", "_slots")
    FIELDS: ClassVar[tuple[str, ...]] = ("_permissions", "_choice", "_base", "_slots")

    _base: SharedBase
    _slots: _Parts

    def __init__(self, base: SharedBase, slots: Mapping[str, Repo[Any]]) -> None:
        parts = _checked_parts("slot", slots)
        if not parts:
            raise BindingError(
                "a variant needs at least one slot, as in variant(unet=Repo('acme/unet'))",
                code="no_slot",
            )
        choice = parts[0][1].choice
        self._fill(_permissions=Permissions(), _choice=choice, _base=base, _slots=parts)

    @property
    def base(self) -> SharedBase:
        return self._base

    @property
    def pipeline_class_fqn(self) -> str:
        return self._base.pipeline_class_fqn

    @property
    def shared_components(self) -> Mapping[str, Repo[Any]]:
        return self._base.shared_components

    @property
    def variant_slots(self) -> Mapping[str, Repo[Any]]:
        return types.MappingProxyType(dict(self._slots))

    @property
    def primary_slot_name(self) -> str:
        """Name of the first slot, whose ref stands for the whole."""
        return self._slots[0][0]

    def flavor(self, name: str) -> Variant:
        raise TypeError(f"a variant has no flavor of its own: call .flavor({name!r}) on its slots")

    def tag(self, name: str) -> Variant:
        raise TypeError(f"a variant has no tag of its own: call .tag({name!r}) on its slots")

    def to_lock_row(self, slot_name: str) -> dict[str, Any]:
        """Return the part of the lock's table that says what is loaded."""
        return {
            **super().to_lock_row(slot_name),
            "variant_kind": "shared_base_variant",
            "pipeline_class": self.pipeline_class_fqn,
            "shared_components": {name: _part_row(repo) for name, repo in self._base._components},
            "variant_slots": {name: _part_row(repo) for name, repo in self._slots},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything declared, as plain data; what is not set is left out."""
        return {
            **super().to_dict(),
            "pipeline_class": self.pipeline_class_fqn,
            "shared_components": {name: repo.to_dict() for name, repo in self._base._components},
            "variant_slots": {name: repo.to_dict() for name, repo in self._slots},
        }

    def __repr__(self) -> str:
        slots = ", ".join(f"{name}={repo!r}" for name, repo in self._slots)
        return f"{self._base!r}.variant({slots})"


def variant_of(binding: Any, choice: ModelChoice) -> Variant | None:
    """Return the variant that a choice means; None for any other model and for a caller's own."""
    from gen_worker.models.dispatching import Dispatch

    declared = getattr(binding, "declared", binding)
    if choice.is_callers:
        return None
    if isinstance(declared, Dispatch):
        declared = declared.table.get(choice.key)
    return declared if isinstance(declared, Variant) else None


def _checked_parts(what: str, parts: Mapping[str, Any]) -> _Parts:
    for name, repo in parts.items():
        if not isinstance(repo, Repo) or isinstance(repo, Variant):
            raise TypeError(f"{what} {name!r} must be a Repo, not {repo!r}")
    return tuple(parts.items())


def _part_row(repo: Repo[Any]) -> dict[str, Any]:
    return {k: v for k, v in repo.to_lock_row("").items() if k != "slot_name"}
