"""`Repo` and its kin: which repository a parameter's model comes from.

Nothing here looks anything up; a binding is what an author wrote, checked and made comparable.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self

import msgspec

from gen_worker.models.choice import ModelChoice, plain
from gen_worker.models.declaration import BindingError, Declaration, lock_permissions, replacement
from gen_worker.models.permissions import Permissions
from gen_worker.models.ref_types import HFRef, Provider, TensorhubRef
from gen_worker.models.refs import parse_ref

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypeVar

    ModelT_co = TypeVar("ModelT_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    ModelT_co = TypeVar("ModelT_co", covariant=True)

__all__ = ["CivitaiRepo", "HFRepo", "ModelScopeRepo", "Repo"]

_SLOT_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DTYPES = ("bf16", "bfloat16", "fp16", "float16", "fp32", "float32")


class Repo(Declaration, Generic[ModelT_co]):
    """A model in a hub repository.

    `Repo("base_model", "acme/flux")` names a slot that the hub may re-point after publishing, and
    its first ref; `Repo("acme/flux")` uses the parameter's name as the slot. The ref may carry a
    tag, a flavor or a digest; without a tag it means `prod`.

    Immutable: each modifier returns a new one, in any order. `Repo[Pipeline](…)` tells a type
    checker what loads, so that the entries of one `dispatch` table agree.
    """

    __slots__ = ("_choice",)
    FIELDS: ClassVar[tuple[str, ...]] = ("_permissions", "_choice")
    PROVIDER: ClassVar[Provider] = "tensorhub"

    _choice: ModelChoice

    def __init__(
        self,
        ref_or_name: str | None = None,
        default_ref: str | None = None,
        *,
        name: str = "",
        ref: str = "",
    ) -> None:
        slot_name, text = _slot_and_ref(ref_or_name, default_ref, name, ref)
        target = parse_ref(text, self.PROVIDER)
        if isinstance(target, HFRef) and target.flavor:
            raise BindingError(
                f"{text!r} has a flavor, which selects nothing on Hugging Face: "
                f"write {target.repo_id!r} and choose a precision with .dtype('bf16')",
                code="hf_flavor",
            )
        choice = ModelChoice.of(target, slot_name=slot_name)
        self._fill(_choice=choice, _permissions=Permissions())

    @property
    def ref(self) -> str:
        """The repository, without tag and flavor; with its digest when pinned by one."""
        return self._choice.ref

    @property
    def provider(self) -> str:
        return self._choice.provider

    @property
    def slot_name(self) -> str:
        """The slot's name; empty when the parameter's name stands for it."""
        return self._choice.slot_name

    @property
    def choice(self) -> ModelChoice:
        """What is loaded unless an override says otherwise."""
        return self._choice

    @property
    def is_per_call(self) -> bool:
        return False

    def flavor(self, name: str) -> Self:
        """Pick one artifact of the checkpoint, such as `bf16` or `int4`."""
        return self._choosing(flavor=_filled("flavor", name))

    def tag(self, name: str) -> Self:
        """Follow another tag than `prod`."""
        target = self._choice.target
        if isinstance(target, TensorhubRef) and target.digest:
            raise BindingError(
                f"{self.ref!r} is pinned by its digest and cannot follow the tag {name!r}: "
                "leave out the digest or the tag",
                code="digest_with_tag",
            )
        return self._choosing(tag=_filled("tag", name))

    def check(self, parameter: str, payload_type: type | None) -> None:
        """Nothing to refuse: a fixed model needs nothing from the payload."""

    def choose(
        self, parameter: str, payload: Any, override: Mapping[str, Any] | ModelChoice | None
    ) -> dict[str, Any]:
        """Return what one call loads; see `gen_worker.spec.Binding`."""
        declared = self._declared(parameter)
        chosen = replacement(self._permissions, parameter, override)
        if chosen is None:
            return declared.to_dict()
        return chosen.in_place_of(declared).to_dict()

    def to_lock(self, parameter: str, annotation: Any) -> dict[str, Any]:
        """Return the `bindings.<parameter>` table of endpoint.lock."""
        return {
            "kind": "fixed",
            **self.to_lock_row(parameter),
            **lock_permissions(self._permissions, annotation),
        }

    def to_lock_row(self, slot_name: str) -> dict[str, Any]:
        """Return the part of the lock's table that says what is loaded."""
        return {"provider": self.provider, **plain(self._declared(slot_name))}

    def describe(self) -> dict[str, Any]:
        """Return the descriptor of `gen-worker describe`."""
        return {"type": type(self).__name__, "slot_name": None, "flavor": None} | self.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return everything declared, as plain data; what is not set is left out."""
        head = {"type": type(self).__name__, "provider": self.provider}
        return {**head, **plain(self._choice), **self._permissions.to_dict()}

    def _declared(self, slot_name: str) -> ModelChoice:
        if self._choice.slot_name:
            return self._choice
        return msgspec.structs.replace(self._choice, slot_name=slot_name)

    def _choosing(self, **changes: Any) -> Self:
        """Return a copy that loads something else, checked."""
        choice = msgspec.structs.replace(self._choice, **changes)
        if isinstance(target := choice.target, TensorhubRef):
            choice = msgspec.structs.replace(choice, tag=target.tag, flavor=target.flavor)
        return self._with(_choice=choice)

    def __repr__(self) -> str:
        fields = {k: v for k, v in self.to_dict().items() if k not in ("type", "provider") and v}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in fields.items())})"


class HFRepo(Repo[ModelT_co]):
    """A model in a Hugging Face repository; upper and lower case of its name are kept."""

    __slots__ = ()
    PROVIDER: ClassVar[Provider] = "hf"

    def __init__(
        self,
        ref_or_name: str | None = None,
        default_ref: str | None = None,
        *,
        name: str = "",
        ref: str = "",
        subfolder: str = "",
    ) -> None:
        super().__init__(ref_or_name, default_ref, name=name, ref=ref)
        if subfolder:
            self._fill(_choice=self.subfolder(subfolder)._choice, _permissions=self._permissions)

    def flavor(self, name: str) -> Self:
        """Deprecated spelling of `dtype`."""
        import warnings

        warnings.warn(
            f"HFRepo.flavor({name!r}) is deprecated: write .dtype({name!r})",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.dtype(name)

    def revision(self, name: str) -> Self:
        """Pin a branch, tag or commit."""
        return self._choosing(revision=_filled("revision", name))

    def dtype(self, name: str) -> Self:
        """Choose the precision of the weights: `bf16`, `fp16`, `fp32` or their long names."""
        dtype = _filled("dtype", name).lower()
        if dtype not in _DTYPES:
            raise BindingError(
                f"{name!r} is not a dtype: write one of {', '.join(_DTYPES)}", code="unknown_dtype"
            )
        return self._choosing(dtype=dtype)

    def subfolder(self, path: str) -> Self:
        """Load from a folder inside the repository."""
        return self._choosing(subfolder=_inside("subfolder", path))

    def files(self, *patterns: str) -> Self:
        """Download only files these globs match, and skip working out the layout."""
        return self._choosing(allow_patterns=_patterns(patterns))


class CivitaiRepo(Repo[ModelT_co]):
    """A model on Civitai, named by its model id; its newest version unless pinned."""

    __slots__ = ()
    PROVIDER: ClassVar[Provider] = "civitai"

    def version(self, version_id: str | int) -> Self:
        """Pin one version by its id."""
        pinned = parse_ref(f"versions/{str(version_id).strip()}", "civitai")
        return self._choosing(version_id=str(pinned).removeprefix("versions/"))


class ModelScopeRepo(Repo[ModelT_co]):
    """A model in a ModelScope repository."""

    __slots__ = ()
    PROVIDER: ClassVar[Provider] = "modelscope"

    def revision(self, name: str) -> Self:
        """Pin a branch, tag or commit."""
        return self._choosing(revision=_filled("revision", name))

    def files(self, *patterns: str) -> Self:
        """Download only files these globs match."""
        return self._choosing(allow_patterns=_patterns(patterns))


def _slot_and_ref(
    ref_or_name: str | None, default_ref: str | None, name: str, ref: str
) -> tuple[str, str]:
    """Sort out the two ways of writing a repo; return slot name (may be empty) and ref."""
    given = {"ref_or_name": ref_or_name, "default_ref": default_ref, "name": name, "ref": ref}
    for argument, value in given.items():
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{argument} must be a str, not {value!r}")
    names, refs = [name or None], [ref or None, default_ref]
    (names if default_ref is not None or ref else refs).append(ref_or_name)
    slot_name = _only("slot name", names)
    text = _only("ref", refs)
    if not text:
        raise BindingError("the ref is missing: write it as 'owner/repo'", code="empty_ref")
    if slot_name is not None and not re.fullmatch(_SLOT_NAME, slot_name):
        raise BindingError(
            f"{slot_name!r} is not a slot name: use letters, digits and '_', as in 'base_model'",
            code="bad_slot_name",
        )
    return slot_name or "", text


def _only(what: str, values: list[str | None]) -> str | None:
    given = [value.strip() for value in values if value is not None]
    if len(given) > 1:
        raise BindingError(f"the {what} is given twice: {given!r}", code="given_twice")
    return given[0] if given else None


def _filled(what: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    if not value.strip():
        raise BindingError(f"{what}() got a blank text: name the {what}", code=f"empty_{what}")
    return value.strip()


def _inside(what: str, path: str) -> str:
    """Return a path below the repository's root, in its one spelling."""
    text = _filled(what, path)
    parts = text.strip("/").split("/")
    if text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in parts):
        raise BindingError(
            f"{text!r} leaves the repository: write a path such as 'text_encoder'",
            code=f"bad_{what}",
        )
    return "/".join(parts)


def _patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise BindingError(
            "files() got no glob: name at least one, such as '*.safetensors'", code="empty_files"
        )
    return tuple(dict.fromkeys(_filled("files", pattern) for pattern in patterns))
