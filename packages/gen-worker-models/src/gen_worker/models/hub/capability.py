"""What a job's token allows. The worker reads it unverified: the hub is the authority."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gen_worker.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Capability", "Permissions", "capability_from_claims", "read_capability"]

_KIND = "worker_capability"


class Permissions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a new token for one job is to allow; names are `owner/name`."""

    read: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    """These it may read, too."""
    create_owner: str = ""
    """Whose repositories it may make."""
    create_names: tuple[str, ...] = ()
    """Empty means any of that owner."""
    file_owners: tuple[str, ...] = ()
    """Whose files it may read and write that belong to no repository, as outputs of jobs do."""
    max_total_bytes: int = 0
    max_bytes_per_file: int = 0

    def claims(self) -> dict[str, Any]:
        """Return what a hub signs."""
        repositories = _lower(self.publish)
        claims: dict[str, Any] = {
            "cap_kind": _KIND,
            "tensor_repos_read": _lower(self.read),
            "tensor_repos_version_create": repositories,
            "tensor_repos_variant_create": repositories,
            "max_total_bytes": self.max_total_bytes,
            "max_bytes_per_file": self.max_bytes_per_file,
        }
        if self.file_owners:
            claims["file_owners"] = _lower(self.file_owners)
        if self.create_owner:
            claims["tensor_repo_create"] = {
                "owner": self.create_owner.lower(),
                "allowed_names": _lower(self.create_names),
                "allow_any_name": not self.create_names,
            }
        return claims


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """The repositories one job may read and publish to, names in lower case."""

    read: frozenset[str] = frozenset()
    publish: frozenset[str] = frozenset()
    create_owner: str = ""
    create_names: frozenset[str] = frozenset()
    creates_any_name: bool = False
    file_owners: frozenset[str] = frozenset()
    max_total_bytes: int = 0
    """Of files under way at once; 0 is no limit."""
    max_bytes_per_file: int = 0

    @property
    def owners(self) -> frozenset[str]:
        """Owners of the repositories and files it names."""
        names = {name.partition("/")[0] for name in self.read | self.publish}
        return frozenset(names | {self.create_owner}) - {""} | self.file_owners

    def may_read(self, repository: str) -> bool:
        return repository.lower() in self.read | self.publish

    def may_publish(self, repository: str) -> bool:
        return repository.lower() in self.publish

    def may_create(self, owner: str, name: str) -> bool:
        is_named = self.creates_any_name or name.lower() in self.create_names
        return is_named and owner.lower() == self.create_owner

    def check_publish(self, owner: str, name: str, *, exists: bool) -> None:
        """Refuse early what the hub would refuse late.

        Raises:
            ValidationError: The token does not allow it.
        """
        if not self.may_publish(f"{owner}/{name}"):
            raise ValidationError(
                f"the token lacks the permission repo-version:create for '{owner}/{name}'"
            )
        if not exists and not self.may_create(owner, name):
            raise ValidationError(
                f"'{owner}/{name}' does not exist, and the token lacks the permission "
                "tensor-repo:create for it"
            )

    def check_read(self, owner: str, name: str) -> None:
        """Refuse early what the hub would refuse late.

        Raises:
            ValidationError: The token does not allow it.
        """
        if not self.may_read(f"{owner}/{name}"):
            raise ValidationError(
                f"the token lacks the permission tensor-repo:read for '{owner}/{name}'"
            )


def read_capability(token: str) -> Capability | None:
    """Return what a token says it allows; None when it is no job's token."""
    if token.count(".") != 2:
        return None
    import jwt

    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return capability_from_claims(claims)


def capability_from_claims(claims: Mapping[str, Any]) -> Capability | None:
    """Read the claims of a token; None when its `cap_kind` is another or none."""
    if claims.get("cap_kind") != _KIND:
        return None
    version = _names(claims, "tensor_repos_version_create")
    variant = _names(claims, "tensor_repos_variant_create")
    create = claims.get("tensor_repo_create")
    create = create if isinstance(create, dict) else {}
    return Capability(
        read=_names(claims, "tensor_repos_read"),
        publish=version | variant or _names(claims, "tensor_repos_update"),
        create_owner=str(create.get("owner") or "").lower(),
        create_names=_names(create, "allowed_names"),
        creates_any_name=create.get("allow_any_name") is True,
        file_owners=_names(claims, "file_owners"),
        max_total_bytes=_amount(claims.get("max_total_bytes")),
        max_bytes_per_file=_amount(claims.get("max_bytes_per_file")),
    )


def _names(claims: Mapping[str, Any], key: str) -> frozenset[str]:
    value = claims.get(key)
    items = value if isinstance(value, list) else ()
    return frozenset(item.strip().lower() for item in items if isinstance(item, str))


def _lower(names: Collection[str]) -> list[str]:
    return sorted(name.lower() for name in names)


def _amount(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
