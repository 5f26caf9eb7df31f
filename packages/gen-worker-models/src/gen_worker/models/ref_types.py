"""The four kinds of model ref as values that cannot be wrong.

Whoever holds one may put its parts into a path or a URL: every part was checked when it was made.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

import msgspec

from gen_worker.errors import ValidationError

__all__ = [
    "DEFAULT_TAG",
    "CivitaiRef",
    "HFRef",
    "ModelScopeRef",
    "Provider",
    "Ref",
    "RefError",
    "TensorhubRef",
]

Provider = Literal["tensorhub", "hf", "civitai", "modelscope"]

DEFAULT_TAG = "prod"
"""What an absent tag means wherever a ref is read."""

DIGEST_WITH_TAG = "it has a tag and a digest: drop the tag"

# Texts, not compiled patterns: `re` keeps each after its first use, and importing stays cheap.
_HUB_SEGMENT = r"[a-z0-9][a-z0-9._-]*"
_HUB_CHARS = "a-z, 0-9, '.', '_' and '-'"
_HUB_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_HUB_NAME_CHARS = f"at most 63 of {_HUB_CHARS}"
_DIGEST = r"(?:blake3|sha256):[0-9a-f]{64}"
# The hub library's own rule; its `--` and `..` would also be ambiguous in cache directory names.
_HF_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_HF_MAX_CHARS = 96
_MODELSCOPE_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_FLAVOR = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# Names of git branches and tags, less what would need quoting in a path or a URL.
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*"
_CIVITAI_ID = r"[1-9][0-9]{0,17}"


class RefError(ValidationError):
    """A text is not a model ref of its provider; `code` says which rule it breaks."""

    def __init__(self, problem: str, *, ref: str, provider: str, code: str, path: str = "") -> None:
        shown = ref if len(ref) <= 120 else f"{ref[:120]}…"
        super().__init__(f"{shown!r} is not a {provider} model ref: {problem}", path=path)
        self.problem = problem
        self.ref = ref
        self.provider = provider
        self.code = code

    def at(self, path: str) -> RefError:
        """Return the same error at a place of the input, such as `$.model`."""
        return RefError(
            self.problem, ref=self.ref, provider=self.provider, code=self.code, path=path
        )


class TensorhubRef(msgspec.Struct, frozen=True, kw_only=True):
    """`owner/repo:tag[#flavor]`, or pinned `owner/repo@blake3:<hex>[#flavor]`."""

    provider: ClassVar[Provider] = "tensorhub"

    owner: str
    repo: str
    tag: str = ""
    """`prod` when neither a tag nor a digest is given; empty when pinned by a digest."""
    digest: str = ""
    flavor: str = ""

    def __post_init__(self) -> None:
        _require(self, "owner", self.owner, _HUB_SEGMENT, _HUB_CHARS)
        _require(self, "repo", self.repo, _HUB_SEGMENT, _HUB_CHARS)
        if self.digest:
            _require(self, "digest", self.digest, _DIGEST, "'blake3:' and 64 hex digits")
            if self.tag:
                raise _error(self, "digest_with_tag", DIGEST_WITH_TAG)
        elif not self.tag:
            msgspec.structs.force_setattr(self, "tag", DEFAULT_TAG)
        if self.tag:
            _require(self, "tag", self.tag, _HUB_NAME, _HUB_NAME_CHARS)
        if self.flavor:
            _require(self, "flavor", self.flavor, _HUB_NAME, _HUB_NAME_CHARS)

    @property
    def repository(self) -> str:
        """The text without tag and flavor, but with the digest that pins it."""
        pin = f"@{self.digest}" if self.digest else ""
        return f"{self.owner}/{self.repo}{pin}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{_suffix('#', self.flavor)}"


class HFRef(msgspec.Struct, frozen=True, kw_only=True):
    """`owner/repo[@revision][#flavor]`, upper and lower case kept.

    The flavor names a cache entry only; it selects no files.
    """

    provider: ClassVar[Provider] = "hf"

    repo_id: str
    revision: str = ""
    flavor: str = ""

    def __post_init__(self) -> None:
        _require_repo_id(self, _HF_SEGMENT)
        is_ambiguous = "--" in self.repo_id or ".." in self.repo_id
        if is_ambiguous or self.repo_id.endswith(".git") or len(self.repo_id) > _HF_MAX_CHARS:
            raise _error(
                self,
                "bad_repo",
                f"{self.repo_id!r} must have at most {_HF_MAX_CHARS} characters, no '--' or '..' "
                "and no '.git' at its end",
            )
        _require_optional(self, "revision", self.revision, _REVISION)
        _require_optional(self, "flavor", self.flavor, _FLAVOR)

    @property
    def repository(self) -> str:
        return self.repo_id

    def __str__(self) -> str:
        return f"{self.repo_id}{_suffix('@', self.revision)}{_suffix('#', self.flavor)}"


class ModelScopeRef(msgspec.Struct, frozen=True, kw_only=True):
    """`owner/repo[@revision]`, upper and lower case kept."""

    provider: ClassVar[Provider] = "modelscope"

    repo_id: str
    revision: str = ""

    def __post_init__(self) -> None:
        _require_repo_id(self, _MODELSCOPE_SEGMENT)
        _require_optional(self, "revision", self.revision, _REVISION)

    @property
    def repository(self) -> str:
        return self.repo_id

    def __str__(self) -> str:
        return f"{self.repo_id}{_suffix('@', self.revision)}"


class CivitaiRef(msgspec.Struct, frozen=True, kw_only=True):
    """A model id, its newest version meant; or `versions/<id>`, exactly that version.

    Version ids are unique on their own, so a pinned ref does not repeat the model id.
    """

    provider: ClassVar[Provider] = "civitai"

    model_id: str = ""
    version_id: str = ""

    def __post_init__(self) -> None:
        if bool(self.model_id) == bool(self.version_id):
            raise _error(self, "bad_id", "it needs a model id or a version id, not both")
        number = self.model_id or self.version_id
        if not re.fullmatch(_CIVITAI_ID, number):
            raise _error(self, "bad_id", f"{number!r} is not a positive number")

    @property
    def repository(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"versions/{self.version_id}" if self.version_id else self.model_id


Ref = TensorhubRef | HFRef | CivitaiRef | ModelScopeRef


def _suffix(sign: str, value: str) -> str:
    return f"{sign}{value}" if value else ""


def _error(ref: Ref, code: str, problem: str) -> RefError:
    return RefError(problem, ref=str(ref), provider=ref.provider, code=code)


def _require(ref: Ref, part: str, value: str, pattern: str, allowed: str) -> None:
    if not re.fullmatch(pattern, value):
        raise _error(ref, f"bad_{part}", f"its {part} {value!r} is not made of {allowed}")


def _require_optional(ref: Ref, part: str, value: str, pattern: str) -> None:
    if value and (".." in value or not re.fullmatch(pattern, value)):
        raise _error(ref, f"bad_{part}", f"{value!r} is no name of a {part}")


def _require_repo_id(ref: HFRef | ModelScopeRef, segment: str) -> None:
    owner, _, repo = ref.repo_id.partition("/")
    if ":" in repo:
        raise _error(ref, "bad_repo", "it has no tags: pin it with '@<revision>'")
    for part, value in (("owner", owner), ("repo", repo)):
        _require(ref, part, value, segment, "A-Z, a-z, 0-9, '.', '_' and '-'")
