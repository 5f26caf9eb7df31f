"""Model refs: one strict grammar per provider, one canonical text, one identity.

A ref says which files; which provider holds them travels beside it, never inside the text. The
canonical text of a value is `str(value)`, and `parse_ref(str(value), value.provider) == value`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from gen_worker.models.ref_types import (
    DEFAULT_TAG,
    DIGEST_WITH_TAG,
    CivitaiRef,
    HFRef,
    ModelScopeRef,
    Provider,
    Ref,
    RefError,
    TensorhubRef,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "DEFAULT_TAG",
    "CivitaiRef",
    "HFRef",
    "ModelScopeRef",
    "Provider",
    "Ref",
    "RefError",
    "TensorhubRef",
    "identity",
    "parse_prefixed_ref",
    "parse_ref",
    "wire_index",
]

T = TypeVar("T")

_MAX_CHARS = 512
_PREFIXES: dict[str, Provider] = {
    "tensorhub": "tensorhub",
    "cozy": "tensorhub",
    "hf": "hf",
    "civitai": "civitai",
    "modelscope": "modelscope",
}

_DIGEST_SIGN = r"@(sha256|blake3):"
_CIVITAI_ID = r"0*([1-9][0-9]{0,17})"
_CIVITAI_VERSION = r"(?:^versions/|(?:modelVersionId|model_version_id|version_id)=)([0-9]+)(?=$|&)"


def parse_ref(text: str, provider: str = "tensorhub") -> Ref:
    """Read a ref as its provider writes it; the text carries no provider prefix.

    Raises:
        RefError: The text breaks a rule of the grammar, or there is no such provider.
    """
    try:
        return _parse(text, provider)
    except (_Flaw, RefError) as error:
        shown = text if isinstance(text, str) else repr(text)
        raise RefError(error.problem, ref=shown, provider=provider, code=error.code) from None


def parse_prefixed_ref(text: str, default: Provider = "tensorhub") -> Ref:
    """Read what a person typed: `hf:owner/repo`, `civitai:123`, or a bare ref of `default`.

    For command lines and developer tools only. Everywhere else the provider is separate data.
    """
    head, colon, rest = text.strip().partition(":")
    provider = _PREFIXES.get(head.strip().lower()) if colon else None
    return parse_ref(rest, provider) if provider else parse_ref(text, default)


def identity(ref: Ref) -> str:
    """Return the one key that names `ref` across providers, in caches and in job lists.

    `parse_prefixed_ref` reads it back. Messages to an orchestrator carry `str(ref)` and the
    provider in fields of their own.
    """
    return f"{ref.provider}:{ref}"


def wire_index(entries: Mapping[str, T]) -> dict[str, T]:
    """Make an orchestrator's map, keyed by refs as it spells them, readable by canonical text.

    Orchestrators differ in how they spell the default tag: some send `:latest` for what an
    author declared as `:prod`, some send no tag at all. An entry under any of the three answers
    for the others, unless those have an entry of their own.
    """
    index = dict(entries)
    parsed = {given: ref for given in entries if (ref := _hub_ref_or_none(given)) is not None}
    for given, ref in parsed.items():
        index.setdefault(str(ref), entries[given])
    for given, ref in parsed.items():
        if ref.tag in (DEFAULT_TAG, "latest"):
            for tag in (DEFAULT_TAG, "latest"):
                alias = str(msgspec.structs.replace(ref, tag=tag))
                index.setdefault(alias, entries[given])
    return index


def _hub_ref_or_none(text: str) -> TensorhubRef | None:
    try:
        ref = parse_ref(text)
    except RefError:
        return None
    return ref if isinstance(ref, TensorhubRef) else None


class _Flaw(ValueError):
    """What is wrong with a text, before it is known to whom to tell it."""

    def __init__(self, code: str, problem: str) -> None:
        self.code = code
        self.problem = problem


def _parse(text: str, provider: str) -> Ref:
    if provider not in _PARSERS:
        known = ", ".join(map(repr, _PARSERS))
        raise _Flaw("unsupported_provider", f"there is no such provider, only {known}")
    if not isinstance(text, str):
        raise _Flaw("ref_not_text", "it is no text")
    if len(text) > _MAX_CHARS:
        raise _Flaw("too_long", f"it has {len(text)} characters, at most {_MAX_CHARS} are allowed")
    # Before any case folding: the Kelvin sign, for one, lower-cases to an ASCII `k`.
    if not text.isascii():
        raise _Flaw("bad_character", "it has characters beyond ASCII")
    if "://" in text and provider != "civitai":
        raise _Flaw("url", "URLs are not model refs: name the repository as 'owner/repo'")
    prefix, colon, rest = text.partition(":")
    named = _PREFIXES.get(prefix.strip().lower()) if colon else None
    if named:
        raise _Flaw(
            "provider_prefix",
            f"the provider is not part of it: write {rest.strip()!r} with the provider {named!r}",
        )
    return _PARSERS[provider](_filled(text, "ref"))


def _parse_tensorhub(text: str) -> TensorhubRef:
    body, flavor = _split_flavor(text.lower())
    digest = tag = ""
    sign = re.search(_DIGEST_SIGN, body)
    if sign:
        digest = f"{sign[1]}:{_filled(body[sign.end() :], 'digest')}"
        body = body[: sign.start()]
        if ":" in body:
            raise _Flaw("digest_with_tag", DIGEST_WITH_TAG)
    if "@" in body:
        raise _Flaw("unknown_digest", "a digest is written '@blake3:<64 hex digits>'")
    if ":" in body:
        body, _, tag = body.rpartition(":")
        tag = _filled(tag, "tag")
    owner, repo = _split_repo_id(body)
    return TensorhubRef(owner=owner, repo=repo, tag=tag, digest=digest, flavor=flavor)


def _parse_hf(text: str) -> HFRef:
    body, flavor = _split_flavor(text)
    body, revision = _split_revision(body)
    repo_id = "/".join(_split_repo_id(body))
    return HFRef(repo_id=repo_id, revision=revision, flavor=flavor)


def _parse_modelscope(text: str) -> ModelScopeRef:
    body, revision = _split_revision(text)
    return ModelScopeRef(repo_id="/".join(_split_repo_id(body)), revision=revision)


def _parse_civitai(text: str) -> CivitaiRef:
    version = re.search(_CIVITAI_VERSION, text)
    number = re.fullmatch(_CIVITAI_ID, version[1] if version else text)
    if number is None:
        raise _Flaw("bad_id", "write the model id, such as '4201', or 'versions/<id>'")
    return CivitaiRef(version_id=number[1]) if version else CivitaiRef(model_id=number[1])


_PARSERS: dict[str, Callable[[str], Ref]] = {
    "tensorhub": _parse_tensorhub,
    "hf": _parse_hf,
    "civitai": _parse_civitai,
    "modelscope": _parse_modelscope,
}


def _split_flavor(text: str) -> tuple[str, str]:
    body, sign, flavor = text.partition("#")
    # What follows a `?` was never read by any version, so it does not tell two refs apart.
    return (body, _filled(flavor.partition("?")[0], "flavor")) if sign else (body, "")


def _split_revision(text: str) -> tuple[str, str]:
    body, sign, revision = text.partition("@")
    return (body, _filled(revision, "revision")) if sign else (body, "")


def _split_repo_id(body: str) -> tuple[str, str]:
    owner, slash, repo = body.partition("/")
    if not slash:
        raise _Flaw("missing_slash", "it has no '/': write it as 'owner/repo'")
    if "/" in repo:
        raise _Flaw("extra_slash", "it has more than one '/': write it as 'owner/repo'")
    return _filled(owner, "owner"), _filled(repo, "repo")


def _filled(value: str, part: str) -> str:
    value = value.strip()
    if not value:
        raise _Flaw(f"empty_{part}", f"its {part} is empty: {_WHEN_EMPTY[part]}")
    return value


_WHEN_EMPTY = {
    "ref": "write it as 'owner/repo'",
    "owner": "write it as 'owner/repo'",
    "repo": "write it as 'owner/repo'",
    "tag": f"name one, or leave the ':' out for {DEFAULT_TAG!r}",
    "digest": "give all 64 hex digits",
    "flavor": "name one, or leave the '#' out",
    "revision": "name one, or leave the '@' out",
}
